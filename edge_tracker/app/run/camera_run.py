"""One camera of a run: detection, tracking and writing overlap, each in a thread of its own, frames in order.

source -> detect -> [queue] -> embed, track, count, publish -> [queue] -> write
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from edge_tracker.app.config.schema import Camera, DetectorConfig
from edge_tracker.app.handover import put_while
from edge_tracker.app.open_tracker import FRAME_RATE
from edge_tracker.app.outputs.writer import Writer, openers_of
from edge_tracker.app.replay.recording import Recorder
from edge_tracker.app.run.cadence import Cadence
from edge_tracker.app.run.finders import FindsObjects
from edge_tracker.app.run.reading import frames_of
from edge_tracker.app.run.reporting import Reporter
from edge_tracker.app.run.state import CameraState
from edge_tracker.app.sources.frames import Frame, Source
from edge_tracker.deepsort import EdgeDeepSort
from edge_tracker.detection.result import Detections
from edge_tracker.errors import EdgeTrackerError, InputError
from edge_tracker.track_arrays import TrackArrays

log = logging.getLogger(__name__)

# A frame of a live source counts as many frame times as have passed, but at least this much of one.
LEAST_STEP = 0.1
QUEUE = 2  # frames between detection and tracking
# Identities left out after a crash: more than are ever given between two savings.
GIVEN_SINCE = 1000
NONE_ALIVE = 1e9  # frames after which nobody is left


class CameraParts(NamedTuple):
    """The parts of one camera, opened: its frames pass through them in this order.

    Attributes:
        source: its frames; stays the caller's to close.
        finder: detects objects.
        tracker: its own tracker.
        writer: its outputs.
    """

    source: Source
    finder: FindsObjects
    tracker: EdgeDeepSort
    writer: Writer


class Saving(NamedTuple):
    """The saving of a camera's state.

    Attributes:
        save: saves a state.
        every: seconds between two savings.
    """

    save: Callable[[CameraState], None]
    every: float


class _Detected(NamedTuple):
    frame: Frame
    found: Detections | None  # None for a frame that the detector did not look at


class CameraRun:
    """One camera, opened.

    Args:
        parts: the parts that process its frames.
        cadence: chooses the frames that the finder runs on.
        reporter: makes results of its tracks.
        saving: the saving of its state; None to save nothing.

    Attributes:
        source, writer: of the parts; stats: of the reporter.
        cadence: as given, until `change`.
        error: the error that ended the camera, or None.
        recorder: records the run; None if it is not recorded.
        resumed: a sentence about the earlier run that it continues; "" for none.
    """

    def __init__(self, parts: CameraParts, cadence: Cadence, reporter: Reporter, saving: Saving | None = None) -> None:
        self.source, self._finder, self._tracker, self.writer = parts
        self.cadence, self._reporter, self.stats = cadence, reporter, reporter.stats
        if self.source.live:
            self.stats.lost["frames"] = 0  # from the start: nobody sees a counter rise that begins at 1
        self.error: BaseException | None = None
        self.recorder: Recorder | None = None
        self._rate = self.source.fps or FRAME_RATE
        self._time: float | None = None
        self._gap = 0.0  # frames that passed before the first one, or since the last that the tracker saw
        self.resumed = ""
        self._saving = saving
        self._next_save = math.inf if saving is None else time.monotonic() + saving.every
        self._new: Camera | None = None
        self._max_frames: int | None = None
        self._queue: queue.Queue[_Detected | None] = queue.Queue(1 if self.source.live else QUEUE)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"{name} {self.stats.name}", daemon=True)
            for name, work in (("detect", self._detect), ("track", self._track))
        ]

    # ---- from outside ------------------------------------------------------------------------------------------------

    @property
    def camera(self) -> Camera:
        """The camera's part of the configuration in force."""
        return self._reporter.camera

    def start(self, max_frames: int | None) -> None:
        """Start the threads; the camera ends after `max_frames`, if given."""
        self._max_frames = max_frames
        self.writer.start()
        for thread in reversed(self._threads):  # the first needs the second to be alive
            thread.start()

    @property
    def running(self) -> bool:
        """True while frames are still processed."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Take no more frames; those already taken are still processed."""
        self._stop.set()

    def finish(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the threads, and close the outputs; False if a thread still runs.

        Raises:
            OutputError: a result cannot be written.
        """
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self.running:
            log.error("%s: still busy after %.0f s; not waiting any longer", self.stats.name, timeout)
        elif self.recorder is not None:
            self.recorder.close()
        self.writer.finish(max(1.0, deadline - time.monotonic()))
        return not self.running

    def change(self, camera: Camera, detector: DetectorConfig) -> None:
        """Apply other zones, lines, outputs and another cadence from the next frame on."""
        if camera.outputs != self.camera.outputs:
            self.writer.reopen(openers_of(camera.outputs, self.source.fps, self.source.live))
        self.cadence = Cadence(detector)
        self._new = camera

    def save(self, clean: bool = False) -> None:
        """Save the state, unless nothing is to be saved. Call only between frames, or when no thread runs.

        Args:
            clean: True if no identity will be given afterwards.
        """
        if self._saving is not None:
            self._next_save = time.monotonic() + self._saving.every
            meta = {**self._reporter.state(), "next_id": self._tracker.next_id}
            self._saving.save(CameraState(self._tracker.state_dict(), meta, clean=clean))

    def resume(self, state: CameraState, within: float) -> None:
        """Continue from an earlier run's state: with its tracks if it is at most `within` seconds old."""
        meta = state.meta
        recent = state.age is not None and state.age <= within
        try:
            self._tracker.load_state_dict(state.tracker)
            self._tracker.skip_ids(0 if state.clean else GIVEN_SINCE)
            self._gap = state.age * self._rate if recent and state.age is not None else NONE_ALIVE
        except InputError as error:
            log.warning("%s: the saved tracks cannot be used (%s)", self.stats.name, error)
            self._tracker.skip_ids(int(meta["next_id"]) - 1 + GIVEN_SINCE)
        self._reporter.load(meta)
        age = f"{state.age:.0f} s old" if state.age is not None else "of unknown age"
        self.resumed = f"continuing from a saved state {age}; the next identity is {self._tracker.next_id}"

    # ---- the threads -------------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except EdgeTrackerError as error:
            self._fail(error)
        except Exception as error:  # a bug: of one camera, so the others go on
            log.exception("%s: failed", self.stats.name)
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.stats.problem, self.stats.connected = str(error), False
        self._stop.set()

    def _detect(self) -> None:
        taken = 0
        try:
            for frame in frames_of(self.source, self._stop, self.stats):
                found = None
                if self.cadence.due():
                    start = time.perf_counter()
                    found = self._finder.find(frame)
                    seconds = time.perf_counter() - start
                    self.stats.stages["detect"].observe(seconds)
                    if found is not None:
                        self.cadence.took(seconds)
                if not self._hand_on(_Detected(frame, found)):
                    return
                taken += 1
                if taken == self._max_frames:
                    return
        finally:
            self._hand_on(None)

    def _hand_on(self, item: _Detected | None) -> bool:
        """Wait for room in the queue; False if the tracking has ended."""
        handed = put_while(self._threads[1].is_alive, self._queue, item)
        self.stats.queues["track"] = self._queue.qsize()
        return handed

    def _track(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._work(item)
            except InputError as error:  # bad numbers of a detector, or a bad frame: one frame is lost, not the camera
                if not self.source.live:
                    raise
                log.error("%s: frame %d is left out: %s", self.stats.name, item.frame.index, error)
                self.stats.lost["frames"] += 1
        if not self.source.live:
            self._reporter.end_objects()

    def _work(self, item: _Detected) -> None:
        frame, found, stats, reporter = self._reporter.numbered(item.frame), item.found, self.stats, self._reporter
        self._apply_changes()
        self._gap += self._step(frame)
        start = time.perf_counter()
        embedding = 0.0
        if found is None:
            arrays = self._tracker.predicted(self._gap)
        else:
            arrays = self._update(frame, found)
            embedding = self._tracker.embed_seconds
        tracks = reporter.results(frame, arrays, predicted=found is None)
        stats.stages["embed"].observe(embedding)
        stats.stages["track"].observe(time.perf_counter() - start - embedding)
        reporter.publish(frame, tracks)
        self.writer.write(frame, tracks)
        reporter.count(frame, self.source.live)
        if time.monotonic() >= self._next_save:
            self.save()

    def _update(self, frame: Frame, found: Detections) -> TrackArrays:
        """The tracks after the detections of a frame, which are counted and recorded."""
        dt, self._gap = self._gap, 0.0
        arrays = self._tracker.update(found.ltwh, found.confidence, found.class_id, frame=frame.image, dt=dt)
        if self.recorder is not None:
            size = None if frame.image is None else frame.image.shape
            self.recorder.write(
                frame.index, frame.time, dt, size, found.ltwh, found.confidence, found.class_id, found.names, arrays
            )
        self.stats.detections += len(found)
        self.stats.embedded += self._tracker.embedded
        self._reporter.names = list(found.names)
        return arrays

    def _apply_changes(self) -> None:
        camera, self._new = self._new, None
        if camera is not None:
            self._reporter.change(camera)

    def _step(self, frame: Frame) -> float:
        """Frames since the last one; for a live source, which may lose some, by the time that has passed."""
        before, self._time = self._time, frame.time
        if not self.source.live or before is None:
            return 1.0
        passed = (frame.time - before) * self._rate
        return max(LEAST_STEP, passed) if self._tracker.method == "edge" else max(1.0, float(round(passed)))
