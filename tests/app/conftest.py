"""Fixtures of the app's tests."""

from __future__ import annotations

import pytest

from tests.app.programs import RtspServer


@pytest.fixture
def rtsp():
    """An RTSP server that is not started yet."""
    server = RtspServer()
    yield server
    server.kill()
