"""One camera of a run: detection, tracking and writing overlap, each in a thread of its own, frames in order.

source -> detect -> [queue] -> embed, track, count, tell -> [queue] -> write
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from edge_tracker.app.config.schema import Camera, DetectorConfig
from edge_tracker.app.counting.events import ObjectEvents
from edge_tracker.app.counting.zones import ZoneMonitor
from edge_tracker.app.frame_results import FrameTracks, ObjectEvent, ZoneEvent, reported
from edge_tracker.app.handover import WAKE_S, put_while
from edge_tracker.app.open_tracker import FRAME_RATE
from edge_tracker.app.outputs.writer import Writer, openers_of
from edge_tracker.app.replay.recording import Recorder
from edge_tracker.app.run.state import CameraState
from edge_tracker.app.sources.frames import Frame, Source
from edge_tracker.app.sources.live import LiveSource
from edge_tracker.app.stats import CameraStats
from edge_tracker.deepsort import EdgeDeepSort
from edge_tracker.detection.result import Detections
from edge_tracker.errors import EdgeTrackerError, InputError
from edge_tracker.track_arrays import TrackArrays

log = logging.getLogger(__name__)

# A frame of a live source counts for as long as it took to come, but for at least so much of a frame.
LEAST_STEP = 0.1
QUEUE = 2  # frames between the stages
MOST_SKIPPED = 30
# Identities left out after a crash: more than are ever given between two savings.
GIVEN_SINCE = 1000
NONE_ALIVE = 1e9  # frames after which nobody is left


class FindsObjects(Protocol):
    """A detector, or what stands for one, with what to call it."""

    name: str

    def find(self, frame: Frame) -> Detections | None:
        """The detections of a frame; None where nobody could look at it."""


class Audience(Protocol):
    """Who is told of each frame at once, and may not hold it up."""

    def __call__(self, camera: str, frame: Frame, tracks: FrameTracks) -> None: ...


class Cadence:
    """Which frames the detector looks at: every Nth, or as many as a frame rate leaves time for."""

    def __init__(self, config: DetectorConfig) -> None:
        self._every, self._hold = config.every, config.hold_fps
        self._since = 0
        self._seconds: float | None = None  # that a detection takes, smoothed

    @property
    def every(self) -> int:
        """N at present."""
        if self._hold is None:
            return self._every
        return min(MOST_SKIPPED, max(1, math.ceil((self._seconds or 0.0) * self._hold)))

    def due(self) -> bool:
        """Whether the next frame is one for the detector."""
        self._since += 1
        if self._since < self.every and self._seconds is not None:
            return False
        self._since = 0
        return True

    def took(self, seconds: float) -> None:
        """A detection took so long."""
        self._seconds = seconds if self._seconds is None else 0.8 * self._seconds + 0.2 * seconds


class _Detected(NamedTuple):
    frame: Frame
    found: Detections | None  # None for a frame that the detector did not look at


class CameraRun:
    """One camera, opened.

    Args:
        camera: what it is to do.
        source: its frames; stays the caller's to close.
        finder: finds the objects.
        detector: how often it is asked.
        tracker: its own tracker.
        writer: its outputs.
        stats: its figures.
        update_every: least seconds between `update` events of an object.
        audience: who is told of each frame.
        save: takes the camera's state; called every `save_every` seconds.
        save_every: seconds; 0 for never.

    Attributes:
        error: what ended the camera, if something did.
        recorder: what records the run, if it is recorded.
        resumed: what was taken up of an earlier run, in words; "" for nothing.
    """

    def __init__(
        self,
        camera: Camera,
        source: Source,
        finder: FindsObjects,
        detector: DetectorConfig,
        tracker: EdgeDeepSort,
        writer: Writer,
        stats: CameraStats,
        update_every: float,
        audience: list[Audience],
        save: Callable[[CameraState], None] | None = None,
        save_every: float = 0.0,
    ) -> None:
        self.camera, self.source, self.stats, self.writer = camera, source, stats, writer
        if source.live:
            stats.lost["frames"] = 0  # from the start: nobody sees a counter rise that begins at 1
        self.error: BaseException | None = None
        self.cadence = Cadence(detector)
        self.recorder: Recorder | None = None
        self._finder, self._tracker, self._audience = finder, tracker, audience
        self._monitor = ZoneMonitor(camera.zones, camera.lines)
        self._events = ObjectEvents(update_every)
        self._reported: set[int] = set()  # of the tracks that live, so that it stays small
        self._names: list[str] = []
        self._rate = source.fps or FRAME_RATE
        self._time: float | None = None
        self._last: Frame | None = None
        self._gap = 0.0  # frames that passed before the first one, or since the last that the tracker saw
        self._frames_before = self._tracks_before = 0  # counted by earlier runs
        self.save, self._save_every = save, save_every
        self.resumed = ""
        self._next_save = time.monotonic() + save_every
        self._new: Camera | None = None
        self._max_frames: int | None = None
        self._queue: queue.Queue[_Detected | None] = queue.Queue(1 if source.live else QUEUE)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"{name} {stats.name}", daemon=True)
            for name, work in (("detect", self._detect), ("track", self._track))
        ]

    # ---- from outside ------------------------------------------------------------------------------------------------

    def start(self, max_frames: int | None) -> None:
        """Begin; `max_frames` ends the camera after so many."""
        self._max_frames = max_frames
        self.writer.start()
        for thread in reversed(self._threads):  # who hands on looks whether the next one is there
            thread.start()

    @property
    def running(self) -> bool:
        """Whether frames are still worked on."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Take no more frames; what was taken is still worked on."""
        self._stop.set()

    def finish(self, timeout: float) -> bool:
        """Wait so many seconds for the threads, and close the outputs; False if something still hangs.

        Raises:
            OutputError: a result cannot be written.
        """
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self.running:
            log.error("%s: still busy after %.0f s; left to itself", self.stats.name, timeout)
        elif self.recorder is not None:
            self.recorder.close()
        self.writer.finish(max(1.0, deadline - time.monotonic()))
        return not self.running

    def change(self, camera: Camera, detector: DetectorConfig) -> None:
        """Take up other zones, lines and outputs, and another cadence, from the next frame on."""
        if camera.outputs != self.camera.outputs:
            self.writer.reopen(openers_of(camera.outputs, self.source.fps, self.source.live))
        self.cadence = Cadence(detector)
        self._new = camera

    def state(self) -> CameraState:
        """What the next run needs to go on. Only between frames, or when nothing runs."""
        meta = {
            "frames": self._frames_before + self.stats.frames,
            "tracks": self._tracks_before + self.stats.tracks,
            "next_id": self._tracker.next_id,
            "reported": sorted(self._reported),
            "names": list(self._names),
            "zones": self._monitor.state(),
            "events": self._events.state(),
        }
        return CameraState(self._tracker.state_dict(), meta)

    def resume(self, state: CameraState, within: float) -> None:
        """Go on from an earlier run's state: with its tracks if it is at most `within` seconds old."""
        meta = state.meta
        recent = state.age is not None and state.age <= within
        try:
            self._tracker.load_state_dict(state.tracker)
            self._tracker.skip_ids(0 if state.clean else GIVEN_SINCE)
            self._gap = state.age * self._rate if recent and state.age is not None else NONE_ALIVE
        except InputError as error:
            log.warning("%s: earlier tracks cannot be taken up (%s)", self.stats.name, error)
            self._tracker.skip_ids(int(meta["next_id"]) - 1 + GIVEN_SINCE)
        self._frames_before, self._tracks_before = int(meta["frames"]), int(meta["tracks"])
        self._reported = set(meta["reported"])
        self._monitor.load(meta["zones"])
        self._events.load(meta["events"])
        self.stats.totals = self._monitor.totals()
        age = f"{state.age:.0f} s old" if state.age is not None else "of unknown age"
        self.resumed = f"going on from a state {age}; the next identity is {self._tracker.next_id}"

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
            for frame in self._frames():
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

    def _frames(self) -> Iterator[Frame]:
        """The source's frames until the run is to end."""
        source, stats = self.source, self.stats
        if not isinstance(source, LiveSource):
            yield from _ahead(source, self._stop, stats)
            return
        while not self._stop.is_set():
            start = time.perf_counter()
            frame = source.poll(WAKE_S)
            stats.dropped, stats.reconnects = source.dropped, source.reconnects
            stats.connected, stats.problem = source.connected, source.problem
            if frame is not None:
                stats.stages["read"].observe(time.perf_counter() - start)
                yield frame

    def _track(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._work(item)
            except InputError as error:  # a detector's numbers, or a frame: one frame is lost, not the camera
                if not self.source.live:
                    raise
                log.error("%s: frame %d is left out: %s", self.stats.name, item.frame.index, error)
                self.stats.lost["frames"] += 1
        if not self.source.live:
            self._end_objects()

    def _end_objects(self) -> None:
        """A file has ended, and with it all that is in it; a live source's objects go on in the next run."""
        if self._last is None:
            return
        frame, ids, boxes, scores = self._last, np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)
        now = (set[int](), frame.time, frame.wall)
        ended: list[ObjectEvent | ZoneEvent] = [*self._events.update(ids, boxes, [], scores, [], *now)]
        ended += self._monitor.update(ids, boxes, [], *now)[1]
        self.stats.totals = self._monitor.totals()
        tracks = FrameTracks(ids, boxes, ids, scores, self._names, events=ended)
        for tell in self._audience:
            tell(self.stats.name, frame, tracks)

    def _work(self, item: _Detected) -> None:
        frame, found, stats = item.frame, item.found, self.stats
        if self._frames_before:
            frame = replace(frame, index=frame.index + self._frames_before)
        self._take_up_changes()
        self._gap += self._step(frame)
        start = time.perf_counter()
        embedding = 0.0
        if found is None:
            arrays = self._tracker.predicted(self._gap)
        else:
            dt, self._gap = self._gap, 0.0
            arrays = self._tracker.update(found.ltwh, found.confidence, found.class_id, frame=frame.image, dt=dt)
            embedding = self._tracker.embed_seconds
            if self.recorder is not None:
                size = None if frame.image is None else frame.image.shape
                self.recorder.write(
                    frame.index, frame.time, dt, size, found.ltwh, found.confidence, found.class_id, found.names, arrays
                )
            stats.detections += len(found)
            stats.embedded += self._tracker.embedded
            self._names = list(found.names)
        tracks = self._result(frame, arrays, predicted=found is None)
        self._last = frame
        stats.stages["embed"].observe(embedding)
        stats.stages["track"].observe(time.perf_counter() - start - embedding)
        for tell in self._audience:
            tell(stats.name, frame, tracks)
        self.writer.write(frame, tracks)
        if self.source.live:
            stats.latency.observe(max(0.0, time.time() - frame.wall))
        stats.count_frame()
        if self.save is not None and self._save_every and time.monotonic() >= self._next_save:
            self._next_save = time.monotonic() + self._save_every
            self.save(self.state())

    def _result(self, frame: Frame, arrays: TrackArrays, predicted: bool) -> FrameTracks:
        """What is reported of a frame, counted and with its events."""
        stats = self.stats
        tracks = reported(arrays, self._names, self.camera.outputs.coast, predicted)
        live = set(arrays.ids.tolist())
        ids = set(tracks.ids.tolist())
        stats.tracks += len(ids - self._reported)
        stats.active = len(ids)
        self._reported = (self._reported | ids) & live
        names = [tracks.class_name(k) for k in range(len(tracks))]
        now = (live, frame.time, frame.wall)
        zones, zone_events = self._monitor.update(tracks.ids, tracks.ltrb, names, *now)
        happened: list[ObjectEvent | ZoneEvent] = [
            *self._events.update(tracks.ids, tracks.ltrb, names, tracks.confidence, zones, *now),
            *zone_events,
        ]
        stats.totals = self._monitor.totals()
        return replace(tracks, zones=zones if self.camera.zones else (), events=happened)

    def _take_up_changes(self) -> None:
        camera, self._new = self._new, None
        if camera is None:
            return
        state = self._monitor.state()
        self._monitor = ZoneMonitor(camera.zones, camera.lines)
        self._monitor.load(state)
        self.camera = camera

    def _step(self, frame: Frame) -> float:
        """Frames since the last one: as many as the time is worth where frames may be lost."""
        before, self._time = self._time, frame.time
        if not self.source.live or before is None:
            return 1.0
        passed = (frame.time - before) * self._rate
        return max(LEAST_STEP, passed) if self._tracker.method == "edge" else max(1.0, float(round(passed)))


def _ahead(source: Source, stop: threading.Event, stats: CameraStats) -> Iterator[Frame]:
    """The frames of a file, the next ones decoded while one is worked on."""
    frames: queue.Queue[Frame | BaseException | None] = queue.Queue(QUEUE)
    gone = threading.Event()

    def put(item: Frame | BaseException | None) -> bool:
        return put_while(lambda: not gone.is_set(), frames, item)

    def read() -> None:
        try:
            start = time.perf_counter()
            for frame in source:
                stats.stages["read"].observe(time.perf_counter() - start)
                if not put(frame):
                    return
                start = time.perf_counter()
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, name=f"read {stats.name}", daemon=True)
    thread.start()
    stats.connected = True
    try:
        while not stop.is_set():
            try:
                item = frames.get(timeout=WAKE_S)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                stats.ended = True
                return
            stats.queues["detect"] = frames.qsize()
            yield item
    finally:
        stats.connected = False
        gone.set()
        thread.join(2 * WAKE_S + 1.0)
