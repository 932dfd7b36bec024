"""Fixtures of the batch tests."""

from __future__ import annotations

import pytest

from edge_tracker.app.batch.results import Results


@pytest.fixture
def results(tmp_path):
    with Results(tmp_path / "results") as opened:
        yield opened
