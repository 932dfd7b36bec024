"""Signals that a run takes note of instead of dying of them."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Signals:
    """What came.

    Attributes:
        stop: SIGINT or SIGTERM, once one came.
    """

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self._hangup = False
        # An Event's lock would be held for ever if a signal came while `wait` has it; this queue has none to take.
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(self, number: int) -> None:
        """A signal came."""
        if number == signal.SIGHUP:
            self._hangup = True
        else:
            self.stop = signal.Signals(number)
        self._came.put(number)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until a signal comes."""
        with suppress(queue.Empty):
            self._came.get(timeout=seconds)

    def take_hangup(self) -> bool:
        """Whether SIGHUP came since this was asked last."""
        hangup, self._hangup = self._hangup, False
        return hangup


@contextmanager
def signals() -> Iterator[Signals]:
    """Note SIGINT, SIGTERM and SIGHUP; the second of the first two is deadly again."""
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
