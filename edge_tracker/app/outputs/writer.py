"""A camera's outputs, written by a thread of their own behind a small queue.

For a file everything is written, and a failure ends the run. For a live source nothing may delay or end the tracking:
frames that do not fit into the queue, or cannot be written, are lost and counted, and a failing output is tried again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edge_tracker.app.config.schema import OutputsConfig
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.handover import put_while
from edge_tracker.app.outputs.rotation import Rotation
from edge_tracker.app.outputs.sinks import JsonlSink, MotSink, Sink, VideoSink
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats
from edge_tracker.errors import OutputError

log = logging.getLogger(__name__)

QUEUE = 8  # frames; each is held with its image
TRY_AGAIN_S = 5.0
CHANGE_S = 2.0  # seconds that outputs of a live source may take to be ready for a change

Opener = Callable[[], Sink]


def openers_of(outputs: OutputsConfig, fps: float | None, live: bool) -> dict[str, Opener]:
    """Functions that open the outputs of a configuration, by key."""
    rotation = Rotation(outputs.rotate_mib, outputs.rotate_daily, outputs.keep, live)
    openers: dict[str, Callable[[Path], Sink]] = {
        "mot": lambda path: MotSink(path, rotation),
        "jsonl": lambda path: JsonlSink(path, rotation),
        "video": lambda path: VideoSink(path, fps, rotation),
    }
    return {key: _bound(openers[key], path) for key, path in outputs.paths()}


def _bound(opener: Callable[[Path], Sink], path: Path) -> Opener:
    return lambda: opener(path)


class _Output:
    """One output of a live source: if it fails it is reopened, and the run continues."""

    def __init__(self, key: str, opener: Opener, stats: CameraStats) -> None:
        self._key, self._opener, self._stats = key, opener, stats
        self._sink: Sink | None = opener()
        self.path = self._sink.path
        self._next = 0.0
        stats.lost.setdefault(key, 0)

    def write(self, frame: Frame, tracks: FrameTracks) -> None:
        try:
            if self._sink is None:
                if time.monotonic() < self._next:
                    self._stats.lost[self._key] += 1
                    return
                self._sink = self._opener()
            self._sink.write(frame, tracks)
        except OutputError as error:
            self._fail(str(error))
        else:
            if self._stats.failing.pop(self._key, None) is not None:
                log.info("%s: can be written again; %d frames were lost", self.path, self._stats.lost[self._key])

    def _fail(self, why: str) -> None:
        self._stats.lost[self._key] += 1
        self._next = time.monotonic() + TRY_AGAIN_S
        if self._key not in self._stats.failing:
            log.error("%s; tracking continues, and writing will be tried again", why)
        self._stats.failing[self._key] = why
        self.close()

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close()
            except OutputError as error:
                log.error("%s", error)


class Writer:
    """The outputs of one camera.

    Args:
        openers: opens each output. They are called here, so that an impossible output is known before anything runs.
        live: True if a slow or failing output must not affect the run.
        stats: counts losses and times.

    Attributes:
        error: the error that ended the thread, if any.

    Raises:
        OutputError: an output cannot be opened.
    """

    def __init__(self, openers: dict[str, Opener], live: bool, stats: CameraStats) -> None:
        self._live, self._stats = live, stats
        self._queue: queue.Queue[tuple[Frame, FrameTracks] | dict[str, Opener] | None] = queue.Queue(QUEUE)
        self.error: OutputError | None = None
        self._outputs = self._opened(openers)
        if live:
            stats.lost["queue"] = 0
        self._thread = threading.Thread(target=self._work, name=f"write {stats.name}", daemon=True)

    @property
    def paths(self) -> list[Path]:
        """The paths of the results."""
        return [output.path for output in self._outputs]

    @property
    def busy(self) -> bool:
        """True if results of a file, all of which must be written, are still waiting."""
        return not self._live and self._thread.is_alive() and not self._queue.empty()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def write(self, frame: Frame, tracks: FrameTracks) -> None:
        """Hand over one frame's results.

        Raises:
            OutputError: not live, and an output has failed.
        """
        if self.error is not None:
            raise self.error
        if not self._outputs:
            return
        self._stats.queues["write"] = self._queue.qsize()
        if self._live:
            try:
                self._queue.put_nowait((frame, tracks))
            except queue.Full:
                self._stats.lost["queue"] += 1
            return
        if not put_while(lambda: self.error is None, self._queue, (frame, tracks)):
            assert self.error is not None
            raise self.error

    def reopen(self, openers: dict[str, Opener]) -> None:
        """Switch to other outputs after the results handed over so far; does nothing if the outputs have failed."""
        if not self._live:
            put_while(self._thread.is_alive, self._queue, openers)
            return
        try:
            self._queue.put(openers, timeout=CHANGE_S)
        except queue.Full:
            log.error("%s: the outputs hang, so they stay as they were; restart to change them", self._stats.name)

    def finish(self, timeout: float) -> None:
        """Write the results handed over, within `timeout` seconds, and close the outputs.

        Raises:
            OutputError: not live, and a result is not complete.
        """
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=timeout)
            self._thread.join(timeout)
            if self._thread.is_alive():
                slow = f"{self._stats.name}: the outputs are too slow; {self._queue.qsize()} frames are lost"
                if not self._live:
                    raise OutputError(slow)
                log.error("%s", slow)
                return
        else:
            self._close()
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """Close the outputs if the thread has not done so."""
        if not self._thread.is_alive():
            self._close()

    def _opened(self, openers: dict[str, Opener]) -> list[_Output | Sink]:
        """All outputs, or none if one cannot be opened."""
        outputs: list[_Output | Sink] = []
        try:
            for key, opener in openers.items():
                outputs.append(_Output(key, opener, self._stats) if self._live else opener())
        except OutputError:
            _close_all(outputs)
            raise
        return outputs

    def _work(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, dict):
                    self._change(item)
                    continue
                start = time.perf_counter()
                for output in self._outputs:
                    output.write(*item)
                self._stats.stages["write"].observe(time.perf_counter() - start)
        except OutputError as error:
            self.error = error
        try:
            self._close()
        except OutputError as error:
            self.error = self.error or error

    def _change(self, openers: dict[str, Opener]) -> None:
        try:
            outputs = self._opened(openers)
        except OutputError as error:
            log.error("%s; the outputs stay as they were", error)
            return
        # In one step: a thread that hands over frames must never find no outputs.
        before, self._outputs = self._outputs, outputs
        _close_all(before)

    def _close(self) -> None:
        outputs, self._outputs = self._outputs, []
        _close_all(outputs)


def _close_all(outputs: Sequence[_Output | Sink]) -> None:
    """Close all, whatever happens.

    Raises:
        OutputError: the first that was raised.
    """
    failure: OutputError | None = None
    for output in outputs:
        try:
            output.close()
        except OutputError as error:
            failure = failure or error
    if failure is not None:
        raise failure
