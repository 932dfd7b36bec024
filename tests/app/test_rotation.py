"""Files put aside: names, what is kept, torn lines, and outputs that are rotated in mid-run."""

from __future__ import annotations

import json
import os
import shutil
from datetime import date, timedelta

import cv2
import numpy as np
import pytest

from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs import rotation, sinks
from edge_tracker.app.outputs.rotation import Rotation, drop_torn_line, put_aside, set_aside
from edge_tracker.app.outputs.sinks import JsonlSink, VideoSink
from edge_tracker.app.sources.frames import Frame
from edge_tracker.errors import OutputError


def tracks(k=1):
    boxes = np.tile([1.0, 2, 30, 40], (k, 1))
    return FrameTracks(np.arange(1, k + 1), boxes, np.zeros(k, np.int64), np.full(k, 0.5), ("person",))


def frames_in(path):
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


@pytest.fixture
def looks_each_time(monkeypatch):
    monkeypatch.setattr(sinks, "SYNC_EVERY_S", 0.0)


def test_only_the_newest_are_kept_under_names_of_their_own(tmp_path):
    path = tmp_path / "t.jsonl"
    other = tmp_path / "t.20260101-000000.txt"
    other.write_text("of another output")
    for n in range(5):
        path.write_text(str(n))
        os.utime(path, (1_700_000_000 + n // 2, 1_700_000_000 + n // 2))
        put_aside(path, keep=3)
    kept = set_aside(path)
    assert sorted(file.read_text() for file in kept) == ["2", "3", "4"]
    assert len({file.name for file in kept}) == 3
    assert other.exists()


def test_none_kept(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("x")
    put_aside(path, keep=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "left"),
    [(b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"no line end", b""), (b"a\n" + b"x" * 200_000, b"a\n")],
)
def test_a_torn_line_goes(tmp_path, content, left):
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    drop_torn_line(path)
    assert path.read_bytes() == left


def test_a_cameras_earlier_results_are_put_aside_without_their_torn_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"frame":1}\n{"fra')
    sink = JsonlSink(path, Rotation(live=True))
    sink.write(Frame(2, 0.1, None), tracks())
    sink.close()
    (old,) = set_aside(path)
    assert old.read_text() == '{"frame":1}\n'
    assert frames_in(path) == [2]


def test_text_rotates_by_size_and_loses_no_line(tmp_path, looks_each_time):
    path = tmp_path / "t.jsonl"
    sink = JsonlSink(path, Rotation(mib=1, keep=100))
    for index in range(1, 2001):
        sink.write(Frame(index, index / 10, None), tracks(20))
    sink.close()
    parts = [*set_aside(path), path]
    assert len(parts) > 2
    assert sorted(n for part in parts for n in frames_in(part)) == list(range(1, 2001))
    assert max(part.stat().st_size for part in parts) < 1.1 * 2**20


def test_text_rotates_when_the_day_changes_and_when_the_clock_is_set_back(tmp_path, looks_each_time, monkeypatch):
    path = tmp_path / "t.jsonl"
    today = date.today()

    class Calendar(date):
        now = date.today()

        @classmethod
        def today(cls):
            return cls.now

    monkeypatch.setattr(rotation, "date", Calendar)
    monkeypatch.setattr(sinks, "date", Calendar)
    sink = JsonlSink(path, Rotation(daily=True))
    for index, day in enumerate([0, 0, 1, 1, -3, -3], start=1):
        Calendar.now = today + timedelta(days=day)
        sink.write(Frame(index, index / 10, None), tracks())
    sink.close()
    assert sorted(frames_in(part) for part in set_aside(path)) == [[1, 2, 3], [4, 5]]
    assert frames_in(path) == [6]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_is_removed_is_begun_anew(tmp_path, looks_each_time, caplog, what):
    path = tmp_path / "out" / "t.jsonl"
    sink = JsonlSink(path, Rotation(live=True))
    sink.write(Frame(1, 0.1, None), tracks())
    shutil.rmtree(path.parent) if what == "folder" else path.unlink()
    sink.write(Frame(2, 0.2, None), tracks())
    sink.write(Frame(3, 0.3, None), tracks())
    sink.close()
    assert frames_in(path) == [3]
    assert "was removed" in caplog.text


def test_a_file_that_is_removed_is_not_complete_any_more(tmp_path, looks_each_time):
    """For a source that has an end: partial results could be mistaken for complete ones."""
    path = tmp_path / "out" / "t.jsonl"
    sink = JsonlSink(path)
    sink.write(Frame(1, 0.1, None), tracks())
    shutil.rmtree(path.parent)
    with pytest.raises(OutputError, match=r"t\.jsonl: was removed while it was being written"):
        sink.write(Frame(2, 0.2, None), tracks())
    sink.close()
    assert not path.parent.exists()


def test_video_rotates_and_every_part_plays(tmp_path, looks_each_time):
    path = tmp_path / "t.avi"
    sink = VideoSink(path, 10.0, Rotation(mib=1, keep=100))
    rng = np.random.default_rng(0)
    for index in range(1, 41):
        sink.write(Frame(index, index / 10, rng.integers(0, 256, (240, 320, 3), np.uint8)), tracks())
    sink.close()
    parts = [*set_aside(path), *([path] if path.exists() else [])]
    assert len(parts) > 1
    count = 0
    for part in parts:
        capture = cv2.VideoCapture(str(part))
        count += sum(1 for _ in iter(capture.grab, False))
    assert count == 40


def test_a_name_that_has_become_a_folder_is_an_error(tmp_path, looks_each_time):
    path = tmp_path / "t.jsonl"
    sink = JsonlSink(path)
    sink.write(Frame(1, 0.1, None), tracks())
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match=r"t\.jsonl"):
        sink.write(Frame(2, 0.2, None), tracks())
