"""Signals that come at moments at which nothing may be interrupted."""

from __future__ import annotations

import signal
import sys
import threading

from edge_tracker.app.run.signals import Signals
from tests.waiting import PATIENCE_S


def test_a_signal_may_come_anywhere_in_the_waiting_for_it():
    """The waiting thread may hold a lock; a handler that needs the same lock would wait for ever."""
    came, lines = Signals(), 0

    def interrupt(frame, event, argument):
        nonlocal lines
        lines += 1
        came.note(signal.SIGHUP)
        return interrupt

    def wait():
        sys.settrace(interrupt)
        for _ in range(3):
            came.wait(0.01)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert lines > 3
    assert came.take_hangup()
    assert not came.take_hangup()


def test_the_waiting_ends_with_a_signal():
    came = Signals()
    waiting = threading.Thread(target=came.wait, args=(10 * PATIENCE_S,), daemon=True)
    waiting.start()
    came.note(signal.SIGTERM)
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert came.stop == signal.SIGTERM
