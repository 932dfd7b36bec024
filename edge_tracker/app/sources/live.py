"""Cameras and streams that run for months: they give the newest frame, and are reopened whenever they are lost."""

from __future__ import annotations

import atexit
import logging
import math
import random as random_numbers
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from edge_tracker.app.config.uri import redact
from edge_tracker.app.sources.frames import Frame
from edge_tracker.backoff import Backoff
from edge_tracker.errors import EdgeTrackerError, SourceError

log = logging.getLogger(__name__)

T = TypeVar("T")

STALL_S = 10.0
OPEN_S = 30.0  # OpenCV's own limit is half of this; on a Jetson two ways are tried
CLOSE_S = 2.0
# OpenCV's own timeouts, where it has any, come first: they release the device.
GRACE_S = 2.0
MOST_STUCK = 4

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
SCATTER = (0.8, 1.2)  # a delay is multiplied by a random number between these

_sources: weakref.WeakSet[LiveSource] = weakref.WeakSet()
_readers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all sources: Python aborts the process if a thread returns from OpenCV while it shuts down."""
    for source in list(_sources):
        source.close()


def some_hang() -> bool:
    """True if a closed source's thread still hangs in a read. Python may then be unable to shut down: `os._exit`."""
    return any(thread.is_alive() for thread in _readers)


def interruptibly(call: Callable[[], T]) -> T:
    """Run `call` in its own thread, and return or raise as it does: a call into OpenCV would keep Ctrl-C waiting."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    _readers.add(thread)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Stream(Protocol):
    """An opened stream.

    Attributes:
        fps: frames per second as the stream declares them, or None.
    """

    @property
    def fps(self) -> float | None: ...

    def read(self) -> np.ndarray | None:
        """The next frame, (H, W, 3) uint8 BGR, or None at the end."""

    def position(self) -> float | None:
        """Time of the last frame read, in seconds on the stream's own clock, or None."""

    def close(self) -> None:
        """Release the stream."""


def delays(random: Callable[[], float]) -> Backoff:
    """Seconds before each further attempt to reach a lost stream: 1, 2, 4, ... 60, each up to a fifth more or less.

    The random part keeps cameras that were lost together from asking their server at the same time.

    Args:
        random: gives numbers in [0, 1).
    """
    return Backoff(FIRST_DELAY_S, LONGEST_DELAY_S, SCATTER, random)


class StreamClock:
    """The time of frames, from the stream's clock while that is plausible, otherwise from their arrival.

    The stream's clock says when a frame was taken; the arrival has the network's jitter added. But some streams' clocks
    run at a rate of their own (MJPEG over HTTP has none, and 25 frames per second are assumed), and all of them may
    jump. So the stream's clock must keep to real time for `PROOF_S` before it is used, and is dropped as soon as it
    does not. Time is a sum of steps, each from one of the two clocks, so switching makes it neither jump nor go back.
    """

    PROOF_S = 10.0
    PROVEN_WITHIN_S = 0.25
    LOST_BEYOND_S = 1.0

    def __init__(self) -> None:
        self._time = 0.0
        self._arrival: float | None = None
        self.restart()

    def restart(self) -> None:
        """Note that the stream was reopened, so that its clock may have restarted."""
        self._position: float | None = None
        self._anchor: tuple[float, float] | None = None
        self._proven = False

    def time_of(self, arrival: float, position: float | None) -> float:
        """Seconds from the first frame to this one; never less than the last answer.

        Args:
            arrival: seconds on the monotonic clock at which the frame arrived.
            position: seconds on the stream's clock, or None if it has none.
        """
        before, self._arrival = self._arrival, arrival
        step = 0.0 if before is None else arrival - before
        if position is not None and not math.isfinite(position):
            position = None
        last, self._position = self._position, position
        if position is None:
            self._anchor, self._proven = None, False
        elif last is None or self._anchor is None or not self._keeps_time(arrival, position, last):
            self._anchor, self._proven = (arrival, position), False
        elif self._proven:
            step = position - last
        self._time += step
        return self._time

    def _keeps_time(self, arrival: float, position: float, last: float) -> bool:
        assert self._anchor is not None
        elapsed = arrival - self._anchor[0]
        lead = abs(position - self._anchor[1] - elapsed)
        if position <= last or lead > self.LOST_BEYOND_S:
            return False
        if not self._proven and elapsed >= self.PROOF_S:
            self._proven = lead <= self.PROVEN_WITHIN_S
            return self._proven
        return True


class _Connection:
    """One attempt to open the stream, and its frames until it is lost. Its fields are guarded by the source's lock."""

    def __init__(self) -> None:
        self.over = False
        self.problem: str | None = None
        self.frames = 0
        self.since = time.monotonic()
        self.progress = self.since
        self.opened = False


@dataclass(slots=True)
class _Waiting:
    time: float
    image: np.ndarray
    wall: float


class LiveSource:
    """The newest frame of a camera or stream, which is reopened whenever it is lost.

    It is read in a thread of its own, so that frames that come too fast are dropped and never queue up. A stream that
    cannot be opened, ends, or gives no frame for `stall_s` is lost. It is tried again after the seconds of `delays`,
    which start again once it has given frames for `stall_s`. The time of the frames goes on meanwhile. Every loss and
    every return is logged.

    Args:
        opener: opens the stream, or raises `SourceError`; called from other threads, once for each connection.
        name: its name in messages, without credentials.
        fps: the frame rate to assume, whatever the stream says.
        wait: return at once, and wait for a stream that is not there yet as for one that was lost.
        stall_s: seconds without a frame after which the stream counts as lost.
        random: gives numbers in [0, 1) for the random part of the delays.

    Raises:
        SourceError: without `wait`: it cannot be opened, or gives no frame.

    Attributes:
        name: as given.
        live: True.
        frame_count: None.
        dropped: frames that a newer one replaced before they were asked for.
        reconnects: times the stream came back.
        connected: True while frames come.
        problem: the reason if they do not, in one line without credentials; None while they do.
    """

    live = True
    frame_count: int | None = None

    def __init__(
        self,
        opener: Callable[[], Stream],
        name: str,
        fps: float | None = None,
        wait: bool = False,
        stall_s: float = STALL_S,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self.name = name
        self.dropped = 0
        self.reconnects = 0
        self.connected = False
        self.problem: str | None = None
        self._opener = opener
        self._fixed_fps = fps
        self._declared_fps: float | None = None
        self._arrivals: deque[float] = deque(maxlen=50)
        self._stall_s = stall_s
        self._delays = delays(random)
        self._clock = StreamClock()
        # Reentrant, since a signal's handler may call close() while its thread waits here for a frame.
        lock = threading.RLock()
        self._came = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        self._slot: _Waiting | None = None
        self._index = 0
        self._closed = False
        self._lost_at: float | None = None
        self._was_connected = False
        self._stuck: list[threading.Thread] = []
        self._reader: threading.Thread | None = None
        self._failed = False
        self._keeper = threading.Thread(target=self._keep, args=(wait,), name=f"keep {name}", daemon=True)
        _sources.add(self)
        self._keeper.start()
        if not wait:
            self._await_first()

    def _await_first(self) -> None:
        try:
            with self._came:
                self._came.wait_for(lambda: self._was_connected or self._failed)
                failure = self.problem if self._failed else None
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if failure is not None:
            self.close()
            raise SourceError(failure)

    # ---- the pipeline's side -------------------------------------------------------------------------------------

    @property
    def fps(self) -> float | None:
        """Frames per second: as given, or declared by the stream, or measured; None before any of these is known."""
        if self._fixed_fps or self._declared_fps:
            return self._fixed_fps or self._declared_fps
        with self._came:
            if len(self._arrivals) < 10 or self._arrivals[-1] <= self._arrivals[0]:
                return None
            return (len(self._arrivals) - 1) / (self._arrivals[-1] - self._arrivals[0])

    def poll(self, timeout: float | None) -> Frame | None:
        """The newest frame not yet returned, or None if none comes within `timeout` seconds or the source is closed.

        Args:
            timeout: 0 does not wait, None waits until there is a frame.
        """
        with self._came:
            self._came.wait_for(lambda: self._slot is not None or self._closed, timeout)
            if self._slot is None or self._closed:
                return None
            waiting, self._slot = self._slot, None
            self._index += 1
            return Frame(self._index, waiting.time, waiting.image, waiting.wall)

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come, until another thread or a signal handler calls `close()`."""
        while (frame := self.poll(None)) is not None:
            yield frame

    def close(self) -> None:
        """End the threads and release the camera. A thread that hangs for longer than two seconds is abandoned."""
        with self._came:
            if self._closed:
                return
            self._closed = True
            self._slot = None
            self.connected = False
            self._came.notify_all()
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSE_S
        for thread in (self._keeper, self._reader):
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._reader is not None and self._reader.is_alive():
            log.warning("%s: hangs in a read; abandoned", self.name)

    # ---- the keeper: a thread that opens, watches and reopens ------------------------------------------------------

    def _keep(self, wait: bool) -> None:
        while True:
            connection = _Connection()
            reader = threading.Thread(target=self._read, args=(connection,), name=f"read {self.name}", daemon=True)
            with self._changed:
                if self._closed:
                    return
                self._reader = reader
                _readers.add(reader)
                reader.start()
                self._watch(connection)
                if self._closed:
                    return
                if not wait and not self._was_connected:
                    self.problem, self._failed = connection.problem or f"{self.name}: lost", True
                    self._came.notify_all()
                    return
                self._lose(connection)
                if not connection.over:
                    connection.over = True
                    self._stuck.append(reader)
                while True:
                    delay = self._delays.next()
                    log.debug("%s; trying again in %.1f s", self.problem, delay)
                    if self._changed.wait_for(lambda: self._closed, delay):
                        return
                    self._stuck = [thread for thread in self._stuck if thread.is_alive()]
                    if len(self._stuck) < MOST_STUCK:  # each holds memory and perhaps the device
                        break

    def _watch(self, connection: _Connection) -> None:
        """Wait until the connection is over, hangs, or the source is closed."""
        while not connection.over and not self._closed:
            allowed = self._stall_s if connection.opened else max(OPEN_S, self._stall_s)
            left = connection.progress + allowed + GRACE_S - time.monotonic()
            if left <= 0:
                what = "no frame" if connection.opened else "not opened"
                connection.problem = f"{self.name}: {what} for {allowed + GRACE_S:.0f} s"
                return
            self._changed.wait(left)

    def _lose(self, connection: _Connection) -> None:
        now = time.monotonic()
        problem = connection.problem or f"{self.name}: lost"
        if connection.frames and now - connection.since >= self._stall_s:
            self._delays.reset()
        first, self.problem = self._lost_at is None, problem
        self.connected = False
        if first:
            self._lost_at = now if not connection.frames else connection.progress
            log.warning("%s; trying again until it is back", problem)

    # ---- the reader: a thread for one connection -----------------------------------------------------------------

    def _read(self, connection: _Connection) -> None:
        problem = None
        try:
            camera = self._opener()
            try:
                with self._changed:
                    connection.opened, connection.progress = True, time.monotonic()
                    self._changed.notify_all()  # from here on less time is allowed
                while self._take(connection, camera):
                    pass
            finally:
                camera.close()
        except EdgeTrackerError as error:
            problem = redact(error)
        except Exception as error:  # whatever a camera's library raises, the next attempt may succeed
            problem = f"{self.name}: {type(error).__name__}: {redact(error)}".replace("\n", " ")
        with self._changed:
            if not connection.over:
                connection.problem = connection.problem or problem
                connection.over = True
            self._changed.notify_all()

    def _take(self, connection: _Connection, camera: Stream) -> bool:
        """Read one frame and store it for the pipeline. False at the end."""
        image = camera.read()
        arrival, wall = time.monotonic(), time.time()
        position = camera.position() if image is not None else None
        with self._came:
            if connection.over or self._closed:
                return False
            silent = arrival - connection.progress
            if image is None:
                what = f"stopped giving frames after {connection.frames}" if connection.frames else "gives no frame"
                connection.problem = f"{self.name}: {what}"
                return False
            # After each of its timeouts FFmpeg gives one more of the old frames that its decoder had held back.
            if connection.frames and silent >= 0.99 * self._stall_s:
                connection.problem = f"{self.name}: no frame for {silent:.0f} s"
                return False
            if not connection.frames:
                self._clock.restart()
                self._arrivals.clear()
                self._declared_fps = camera.fps
                self._back(arrival)
            connection.frames += 1
            connection.progress = arrival
            self._arrivals.append(arrival)
            if self._slot is not None:
                self.dropped += 1
            self._slot = _Waiting(self._clock.time_of(arrival, position), image, wall)
            self._came.notify_all()
            return True

    def _back(self, now: float) -> None:
        if self._was_connected:
            self.reconnects += 1
        if self._lost_at is not None:
            log.warning("%s: back after %.1f s", self.name, now - self._lost_at)
        self.connected, self._was_connected = True, True
        self.problem, self._lost_at = None, None
