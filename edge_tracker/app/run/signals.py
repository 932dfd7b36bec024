"""Signals that end or reload a run instead of killing it."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Signals:
    """The signals that arrived.

    Attributes:
        stop: SIGINT or SIGTERM, once one arrived; before that None.
    """

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self._hangup = False
        # An Event would hang if a signal arrived while `wait` holds its lock; this queue has no lock.
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(self, number: int) -> None:
        """Record a signal."""
        if number == signal.SIGHUP:
            self._hangup = True
        else:
            self.stop = signal.Signals(number)
        self._came.put(number)

    def wait(self, seconds: float) -> None:
        """Wait for this long, or until a signal arrives."""
        with suppress(queue.Empty):
            self._came.get(timeout=seconds)

    def take_hangup(self) -> bool:
        """True if SIGHUP arrived since the last call."""
        hangup, self._hangup = self._hangup, False
        return hangup


@contextmanager
def signals() -> Iterator[Signals]:
    """Record SIGINT, SIGTERM and SIGHUP. After the first SIGINT or SIGTERM the next one kills the process."""
    came = Signals()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can have handlers
        yield came
        return
    # A signal that was ignored from the start stays ignored: shells do that for background jobs.
    deadly = (signal.SIGINT, signal.SIGTERM)
    wanted = [s for s in (*deadly, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]

    def note(number: int, frame: FrameType | None) -> None:
        came.note(number)
        if number in deadly:
            for which in deadly:
                if which in wanted:
                    signal.signal(which, signal.SIG_DFL)

    old = {which: signal.signal(which, note) for which in wanted}
    try:
        yield came
    finally:
        for which, handler in old.items():
            signal.signal(which, handler)
