"""Signals that a run handles instead of being killed by them."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Signals:
    """The signals received so far.

    Attributes:
        stop: SIGINT or SIGTERM, once one was received.
    """

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self._hangup = False
        # An Event's lock would be held for ever if a signal came while `wait` has it; this queue has none to take.
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(self, number: int) -> None:
        """Note a signal that was received."""
        if number == signal.SIGHUP:
            self._hangup = True
        else:
            self.stop = signal.Signals(number)
        self._came.put(number)

    def wait(self, seconds: float) -> None:
        """Wait for this time, or until a signal is received."""
        with suppress(queue.Empty):
            self._came.get(timeout=seconds)

    def take_hangup(self) -> bool:
        """True if SIGHUP was received since the last call."""
        hangup, self._hangup = self._hangup, False
        return hangup


@contextmanager
def signals() -> Iterator[Signals]:
    """Handle SIGINT, SIGTERM and SIGHUP; a second SIGINT or SIGTERM kills the process as usual."""
    came = Signals()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can have handlers
        yield came
        return
    # One that was ignored from the start stays so: a shell does that to what it runs in the background.
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
