"""Real servers: RTSP that is killed and comes back, MJPEG and a file over HTTP."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from itertools import count

import cv2
import numpy as np
import pytest

from edge_tracker.app.sources import capture
from edge_tracker.app.sources.live import LiveSource
from edge_tracker.app.sources.opening import open_source
from edge_tracker.errors import SourceError
from tests.app.programs import needs_gstreamer
from tests.app.street import MjpegCamera
from tests.waiting import COMPILING_S, free_port, wait_for

LONG = 300.0  # seconds that no test waits unless something is wrong


def frame_of(source, good, timeout=LONG):
    """The first frame that is `good`."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        frame = source.poll(deadline - time.monotonic())
        if frame is not None and good(frame):
            return frame
    raise AssertionError(f"no such frame; {source.problem}")


# ---- RTSP ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_gstreamer
def test_rtsp_goes_on_after_the_server_was_killed_with_another_picture_size(rtsp, caplog, capfd):
    caplog.set_level(logging.INFO)
    rtsp.start(320, 240, 25, "user", "hunter2@/")
    source = open_source(rtsp.uri("user:hunter2%40%2F"))
    assert isinstance(source, LiveSource)
    assert (source.fps, source.frame_count, source.live) == (25, None, True)
    assert source.name == f"rtsp://***@127.0.0.1:{rtsp.port}/camera"
    frames = [source.poll(LONG) for _ in range(30)]
    assert [frame.index for frame in frames] == list(range(1, 31))
    assert all(frame.image.shape == (240, 320, 3) for frame in frames)
    rtsp.kill()
    last = frames[-1]
    while not (lost := source.problem):
        last = source.poll(0.05) or last
    assert not source.connected
    assert "stopped giving frames" in lost or "cannot be opened" in lost
    time.sleep(1.0)
    rtsp.start(160, 120, 25, "user", "hunter2@/")
    back = frame_of(source, lambda frame: frame.image.shape == (120, 160, 3))
    assert (source.reconnects, source.connected, source.problem) == (1, True, None)
    assert back.time - last.time == pytest.approx(back.wall - last.wall, abs=0.5)
    assert back.time - last.time > 1.0
    assert f"{source.name}: back after " in caplog.text
    source.close()
    assert "hunter2" not in caplog.text
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.slow
@needs_gstreamer
def test_rtsp_that_is_not_there_yet_is_waited_for(rtsp):
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(rtsp.uri())
    source = open_source(rtsp.uri(), wait=True)
    wait_for(lambda: source.problem)
    rtsp.start(64, 48, 25)
    assert source.poll(LONG).image.shape == (48, 64, 3)
    source.close()


@pytest.mark.slow
@needs_gstreamer
def test_rtsp_that_stalls_is_lost_and_comes_back(rtsp):
    rtsp.start(64, 48, 25)
    source = open_source(rtsp.uri(), stall_s=2)
    first = source.poll(LONG)
    rtsp.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: not source.connected)
    assert "no frame for" in source.problem or "stopped giving frames" in source.problem
    rtsp.process.send_signal(signal.SIGCONT)
    wait_for(lambda: source.reconnects == 1)
    assert source.poll(LONG).time - first.time > 2
    source.close()


@pytest.mark.slow
@needs_gstreamer
def test_closing_while_the_server_hangs_does_not_wait_for_it(rtsp, caplog):
    rtsp.start(64, 48, 25)
    source = open_source(rtsp.uri(), stall_s=60)
    source.poll(LONG)
    rtsp.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    source.close()
    assert "hangs in a read; abandoned" in caplog.text


@pytest.mark.slow
@needs_gstreamer
def test_on_a_jetson_whose_opencv_has_no_gstreamer_ffmpeg_decodes(rtsp, monkeypatch, caplog):
    monkeypatch.setattr(capture, "on_jetson", lambda: True)
    monkeypatch.setattr(capture, "_has", lambda backend: backend != cv2.CAP_GSTREAMER)
    capture._say_no_hardware.cache_clear()
    rtsp.start(64, 48, 25)
    for _ in range(2):
        opened = capture.open_capture(rtsp.uri())
        assert opened.read().shape == (48, 64, 3)
        opened.close()
    (record,) = caplog.records
    assert "this OpenCV was built without GStreamer" in record.message


@pytest.mark.slow
@needs_gstreamer
def test_a_stream_that_the_jetsons_decoder_refuses_is_decoded_by_ffmpeg(rtsp, monkeypatch, caplog):
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer; the test wants one that refuses the pipeline")
    monkeypatch.setattr(capture, "on_jetson", lambda: True)
    monkeypatch.setattr(capture, "_has", lambda backend: True)
    rtsp.start(64, 48, 25, "user", "hunter2")
    for _ in range(2):
        opened = capture.open_capture(rtsp.uri("user:hunter2"))
        assert opened.read().shape == (48, 64, 3)
        opened.close()
    (record,) = caplog.records
    assert "the hardware decoder cannot decode this stream" in record.message
    assert "hunter2" not in record.message


# ---- HTTP ------------------------------------------------------------------------------------------------------------


def shades():
    """Pictures of one grey each, another every time."""
    numbers = count(1)
    return lambda: cv2.imencode(".jpg", np.full((48, 64, 3), next(numbers) % 250, np.uint8))[1].tobytes()


@pytest.mark.slow
def test_mjpeg_over_http_is_live_and_comes_back():
    port = free_port()
    camera = MjpegCamera(shades(), port)
    source = open_source(f"http://127.0.0.1:{port}/video.mjpg")
    assert source.live
    frames = [source.poll(LONG) for _ in range(8)]
    steps = np.diff([frame.time for frame in frames])
    assert steps.sum() == pytest.approx(frames[-1].wall - frames[0].wall, abs=0.1), (
        "real time, not FFmpeg's 25 per second"
    )
    camera.unplug()
    wait_for(lambda: not source.connected)
    last = source.poll(0) or frames[-1]
    camera = MjpegCamera(shades(), port)
    back = frame_of(source, lambda frame: frame.wall > last.wall)
    assert source.reconnects == 1
    assert back.time - last.time == pytest.approx(back.wall - last.wall, abs=0.1)
    source.close()
    camera.unplug()


def test_mjpeg_over_http_that_is_not_there_yet_is_waited_for():
    port = free_port()
    source = open_source(f"http://127.0.0.1:{port}/video.mjpg", wait=True)
    assert source.poll(0) is None
    camera = MjpegCamera(shades(), port)
    assert source.poll(LONG).image.shape == (48, 64, 3)
    source.close()
    camera.unplug()


AT_EXIT = """
from tests.app.test_streams import MjpegCamera, shades
from edge_tracker.app.sources import live
from edge_tracker.app.sources.opening import open_source
live.CLOSE_S = 60
print(open_source(MjpegCamera(shades()).uri).poll(60).index)
"""


def test_a_program_that_forgets_to_close_its_camera_ends_well():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=COMPILING_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_the_command_ends_although_a_camera_does_not_answer(tmp_path, scheme):
    (tmp_path / "det.txt").write_text("1,-1,10,10,20,30,0.9\n")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = tmp_path / "cam.yaml"
        config.write_text(
            f"source: {{uri: '{scheme}://127.0.0.1:{silent.getsockname()[1]}/x'}}\ndetector: {{mot: det.txt}}\n"
            "embedder: {model: null}\n"
        )
        command = [sys.executable, "-m", "edge_tracker", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            silent.settimeout(LONG)
            connection, _ = silent.accept()
            run.send_signal(signal.SIGINT)
            _, said = run.communicate(timeout=LONG)
        connection.close()
    assert run.returncode == 130
    assert "Traceback" not in said


# ---- GStreamer's own -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
@pytest.mark.parametrize(
    "uri", ["csi://0", "gst:rtspsrc location=rtsp://user:hunter2@host/s user-pw='hunter2 x' ! decodebin"]
)
def test_what_needs_gstreamer_says_so(uri):
    with pytest.raises(SourceError, match=r"was built without GStreamer, which (csi|gst): needs") as caught:
        open_source(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has no GStreamer")
def test_a_pipeline_of_ones_own():
    source = open_source("gst:videotestsrc is-live=true ! video/x-raw, width=64, height=48")
    assert source.poll(LONG).image.shape == (48, 64, 3)
    source.close()
