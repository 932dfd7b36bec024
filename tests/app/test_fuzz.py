"""Anything at all as a model, a video, a state or tracks: refused in one line, or taken without harm."""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from edge_tracker import EdgeDeepSort
from edge_tracker.app.config.schema import LineConfig, MqttConfig, ServerConfig, ZoneConfig
from edge_tracker.app.counting.events import ObjectEvents
from edge_tracker.app.counting.zones import ZoneMonitor
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.sinks import JsonlSink, MotSink, VideoSink
from edge_tracker.app.run.state import load
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.sources.opening import open_source
from edge_tracker.app.stats import CameraStats, Stats
from edge_tracker.detection.detector import Detector
from edge_tracker.embedding.embedder import Embedder
from edge_tracker.errors import EdgeTrackerError
from tests.detection.exports import EXPORTS
from tests.waiting import free_port

QUICK = settings(max_examples=60)


def refused_in_one_line(action, *arguments, **keywords):
    """The result of an action, or None if it was refused; anything but a one-line refusal fails the test."""
    try:
        return action(*arguments, **keywords)
    except EdgeTrackerError as error:
        told = str(error)
    assert "\n" not in told
    return None


# ---- files -----------------------------------------------------------------------------------------------------------


@QUICK
@given(content=st.binary(max_size=2000))
@example(content=b"")
@example(content=b"\x08\x07")  # an ONNX file's beginning
def test_any_bytes_as_a_file(tmp_path, content):
    for name, action in (
        ("m.onnx", lambda path: Detector(path, device="cpu")),
        ("m.onnx", lambda path: Embedder(path, device="cpu")),
        ("m.engine", lambda path: Detector(path)),
        ("m.avi", open_source),
        ("m.jpg", open_source),
        ("m.npz", load),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        opened = refused_in_one_line(action, str(path))
        if opened is not None:
            opened.close()


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory):
    return EXPORTS["yolov8"].save(tmp_path_factory.mktemp("whole") / "it.onnx").read_bytes()


@QUICK
@given(data=st.data())
def test_a_damaged_model(tmp_path, model_bytes, data):
    content = bytearray(model_bytes[: data.draw(st.integers(0, len(model_bytes)))])
    for _ in range(data.draw(st.integers(0, 8))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "it.onnx"
    path.write_bytes(bytes(content))
    opened = refused_in_one_line(Detector, str(path), device="cpu")
    if opened is not None:
        opened.close()


@QUICK
@given(data=st.data())
def test_a_damaged_video(tmp_path, demo_video, data):
    with demo_video.open("rb") as file:
        content = bytearray(file.read(60_000))
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "it.avi"
    path.write_bytes(bytes(content))
    source = refused_in_one_line(open_source, str(path))
    if source is not None:
        for frame, _ in zip(source, range(10), strict=False):
            assert frame.image.ndim == 3
        source.close()


# ---- the tracks of a frame -------------------------------------------------------------------------------------------

BOXES = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.floats(-2000, 2000)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-2000, 2000)


@st.composite
def frames_of_tracks(draw):
    k = draw(st.integers(0, 6))
    names = draw(st.lists(st.text(max_size=8), max_size=3))
    return FrameTracks(
        np.array(draw(st.lists(st.integers(1, 2**53), min_size=k, max_size=k, unique=True)), np.int64),
        draw(stn.arrays(np.float64, (k, 4), elements=BOXES)),
        draw(stn.arrays(np.int64, (k,), elements=st.integers(-1, 2**40))),
        draw(stn.arrays(np.float64, (k,), elements=NUMBERS)),
        names,
        zones=draw(st.just(()) | st.just([("a", "b")] * k)),
    )


def strict(text):
    """JSON as the standard has it: no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@QUICK
@given(several=st.lists(frames_of_tracks(), min_size=1, max_size=4))
def test_any_tracks_into_the_files(tmp_path, several):
    image = np.zeros((48, 64, 3), np.uint8)
    sinks = [MotSink(tmp_path / "t.txt"), JsonlSink(tmp_path / "t.jsonl"), VideoSink(tmp_path / "t.avi", 10.0)]
    for index, tracks in enumerate(several, start=1):
        for sink in sinks:
            sink.write(Frame(index, index / 10, image), tracks)
    for sink in sinks:
        sink.close()
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert [strict(line)["frame"] for line in lines] == list(range(1, len(several) + 1))
    for row in (tmp_path / "t.txt").read_text().splitlines():
        assert np.isfinite(np.array(row.split(","), float)).all()


@QUICK
@given(several=st.lists(frames_of_tracks(), min_size=1, max_size=6))
def test_any_tracks_through_zones_lines_and_events(several):
    zones = {"z": ZoneConfig(polygon=[[0.0, 0.0], [100.0, 0.0], [100.0, 100.0]])}
    monitor = ZoneMonitor(zones, {"l": LineConfig(start=[0.0, 0.0], end=[50.0, 50.0])})
    events = ObjectEvents(1.0)
    for index, tracks in enumerate(several):
        names = [tracks.class_name(k) for k in range(len(tracks))]
        live = set(tracks.ids.tolist())
        inside, _ = monitor.update(tracks.ids, tracks.ltrb, names, live, index / 10, 1e9 + index)
        told = events.update(tracks.ids, tracks.ltrb, names, tracks.confidence, inside, live, index / 10, 1e9 + index)
        assert {e.id for e in told if e.type == "new"} <= live
    monitor.update(np.empty(0, np.int64), np.empty((0, 4)), [], set(), 99.0, 1e9)
    left = events.update(np.empty(0, np.int64), np.empty((0, 4)), [], np.empty(0), [], set(), 99.0, 1e9)
    assert {e.type for e in left} <= {"end"}
    counts = monitor.totals()["z"]
    assert counts["inside"] == 0
    assert counts["entries"] == counts["exits"]
    strict(json.dumps([monitor.state(), events.state()], allow_nan=False))


@QUICK
@given(saved=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_saved_counts_are_taken_or_left_aside(saved):
    for thing in (ZoneMonitor({"z": ZoneConfig(polygon=[[0.0, 0.0], [9.0, 0.0], [9.0, 9.0]])}, {}), ObjectEvents(1.0)):
        thing.load(saved)
        thing.state()


@pytest.fixture(scope="module")
def told():
    """A page and a publisher without a broker."""
    pytest.importorskip("uvicorn")
    from edge_tracker.app.outputs.live.server import LiveServer
    from edge_tracker.app.outputs.mqtt import MqttPublisher

    stats = Stats(cameras={"a": CameraStats("a")})
    server = LiveServer(ServerConfig(port=0), stats, ["a"])
    server.start()
    publishers = [
        MqttPublisher(
            MqttConfig(host="127.0.0.1", port=free_port(), style=style, tracks_per_second=1000.0), ["a"], stats
        )
        for style in ("native", "frigate")
    ]
    yield server, publishers
    server.close()
    for publisher in publishers:
        publisher.close(0.1)


@QUICK
@given(tracks=frames_of_tracks(), time=st.floats(0, 1e6))
def test_any_tracks_to_the_page_and_the_broker(told, tracks, time):
    server, publishers = told
    names = [tracks.class_name(k) for k in range(len(tracks))]
    zones = [("z",)] * len(tracks)
    live = set(tracks.ids.tolist())
    events = ObjectEvents(1.0).update(tracks.ids, tracks.ltrb, names, tracks.confidence, zones, live, time, 1e9)
    shown = FrameTracks(tracks.ids, tracks.ltrb, tracks.class_ids, tracks.confidence, tracks.names, events=events)
    frame = Frame(1, time, np.zeros((48, 64, 3), np.uint8))
    server.show("a", frame, shown)
    for publisher in publishers:
        publisher.publish("a", frame, shown)
    host, port = server.address
    with urllib.request.urlopen(f"http://{host}:{port}/api/tracks", timeout=30) as answer:
        strict(answer.read())
    with urllib.request.urlopen(f"http://{host}:{port}/snapshot/a.jpg", timeout=30) as answer:
        assert answer.read()[:2] == b"\xff\xd8"


# ---- detections ------------------------------------------------------------------------------------------------------


def same(a, b):
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@QUICK
@given(data=st.data(), method=st.sampled_from(["edge", "deepsort"]))
def test_any_detections_leave_the_tracker_whole(data, method):
    tracker = EdgeDeepSort(embedder=None, method=method)
    for _ in range(data.draw(st.integers(1, 6))):
        m = data.draw(st.integers(0, 5))
        ltwh = data.draw(stn.arrays(np.float64, (m, 4), elements=NUMBERS))
        confidence = data.draw(stn.arrays(np.float64, (m,), elements=st.floats(0, 1) | NUMBERS))
        before = tracker.state_dict()
        tracks = refused_in_one_line(tracker.update, ltwh, confidence)
        if tracks is None:
            after = tracker.state_dict()
            assert all(same(before[name], after[name]) for name in before)
        else:
            assert np.isfinite(tracks.ltrb).all()
    again = EdgeDeepSort(embedder=None, method=method)
    again.load_state_dict(tracker.state_dict())
