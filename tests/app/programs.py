"""System programs that some tests need, and marks that skip those tests if the programs are missing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import free_port

SYSTEM_PYTHON = "/usr/bin/python3"
_PROBE = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(Gst.ElementFactory.find(name) for name in ("videotestsrc", "x264enc", "rtph264pay", "decodebin"))
"""


def _has_gstreamer() -> bool:
    if not Path(SYSTEM_PYTHON).exists() or shutil.which("gst-launch-1.0") is None:
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", _PROBE], capture_output=True).returncode == 0


needs_gstreamer = pytest.mark.skipif(
    not _has_gstreamer(), reason="GStreamer with its RTSP server is not here: make system-test-packages"
)


class RtspServer:
    """`rtsp_server.py` in a process of its own, on the same port each time it is started."""

    def __init__(self):
        self.port = free_port()
        self.process = None

    def start(self, width, height, fps, *credentials):
        script = Path(__file__).with_name("rtsp_server.py")
        arguments = [str(self.port), str(width), str(height), str(fps), *credentials]
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"
        return self

    def uri(self, credentials=None):
        return f"rtsp://{credentials + '@' if credentials else ''}127.0.0.1:{self.port}/camera"

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.stdout.close()
            self.process = None
