"""Cutting, joining, and what is said of the difference."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from edge_tracker.app.batch.segments import Part, Segment, compare, correspondence, cut_into, join, read_rows
from edge_tracker.app.batch.video_settings import Cut

Objects = dict[int, dict[int, tuple[float, float]]]  # frame -> identity -> left, top


def line(frame: int, id: int, left: float, top: float) -> str:
    return f"{frame},{id},{left:.2f},{top:.2f},20.00,40.00,0.9000,-1,-1,-1\n"


def write(path: Path, objects: Objects) -> Path:
    path.write_text("".join(line(f, i, *objects[f][i]) for f in sorted(objects) for i in objects[f]))
    return path


def write_jsonl(path: Path, objects: Objects, first: int, last: int) -> Path:
    records = (
        {
            "schema": 1,
            "frame": frame,
            "time": frame / 10,
            "tracks": [{"id": id, "class": "person", "box": [*box, 20.0, 40.0]} for id, box in objects[frame].items()],
            "events": [{"kind": "object"}],
        }
        for frame in range(first, last + 1)
    )
    path.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records))
    return path


def walkers(frames: int, people: int, apart: float = 30.0) -> Objects:
    """People who walk side by side."""
    return {f: {k: (2.0 * f, apart * k) for k in range(1, people + 1)} for f in range(1, frames + 1)}


def part_of(folder: Path, objects: Objects, segment: Segment, names: dict[int, int]) -> Part:
    """The results of a segment as its own tracker reports them: the same boxes with other identities."""
    last = segment.first + segment.count - 1 if segment.count else max(objects)
    seen = {f: {names[i]: at for i, at in objects[f].items() if i in names} for f in range(segment.first, last + 1)}
    n = segment.first
    return Part(
        segment, write(folder / f"{n}.txt", seen), write_jsonl(folder / f"{n}.jsonl", seen, segment.first, last)
    )


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("frames", [1, 99, 100, 101, 120, 121, 1000, 1234])
def test_segments_overlap_and_cover_all(frames, every):
    segments = cut_into(frames, 10.0, Cut(10, 2), every)
    assert segments[0].first == 1
    assert segments[-1].count is None
    for before, after in itertools.pairwise(segments):
        assert before.first + before.count - after.first == 20
        assert after.first + 20 <= frames, "a last segment has more to it than the overlap"
        assert (after.first - 1) % every == 0
    assert len(segments) == max(1, -(-(frames - 20) // (99 if every == 3 else 100)))


def test_a_video_that_does_not_say_how_long_it_is_stays_whole():
    assert cut_into(None, 10.0, Cut(10, 2), 1) == [Segment(1, None)]
    assert cut_into(1000, None, Cut(10, 2), 1) == [Segment(1, None)]


def test_an_overlap_of_less_than_a_frame_is_one():
    assert cut_into(300, 10.0, Cut(10, 0.01), 1)[0] == Segment(1, 101)


def test_joining_gives_the_whole_back(tmp_path):
    whole = walkers(100, 3)
    whole[70][4] = whole[71][4] = (5.0, 400.0)  # comes and goes in the last segment
    for frame in whole:
        if frame > 50:
            del whole[frame][2]  # is gone before the last segment begins
    parts = [
        part_of(tmp_path, whole, Segment(1, 40), {1: 1, 2: 2, 3: 3}),
        part_of(tmp_path, whole, Segment(31, 40), {1: 7, 2: 1, 3: 2, 4: 9}),
        part_of(tmp_path, whole, Segment(61, None), {1: 3, 3: 1, 4: 4}),
    ]
    outputs = {"mot": tmp_path / "joined.txt", "jsonl": tmp_path / "joined.jsonl"}
    assert join(parts, outputs) == 4
    assert outputs["mot"].read_text() == write(tmp_path / "whole.txt", whole).read_text()
    records = [json.loads(text) for text in outputs["jsonl"].read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(1, 101))
    for record in records:
        assert {track["id"]: tuple(track["box"][:2]) for track in record["tracks"]} == whole[record["frame"]]
        assert "events" not in record
    difference = compare(tmp_path / "whole.txt", outputs["mot"])
    assert (difference.uncut, difference.cut, difference.whole, difference.switches, difference.idf1) == (
        4,
        4,
        4,
        0,
        100,
    )


def test_an_identity_that_nobody_sees_in_the_overlap_is_a_new_one(tmp_path):
    whole = walkers(80, 2)
    for frame in range(25, 45):
        del whole[frame][1]
    parts = [
        part_of(tmp_path, whole, Segment(1, 40), {1: 1, 2: 2}),
        part_of(tmp_path, whole, Segment(31, None), {1: 2, 2: 1}),
    ]
    joined = tmp_path / "joined.txt"
    assert join(parts, {"mot": joined}) == 3
    difference = compare(write(tmp_path / "whole.txt", whole), joined)
    assert (difference.uncut, difference.cut, difference.whole, difference.switches) == (2, 3, 1, 1)
    # 24 of the first one's 60 boxes are under another identity.
    assert difference.idf1 == round(100 * (80 + 36) / 140, 2)


def test_identities_are_told_apart_by_all_frames_of_the_overlap(tmp_path):
    """Two who stand where the other one will: the first frame alone would mix them up."""
    before = write(tmp_path / "a.txt", {f: {1: (10.0 * f, 0.0), 2: (100.0 - 10.0 * f, 0.0)} for f in range(11)})
    after = write(tmp_path / "b.txt", {f: {8: (10.0 * f, 1.0), 9: (100.0 - 10.0 * f, 1.0)} for f in range(5, 11)})
    assert correspondence(read_rows(after), read_rows(before)) == {8: 1, 9: 2}


def test_the_best_of_all_correspondences_is_taken(tmp_path):
    """One to one: 5 would rather be 1, but then 6 would have nobody."""
    before = write(tmp_path / "a.txt", {1: {1: (0.0, 0.0), 2: (0.0, 10.0)}})
    after = write(tmp_path / "b.txt", {1: {5: (0.0, 3.0), 6: (0.0, -6.0)}})
    assert correspondence(read_rows(after), read_rows(before)) == {5: 2, 6: 1}


def test_boxes_that_hardly_touch_are_different_objects(tmp_path):
    before = write(tmp_path / "a.txt", {1: {1: (0.0, 0.0)}})
    after = write(tmp_path / "b.txt", {1: {5: (7.0, 0.0)}})  # IoU 13/27
    assert correspondence(read_rows(after), read_rows(before)) == {}


def test_segments_without_anybody(tmp_path):
    parts = [
        part_of(tmp_path, {f: {} for f in range(1, 41)}, Segment(1, 40), {}),
        part_of(tmp_path, walkers(80, 1), Segment(31, None), {1: 1}),
    ]
    assert join(parts, {"mot": tmp_path / "joined.txt"}) == 1
    rows = read_rows(tmp_path / "joined.txt")
    assert rows.frames.tolist() == list(range(41, 81))
    assert set(rows.ids.tolist()) == {1}
    nobody = write(tmp_path / "nobody.txt", {})
    assert read_rows(nobody).boxes.shape == (0, 4)
    assert compare(nobody, nobody).idf1 == 100
    assert np.isclose(compare(nobody, tmp_path / "joined.txt").idf1, 0)
