"""The progress that a batch reports."""

from __future__ import annotations

import io
import logging

import pytest

from edge_tracker.app.batch.progress import BatchProgress, duration, progress
from edge_tracker.app.run import progress_bar as progress_module

HALF = BatchProgress(8, done=3, failed=1, share=0.5, fps=31.25, workers=2, seconds_left=3723.4)
SAID = "4 of 8 videos, 1 failed, 31.2 frames per second, 1:02:03 left"


def test_standing():
    assert str(BatchProgress(8)) == "waiting for workers"
    assert str(HALF) == SAID


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599.6, "1:00:00"), (36e3, "10:00:00")])
def test_duration(seconds, shown):
    assert duration(seconds) == shown


def test_a_line_now_and_then(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "edge_tracker")
    monkeypatch.setattr(progress_module, "LOG_EVERY_S", 3600)
    with progress() as show:
        show(HALF)
    assert caplog.messages == []
    monkeypatch.setattr(progress_module, "LOG_EVERY_S", 0)
    with progress() as show:
        show(HALF)
    assert caplog.messages == [f"50 %: {SAID}"]


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with progress() as show:
        show(HALF)
    assert " 50%|" in terminal.getvalue()
    assert f", {SAID}" in terminal.getvalue()
