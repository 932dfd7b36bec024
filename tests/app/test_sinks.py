"""Result files: their content, and failures to write them."""

from __future__ import annotations

import json
import os
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.annotate import Annotator, color_of
from edge_tracker.app.outputs.payloads import tracks_payload
from edge_tracker.app.outputs.sinks import JsonlSink, MotSink, VideoSink, check_output
from edge_tracker.app.sources.frames import Frame
from edge_tracker.errors import OutputError

NAMES = ("person", 'naïve "car"')


def tracks_of(*objects, names=NAMES) -> FrameTracks:
    """Tracks of (id, ltrb, class, confidence) tuples."""
    ids, boxes, classes, confidence = zip(*objects, strict=True) if objects else ((), (), (), ())
    return FrameTracks(
        np.array(ids, np.int64),
        np.array(boxes, float).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(confidence, float),
        names,
    )


TWO = tracks_of((7, (10, 20, 30.004, 50.5), 0, 0.91234), (8, (-5, -6, 15, 34), 1, np.nan))


def test_mot(tmp_path):
    sink = MotSink(tmp_path / "new/folder/t.txt")
    sink.write(Frame(1, 0.0, None), tracks_of())
    sink.write(Frame(3, 0.2, None), TWO)
    # Whole lines are there at once, not only after closing.
    text = (tmp_path / "new/folder/t.txt").read_text()
    sink.close()
    assert text == "3,7,10.00,20.00,20.00,30.50,0.9123,-1,-1,-1\n3,8,-5.00,-6.00,20.00,40.00,1.0000,-1,-1,-1\n"


def test_jsonl(tmp_path):
    sink = JsonlSink(tmp_path / "t.jsonl")
    sink.write(Frame(1, 0.0, None), tracks_of())
    sink.write(Frame(2, 0.12345, None), TWO)
    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    sink.close()
    assert json.loads(lines[0]) == {"schema": 1, "frame": 1, "time": 0.0, "tracks": []}
    assert json.loads(lines[1]) == {
        "schema": 1,
        "frame": 2,
        "time": 0.123,
        "tracks": [
            {"id": 7, "class": "person", "class_id": 0, "confidence": 0.9123, "box": [10.0, 20.0, 20.0, 30.5]},
            {"id": 8, "class": NAMES[1], "class_id": 1, "confidence": None, "box": [-5.0, -6.0, 20.0, 40.0]},
        ],
    }


def test_jsonl_without_classes_and_beyond_the_names(tmp_path):
    sink = JsonlSink(tmp_path / "t.jsonl")
    sink.write(Frame(1, 0.0, None), tracks_of((1, (0, 0, 1, 1), -1, 0.5), (2, (0, 0, 1, 1), 9, 0.5)))
    sink.close()
    first, second = json.loads((tmp_path / "t.jsonl").read_text())["tracks"]
    assert (first["class"], first["class_id"]) == (None, None)
    assert (second["class"], second["class_id"]) == ("9", 9)


def test_coasting_objects_are_marked(tmp_path):
    frame, tracks = Frame(1, 0.0, None), replace(TWO, coasting=[False, True])
    jsonl, mot = JsonlSink(tmp_path / "t.jsonl"), MotSink(tmp_path / "t.txt")
    for sink in (jsonl, mot):
        sink.write(frame, tracks)
        sink.close()
    first, second = json.loads((tmp_path / "t.jsonl").read_text())["tracks"]
    assert "predicted" not in first
    assert second["predicted"] is True
    assert [row.split(",")[6] for row in (tmp_path / "t.txt").read_text().splitlines()] == ["0.9123", "0.0000"]
    assert tracks.labels() == ["7 person", f"(8 {NAMES[1]})"]
    assert [t["predicted"] for t in tracks_payload("c", frame, tracks)["tracks"]] == [False, True]


@pytest.mark.parametrize("name", ["v.avi", "v.mp4", "V.MP4"])
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_video(tmp_path, name, size):
    width, height = size
    sink = VideoSink(tmp_path / "sub" / name, 12.5)
    for i in range(1, 8):
        sink.write(Frame(i, 0.0, np.full((height, width, 3), 90, np.uint8)), tracks_of((i, (5, 5, 40, 30), 0, 0.5)))
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "sub" / name))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        frames.append(frame)
    assert len(frames) == 7
    assert frames[0].shape == (48, 64, 3)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert not np.allclose(frames[0][5:30, 5:40], 90, atol=30), "something is drawn"


def test_video_of_frames_that_change_their_size(tmp_path):
    sink = VideoSink(tmp_path / "v.avi", None)
    for i, (height, width) in enumerate([(48, 64), (100, 50), (48, 65), (10, 400)], 1):
        sink.write(Frame(i, 0.0, np.zeros((height, width, 3), np.uint8)), tracks_of())
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "v.avi"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 4


def test_closing_without_a_frame_leaves_valid_files(tmp_path):
    for sink in (MotSink(tmp_path / "t.txt"), JsonlSink(tmp_path / "t.jsonl"), VideoSink(tmp_path / "v.mp4", 10)):
        sink.close()
    assert (tmp_path / "t.txt").read_bytes() == b""
    assert not (tmp_path / "v.mp4").exists(), "there is no such thing as a video without frames"


@pytest.mark.parametrize("kind", [MotSink, JsonlSink, lambda path: VideoSink(path.with_suffix(".mp4"), 10)])
def test_unwritable(tmp_path, kind):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for path, said in [
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "file/t.mp4", "is not a folder"),
        (tmp_path / "file/x/t.mp4", "is not a folder"),
    ]:
        with pytest.raises(OutputError) as caught:
            kind(path)
        assert str(caught.value).startswith(str(path))
        assert said in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="permission denied"):
        check_output(tmp_path / "closed/t.txt")


def test_checking_an_output_touches_nothing(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    check_output(tmp_path / "old.txt")
    check_output(tmp_path / "a/b/c.txt")
    assert (tmp_path / "old.txt").read_text() == "old"
    assert not (tmp_path / "a").exists()


@contextmanager
def full_disk():
    """Files cannot grow beyond 1000 bytes: no file of this process, so pytest itself must not write meanwhile."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)


def write_many(sink, count, image):
    for i in range(1, count + 1):
        sink.write(Frame(i, 0.0, image), TWO)


@pytest.mark.parametrize("kind", [MotSink, JsonlSink])
def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path, kind):
    sink = kind(tmp_path / "t")
    with full_disk():
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            write_many(sink, 1000, None)
        sink.close()
    text = (tmp_path / "t").read_text()
    assert text.endswith("\n")
    assert 500 < len(text) <= 1000
    if kind is JsonlSink:
        assert all(len(json.loads(line)["tracks"]) == 2 for line in text.splitlines())


def test_a_video_that_found_no_room_is_an_error(tmp_path):
    sink = VideoSink(tmp_path / "v.mp4", 10)
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    with full_disk():
        write_many(sink, 8, image)
        with pytest.raises(OutputError, match="cannot be read back"):
            sink.close()


anything = st.floats(width=64)


@settings(max_examples=150)
@given(
    boxes=npst.arrays(np.float64, st.tuples(st.integers(0, 5), st.just(4)), elements=anything),
    class_ids=st.integers(-1, 100),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    names=st.lists(st.text(max_size=5), max_size=3),
    confidence=st.floats(0, 1) | st.just(float("nan")),
)
def test_any_box_can_be_drawn(boxes, class_ids, size, names, confidence):
    image = np.zeros((*size, 3), np.uint8)
    labels = [str(names)] * len(boxes)
    drawn = Annotator().draw(image, np.arange(1, len(boxes) + 1), boxes, labels)
    assert drawn.shape == image.shape
    assert not image.any(), "the frame itself is left alone"


@settings(max_examples=150)
@given(
    boxes=npst.arrays(np.float64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(-1e9, 1e9)),
    class_id=st.integers(-1, 5),
    names=st.lists(st.text(max_size=5), max_size=3),
    confidence=st.floats(0, 1) | st.just(float("nan")),
)
def test_text_sinks_write_whole_valid_lines(tmp_path, boxes, class_id, names, confidence):
    tracks = tracks_of(*[(i + 1, box, class_id, confidence) for i, box in enumerate(boxes)], names=names)
    mot, jsonl = MotSink(tmp_path / "t.txt"), JsonlSink(tmp_path / "t.jsonl")
    for sink in (mot, jsonl):
        sink.write(Frame(1, 0.0, None), tracks)
        sink.close()
    (line,) = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines(keepends=False) or [""]
    assert [item["id"] for item in json.loads(line)["tracks"]] == list(range(1, len(boxes) + 1))
    rows = (tmp_path / "t.txt").read_text().splitlines()
    assert [[float(cell) for cell in row.split(",")][1] for row in rows] == list(range(1, len(boxes) + 1))


def test_colours_are_stable_and_neighbours_differ():
    assert color_of(5) == color_of(5)
    for i in range(1, 50):
        assert np.abs(np.subtract(color_of(i), color_of(i + 1))).sum() > 100


def test_trails_stay_few():
    annotator = Annotator()
    image = np.zeros((20, 20, 3), np.uint8)
    for i in range(2000):
        annotator.draw(image, np.array([i]), np.array([[1.0, 1, 5, 5]]), [""])
    assert len(annotator._trails) <= 500
