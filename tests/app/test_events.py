"""Object events: order, rate, ends, restarts, and on real tracks."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.app.counting.events import ObjectEvents
from edge_tracker.app.frame_results import ObjectEvent, reported

from .truth import START, moments

BOX = np.array([[10.0, 20.0, 40.0, 100.0]])


def see(events: ObjectEvents, time: float, zones=(), score: float = 0.5, id: int = 1) -> list[ObjectEvent]:
    where = [zones] if zones else []
    return events.update(np.array([id]), BOX, ["person"], np.array([score]), where, {id}, time, 1000 + time)


def nothing(events: ObjectEvents, time: float, live=()) -> list[ObjectEvent]:
    return events.update(np.empty(0, int), np.empty((0, 4)), [], np.empty(0), [], live, time, 1000 + time)


def test_an_object_comes_stays_and_goes():
    events = ObjectEvents(1.0)
    box = (10.0, 20.0, 30.0, 80.0)
    assert see(events, 0.0) == [ObjectEvent("new", 1, "person", 0.5, 0.5, box, (), (), 1000.0, 1000.0)]
    assert see(events, 0.9, score=0.8) == []
    assert see(events, 1.0, score=0.4) == [ObjectEvent("update", 1, "person", 0.4, 0.8, box, (), (), 1000.0, 1001.0)]
    assert nothing(events, 1.5, live={1}) == []
    assert nothing(events, 2.5) == [
        ObjectEvent("end", 1, "person", 0.4, 0.8, box, (), (), 1000.0, 1002.5, ended=1001.0)
    ]
    assert nothing(events, 3.0) == []


def test_a_change_of_zones_is_told_at_once_and_the_zones_entered_are_kept():
    events = ObjectEvents(10.0)
    see(events, 0.0, ("yard",))
    assert see(events, 0.1, ("yard",)) == []
    (moved,) = see(events, 0.2, ("drive", "yard"))
    assert (moved.type, moved.zones, moved.entered_zones) == ("update", ("drive", "yard"), ("yard", "drive"))
    (left,) = see(events, 0.3)
    assert (left.zones, left.entered_zones) == ((), ("yard", "drive"))
    assert see(events, 10.2) == []  # 9.9 s after the last event
    assert len(see(events, 10.4)) == 1
    see(events, 10.5, ("yard",))
    (end,) = nothing(events, 11.0)
    assert (end.zones, end.entered_zones) == ((), ("yard", "drive"))


def test_detections_without_scores_have_none():
    events = ObjectEvents(1.0)
    (new,) = see(events, 0.0, score=float("nan"))
    assert new.score is new.top_score is None
    (update,) = see(events, 1.0, score=0.3)
    assert (update.score, update.top_score) == (0.3, 0.3)
    (update,) = see(events, 2.0, score=float("nan"))
    assert (update.score, update.top_score) == (0.3, 0.3), "of the detection last matched"


def test_after_a_restart_nobody_is_new_again_and_who_is_gone_ends():
    events = ObjectEvents(1.0)
    see(events, 0.0, ("yard",))
    events.update(
        np.array([1, 2]), np.vstack([BOX, BOX]), ["person", None], np.array([0.9, np.nan]), [("yard",), ()], {1, 2},
        5.0, 1005.0,
    )  # fmt: skip
    saved = json.loads(json.dumps(events.state()))
    later = ObjectEvents(1.0)
    later.load(saved)
    assert later.state() == saved
    end, update = later.update(np.array([1]), BOX, ["person"], np.array([0.1]), [("yard",)], {1}, 0.0, 1060.0)
    assert (end.type, end.id, end.ended, end.time) == ("end", 2, 1005.0, 1060.0)
    assert (update.type, update.id, update.started, update.top_score) == ("update", 1, 1000.0, 0.9)
    assert update.entered_zones == ("yard",)


@pytest.mark.parametrize(
    "garbage",
    [None, [], {}, {"objects": {"x": {}}}, {"objects": {"1": {"class_name": 3}}}, {"objects": {}, "more": 0}],
)
def test_garbage_is_refused_in_a_line_and_changes_nothing(garbage, caplog):
    events = ObjectEvents(1.0)
    see(events, 0.0)
    before = events.state()
    events.load(garbage)
    assert events.state() == before
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()


def test_every_real_object_comes_once_goes_once_and_is_not_told_of_too_often(shared_data: Path):
    events = ObjectEvents(2.0)
    told: dict[int, list[ObjectEvent]] = defaultdict(list)
    spans: dict[int, list[float]] = defaultdict(list)
    for moment in moments(shared_data):
        for id in moment.ids.tolist():
            spans[id].append(moment.wall)
        for event in events.update(
            moment.ids, moment.ltrb, ["person"] * len(moment.ids), np.full(len(moment.ids), 0.9), [], moment.live,
            moment.time, moment.wall,
        ):  # fmt: skip
            told[event.id].append(event)
    assert told.keys() == spans.keys()
    assert min(spans[1]) >= START
    for id, about in told.items():
        assert [event.type for event in about] == ["new", *["update"] * (len(about) - 2), "end"]
        assert about[0].time == about[0].started == spans[id][0]
        assert about[-1].ended == spans[id][-1]
        times = [event.time for event in about[:-1]]
        assert (np.diff(times) >= 2.0 - 1e-6).all()


@pytest.mark.parametrize("method", ["edge", "deepsort"])
def test_tracks_are_reported_for_as_long_as_they_may_coast(method: str) -> None:
    """A person who walks, is not found in five frames, and then again."""
    tracker = EdgeDeepSort(method=method, embedder=None)
    shown = []
    for frame in range(30):
        found = np.array([[100.0 + 4 * frame, 50.0, 40.0, 100.0]])[: 0 if 20 <= frame < 25 else 1]
        tracks = reported(tracker.update(found, np.full(len(found), 0.95)), ("person",), coast=3)
        shown.append((len(tracks), list(tracks.coasting), tracks.ltrb[:, 0].tolist()))
    assert all(count == 1 and coasting == [False] for count, coasting, _ in shown[5:20] + shown[25:])
    assert all(count == 1 and coasting == [True] for count, coasting, _ in shown[20:23])
    assert [left[0] for _, _, left in shown[20:23]] == pytest.approx([180, 184, 188], abs=4)
    assert [count for count, _, _ in shown[23:25]] == [0, 0]
