"""GStreamer pipelines: what they say, that nothing in a URI gets out of its quotes, and that GStreamer takes them."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise

import cv2
import pytest

from edge_tracker.app.sources import capture
from edge_tracker.app.sources.gstreamer import csi_pipeline, own_pipeline, rtsp_pipeline
from edge_tracker.app.sources.opening import open_source
from edge_tracker.errors import SourceError
from tests.app.programs import SYSTEM_PYTHON, needs_gstreamer
from tests.waiting import COMPILING_S

TO_BGR = "videoconvert ! video/x-raw, format=(string)BGR"
FROM_GPU = f"nvvidconv ! video/x-raw, format=(string)BGRx ! {TO_BGR}"
NEWEST = "appsink drop=true max-buffers=1 sync=false"

NASTY = [
    'rtsp://u:p"w@h/" ! filesink location=/nowhere/x',
    'rtsp://h/s\\" ! fakesink name="x',
    "rtsp://h/' ! fakesink '",
    "rtsp://h/a;b(c) name=x\n! fakesink",
    "rtsp://h/$(ls)`ls`",
    "rtsp://h/{x}|<y>^",
]


def test_rtsp():
    assert rtsp_pipeline("rtsp://user:pw@10.0.0.1:554/h264?channel=1&subtype=0") == (
        'rtspsrc location="rtsp://user:pw@10.0.0.1:554/h264?channel=1&subtype=0" protocols=tcp latency=200 '
        "! application/x-rtp, media=(string)video ! decodebin "
        f"! video/x-raw(memory:NVMM) ! {FROM_GPU} ! {NEWEST}"
    )


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("rtsp://h/100%25", "rtsp://h/100%25"),
        ("rtsp://h/100%", "rtsp://h/100%25"),
        ("rtsp://h/a b", "rtsp://h/a%20b"),
        ("rtsp://[fe80::1]:554/s", "rtsp://[fe80::1]:554/s"),
    ],
)
def test_the_uri_is_encoded_once(uri, location):
    assert f'location="{location}" ' in rtsp_pipeline(uri)


@pytest.mark.parametrize("uri", NASTY)
def test_nothing_in_a_uri_leaves_its_quotes(uri):
    pipeline = rtsp_pipeline(uri)
    assert pipeline.count('"') == 2
    assert re.fullmatch(r"[A-Za-z0-9%:/?#\[\]@$&()*+,;=._~-]+", pipeline.split('"')[1])


def test_csi():
    assert csi_pipeline("csi://0") == (
        f"nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM) ! {FROM_GPU} ! {NEWEST}"
    )
    assert csi_pipeline("csi://1?width=1920&height=1080&fps=30") == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=(int)1920, height=(int)1080, "
        f"framerate=(fraction)30/1 ! {FROM_GPU} ! {NEWEST}"
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("csi://", "is not a sensor's number"),
        ("csi://front", "is not a sensor's number"),
        ("csi://0/x", "is not a sensor's number"),
        ("csi://0?width=wide", "width=wide is not valid"),
        ("csi://0?width=", "width= is not valid"),
        ("csi://0?fps=30&fps=60", "fps=60 is not valid"),
        ("csi://0?fps=30 ! filesink", "fps=30 ! filesink is not valid"),
        ("csi://0?mode=2", "mode=2 is not valid; expected csi://SENSOR such as csi://0?width=1920&height=1080&fps=30"),
    ],
)
def test_what_csi_refuses(uri, said):
    with pytest.raises(SourceError, match=r"^csi://") as caught:
        csi_pipeline(uri)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "pipeline"),
    [
        ("gst:videotestsrc", f"videotestsrc ! {TO_BGR} ! {NEWEST}"),
        ("gst: videotestsrc ! ", f"videotestsrc ! {TO_BGR} ! {NEWEST}"),
        ("gst:videotestsrc ! appsink", f"videotestsrc ! {TO_BGR} ! appsink"),
        ("gst:videotestsrc!appsink max-buffers=2", f"videotestsrc!{TO_BGR} ! appsink max-buffers=2"),
        ('gst:x y="! appsink" ! appsink', f'x y="! appsink" ! {TO_BGR} ! appsink'),
        ('gst:filesrc location="a ! appsink" ! x', f'filesrc location="a ! appsink" ! x ! {TO_BGR} ! {NEWEST}'),
        ("gst:filesrc location=appsink ! x", f"filesrc location=appsink ! x ! {TO_BGR} ! {NEWEST}"),
        ("gst:x ! appsink-like", f"x ! appsink-like ! {TO_BGR} ! {NEWEST}"),
    ],
)
def test_own_pipelines_give_bgr_to_an_appsink(uri, pipeline):
    assert own_pipeline(uri) == pipeline


@pytest.mark.parametrize("uri", ["gst:", "gst:  ! "])
def test_an_empty_pipeline(uri):
    with pytest.raises(SourceError, match="gst: names no pipeline"):
        own_pipeline(uri)


# ---- with GStreamer itself, and common elements in the place of the Jetson's -----------------------------------------

ELEMENTS = """
import json, sys, gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
found = Gst.parse_launch(sys.argv[1]).iterate_elements()
elements = []
while True:
    result, element = found.next()
    if result != Gst.IteratorResult.OK:
        break
    elements.append(element)
source = [e for e in elements if e.get_factory().get_name() == "rtspsrc"]
location = source[0].get_property("location") if source else None
print(json.dumps([sorted(e.get_factory().get_name() for e in elements), location]))
"""


def without_jetson(pipeline):
    for theirs, common in [
        ("(memory:NVMM)", ""),
        ("nvvidconv", "videoconvert"),
        ("nvarguscamerasrc sensor-id=1", "videotestsrc num-buffers=5"),
    ]:
        pipeline = pipeline.replace(theirs, common)
    return pipeline


@needs_gstreamer
@pytest.mark.parametrize("uri", NASTY)
def test_gstreamer_finds_no_elements_in_a_uri(uri):
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", ELEMENTS, without_jetson(rtsp_pipeline(uri))], capture_output=True, text=True, check=True
    )
    elements, location = json.loads(done.stdout)
    own = ["rtspsrc", "decodebin", "videoconvert", "videoconvert", "appsink"]
    assert [element for element in elements if element != "capsfilter"] == sorted(own)
    assert location == rtsp_pipeline(uri).split('"')[1]


def launched(pipeline):
    """The output of gst-launch-1.0 after playing to the end, with nobody to take the last frame from the appsink."""
    arguments = without_jetson(pipeline).replace(NEWEST, f"{NEWEST} wait-on-eos=false").split()
    done = subprocess.run(["gst-launch-1.0", *arguments], capture_output=True, text=True, timeout=COMPILING_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_gstreamer
@pytest.mark.parametrize(
    "pipeline",
    [
        csi_pipeline("csi://1?width=320&height=240&fps=30"),
        own_pipeline("gst:videotestsrc num-buffers=5 ! video/x-raw, width=64, height=48"),
    ],
)
def test_gst_launch_runs_them(pipeline):
    assert "Got EOS" in launched(pipeline)


@needs_gstreamer
@pytest.mark.parametrize("password", ["pw", 'p"w ! x'])
def test_gst_launch_plays_rtsp(rtsp, password):
    rtsp.start(64, 48, 25, "me", password)
    pipeline = rtsp_pipeline(rtsp.uri(f"me:{password}"))
    assert "Got EOS" in launched(pipeline.replace("appsink", "identity eos-after=5 ! appsink"))


# ---- with an OpenCV that has GStreamer: a distribution's, JetPack's --------------------------------------------------

opencv_with_gstreamer = pytest.mark.skipif(
    not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV was built without GStreamer"
)


@opencv_with_gstreamer
@pytest.mark.parametrize("end", ["", " ! appsink", ", format=NV12 ! appsink drop=true"])
def test_opencv_opens_a_pipeline(end):
    source = open_source(f"gst:videotestsrc is-live=true ! video/x-raw, width=64, height=48, framerate=20/1{end}")
    frames = [source.poll(30) for _ in range(5)]
    source.close()
    assert source.fps == 20
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert all(after.time > before.time for before, after in pairwise(frames))


@opencv_with_gstreamer
@needs_gstreamer
@pytest.mark.parametrize("decodes", [True, False])
def test_a_jetsons_rtsp_with_common_elements_and_a_server_that_restarts(rtsp, monkeypatch, caplog, decodes):
    pipeline = (
        (lambda uri: without_jetson(rtsp_pipeline(uri)))
        if decodes
        else (lambda uri: rtsp_pipeline(uri).replace("nvvidconv", "videoconvert"))  # the NVMM memory is not to be had
    )
    monkeypatch.setattr(capture, "rtsp_pipeline", pipeline)
    monkeypatch.setattr(capture, "on_jetson", lambda: True)
    server = rtsp.start(64, 48, 20)
    source = open_source(server.uri(), stall_s=5)
    before = source.poll(30)
    server.kill()
    while source.connected:
        source.poll(0.1)
    server.start(96, 64, 20)
    while not source.reconnects:
        source.poll(0.1)
    after = source.poll(30)
    source.close()
    assert (before.image.shape, after.image.shape) == ((48, 64, 3), (64, 96, 3))
    assert after.time - before.time == pytest.approx(after.wall - before.wall, abs=0.3)
    assert ("FFmpeg decodes it on the CPU" in caplog.text) != decodes
