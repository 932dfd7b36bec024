"""Zones and lines: by hand, and on real tracks against NumPy and matplotlib."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from edge_tracker.app.config.schema import LineConfig, ZoneConfig
from edge_tracker.app.counting.zones import MARGIN, ZoneMonitor
from edge_tracker.app.frame_results import ZoneEvent

from .truth import FPS, moments, rows

SQUARE = {"square": ZoneConfig(polygon=[[100.0, 100.0], [200.0, 100.0], [200.0, 200.0], [100.0, 200.0]])}
# Downwards in the picture: its right-hand side, looking along it, is at smaller x.
LINE = {"door": LineConfig(start=[100.0, 0.0], end=[100.0, 200.0])}


class Walk:
    """One object (or several) of 40 x 100 pixels at points that a test gives."""

    def __init__(self, zones=None, lines=None) -> None:
        self.monitor = ZoneMonitor(zones or {}, lines or {})
        self.time = 0.0
        self.zones: list[tuple[str, ...]] = []

    def to(self, *points, id: int = 1, name: str | None = "person", live: set[int] | None = None) -> list[ZoneEvent]:
        events: list[ZoneEvent] = []
        for x, y in points:
            box = np.array([[x - 20, y - 100, x + 20, y]], float)
            self.zones, happened = self.monitor.update(
                np.array([id]), box, [name], live or {id}, self.time, 1000 + self.time
            )
            events += happened
            self.time += 1.0
        return events

    def unseen(self, frames: int = 1, live=(1,)) -> list[ZoneEvent]:
        events: list[ZoneEvent] = []
        for _ in range(frames):
            events += self.monitor.update(np.empty(0, int), np.empty((0, 4)), [], live, self.time, 1000 + self.time)[1]
            self.time += 1.0
        return events


def kinds(events: list[ZoneEvent]) -> list[str]:
    return [event.type for event in events]


# ---- zones ---------------------------------------------------------------------------------------------------------


def test_a_zone_is_entered_and_left_with_the_seconds_between():
    walk = Walk(SQUARE)
    events = walk.to((50, 150), (150, 150))
    assert walk.zones == [("square",)]
    events += walk.to((160, 150), (190, 150), (250, 150))
    assert walk.zones == [()]
    assert events == [
        ZoneEvent("enter", "square", 1, "person", 1001.0),
        ZoneEvent("exit", "square", 1, "person", 1004.0, 3.0),
    ]
    assert walk.monitor.totals() == {
        "square": {
            "inside": 0, "inside.person": 0, "entries": 1, "entries.person": 1, "exits": 1, "exits.person": 1,
            "dwell": 3.0, "dwell.person": 3.0,
        }
    }  # fmt: skip


def test_the_middle_of_the_lower_edge_is_where_an_object_stands():
    monitor = ZoneMonitor(SQUARE, {})
    boxes = np.array([[110, 110, 190, 201], [101, 0, 299, 150], [99, 0, 299, 150]], float)
    zones, _ = monitor.update(np.array([1, 2, 3]), boxes, [None] * 3, {1, 2, 3}, 0.0, 0.0)
    assert zones == [(), (), ("square",)]


def test_trembling_at_an_edge_counts_once():
    walk = Walk(SQUARE)
    within = 100 * MARGIN - 0.5
    assert kinds(walk.to(*[(100 + within * (-1) ** k, 150) for k in range(41)])) == ["enter"]
    assert kinds(walk.to((100 - 100 * MARGIN - 0.5, 150))) == ["exit"]


def test_an_object_that_ends_inside_leaves_as_of_when_it_was_last_seen():
    walk = Walk(SQUARE)
    walk.to((150, 150), (150, 150), (150, 150))
    assert walk.unseen(5) == []
    assert walk.unseen(live=()) == [ZoneEvent("exit", "square", 1, "person", 1008.0, 2.0)]
    assert walk.monitor.totals()["square"]["inside"] == 0


def test_a_lost_object_that_returns_keeps_its_dwell():
    walk = Walk(SQUARE)
    walk.to((150, 150))
    walk.unseen(7)
    assert walk.monitor.totals()["square"]["inside"] == 1
    assert [event.dwell for event in walk.to((150, 150), (300, 150))] == [9.0]


def test_only_the_classes_asked_for_enter_and_one_that_flickers_stays():
    zones = {"cars": ZoneConfig(polygon=SQUARE["square"].polygon, classes=["car"])}
    walk = Walk(zones)
    assert walk.to((150, 150), name="person") == walk.to((150, 150), name=None) == []
    assert kinds(walk.to((150, 150), name="car")) == ["enter"]
    assert walk.to((150, 150), name="truck") == []
    assert walk.to((300, 150), name="truck") == [ZoneEvent("exit", "cars", 1, "car", 1004.0, 2.0)]


def test_an_object_may_be_in_several_zones():
    zones = {**SQUARE, "wide": ZoneConfig(polygon=[[0.0, 0.0], [400.0, 0.0], [400.0, 400.0], [0.0, 400.0]])}
    walk = Walk(zones)
    assert [(event.type, event.name) for event in walk.to((150, 150))] == [("enter", "square"), ("enter", "wide")]
    assert walk.zones == [("square", "wide")]


def test_objects_without_a_class_are_counted_in_all():
    walk = Walk(SQUARE)
    walk.to((150, 150), name=None)
    assert walk.monitor.totals()["square"] == {"inside": 1, "entries": 1, "exits": 0, "dwell": 0}


# ---- lines ---------------------------------------------------------------------------------------------------------


def test_in_is_from_left_to_right_looking_along_the_line():
    # Along a line to the right, the left-hand side is up, at smaller y.
    walk = Walk(lines={"gate": LineConfig(start=[0.0, 100.0], end=[200.0, 100.0])})
    assert walk.to((50, 50), (60, 150), (70, 50)) == [
        ZoneEvent("in", "gate", 1, "person", 1001.0),
        ZoneEvent("out", "gate", 1, "person", 1002.0),
    ]
    assert walk.monitor.totals() == {"gate": {"in": 1, "in.person": 1, "out": 1, "out.person": 1}}


def test_who_walks_around_the_end_of_a_line_has_not_crossed_it():
    walk = Walk(lines=LINE)
    assert walk.to((150, 100), (150, 250), (50, 250), (50, 100)) == []
    assert kinds(walk.to((150, 100))) == ["out"]


def test_trembling_on_a_line_counts_nothing_and_crossing_it_slowly_once():
    walk = Walk(lines=LINE)
    within = 100 * MARGIN - 0.5
    walk.to((150, 100))
    assert walk.to(*[(100 + within * (-1) ** k, 100) for k in range(40)]) == []
    assert kinds(walk.to(*[(x, 100) for x in range(110, 90, -1)], *[(90, 100)] * 5)) == ["in"]
    assert walk.to((100 + within, 100), (100, 100), (90, 100)) == []


def test_a_crossing_that_no_detection_saw_counts_when_the_object_is_back():
    walk = Walk(lines=LINE)
    walk.to((150, 100))
    walk.unseen(3)
    assert kinds(walk.to((50, 100))) == ["in"]


def test_a_new_object_on_the_other_side_has_crossed_nothing():
    walk = Walk(lines=LINE)
    walk.to((150, 100), id=1)
    assert walk.to((50, 100), id=2, live={2}) == []
    assert walk.to((50, 100), id=1) == []  # the identity is forgotten with its track


def test_a_line_counts_only_its_classes():
    walk = Walk(lines={"door": LineConfig(start=[100.0, 0.0], end=[100.0, 200.0], classes=["car"])})
    assert walk.to((150, 100), (50, 100), (150, 100), name="person") == []
    assert kinds(walk.to((50, 100), name="car")) == ["in"]


# ---- state ---------------------------------------------------------------------------------------------------------


def test_a_restart_keeps_counts_dwell_and_sides():
    walk = Walk(SQUARE, LINE)
    walk.to((150, 150), (110, 150), (110, 150))
    walk.unseen(2)
    saved = json.loads(json.dumps(walk.monitor.state()))
    later = Walk(SQUARE, LINE)
    later.monitor.load(saved)
    assert later.monitor.totals() == walk.monitor.totals()
    assert later.monitor.state() == saved
    later.time = 500.0  # a new source has its own clock
    events = later.to((120, 150), (120, 150), (90, 150))
    # 2 s until last seen, 2 s unseen, and 2 s from the first frame after the restart to the last.
    assert [(event.type, event.name, event.dwell) for event in events] == [
        ("exit", "square", 6.0),
        ("in", "door", None),
    ]


def test_after_a_restart_an_object_that_did_not_survive_leaves():
    walk = Walk(SQUARE)
    walk.to((150, 150), (150, 150))
    later = Walk(SQUARE)
    later.monitor.load(walk.monitor.state())
    assert later.unseen(live=()) == [ZoneEvent("exit", "square", 1, "person", 1000.0, 1.0)]


def test_zones_that_are_gone_are_left_out_and_new_ones_begin_at_zero():
    walk = Walk(SQUARE, LINE)
    walk.to((150, 150), (90, 150))
    other = ZoneMonitor({"new": SQUARE["square"]}, LINE)
    other.load(walk.monitor.state())
    totals = other.totals()
    assert totals["new"] == {"inside": 0, "entries": 0, "exits": 0, "dwell": 0}
    assert totals["door"] == {"in": 1, "in.person": 1, "out": 0}
    assert "square" not in totals


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        [],
        {},
        "zones",
        {"zones": {}, "lines": {}, "more": 1},
        {"zones": {"square": {"counts": {"entries": -1}, "visits": {}}}, "lines": {}},
        {"zones": {"square": {"counts": {"entries": float("nan")}, "visits": {}}}, "lines": {}},
        {"zones": {"square": {"counts": {}, "visits": {"one": {}}}}, "lines": {}},
        {"zones": {}, "lines": {"door": {"counts": {}, "stood": {"1": [1.0]}}}},
    ],
)
def test_garbage_is_refused_in_a_line_and_changes_nothing(garbage, caplog):
    walk = Walk(SQUARE, LINE)
    walk.to((150, 150), (90, 150), (150, 150))
    before = walk.monitor.totals(), walk.monitor.state()
    walk.monitor.load(garbage)
    assert (walk.monitor.totals(), walk.monitor.state()) == before
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()


# ---- real tracks ---------------------------------------------------------------------------------------------------

AREA = [[250.0, 150.0], [520.0, 180.0], [600.0, 400.0], [400.0, 300.0], [200.0, 420.0]]  # not convex


def distance_to_edges(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    starts, ends = corners, np.roll(corners, -1, axis=0)
    along = ends - starts
    share = ((points[:, None] - starts) * along).sum(-1) / (along**2).sum(-1)
    nearest = starts + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


def test_real_entries_exits_and_dwell_are_those_of_matplotlib(shared_data: Path):
    monitor = ZoneMonitor({"area": ZoneConfig(polygon=AREA)}, {})
    counted: dict[int, Counter[str]] = defaultdict(Counter)
    inside_at: list[int] = []
    for moment in moments(shared_data):
        names = ["person"] * len(moment.ids)
        zones, events = monitor.update(moment.ids, moment.ltrb, names, moment.live, moment.time, moment.wall)
        for event in events:
            counted[event.id][event.type] += 1
        inside_at.append(sum(zone == ("area",) for zone in zones))

    entries = exits = 0
    dwell = 0.0
    occupied: Counter[int] = Counter()
    found = rows(shared_data)
    for id in np.unique(found[:, 1]):
        track = found[found[:, 1] == id]
        feet = np.column_stack([(track[:, 2] + track[:, 4]) / 2, track[:, 5]])
        inside = Polygon(AREA).contains_points(feet)
        far_out = ~inside & (distance_to_edges(feet, np.array(AREA)) > MARGIN * (track[:, 5] - track[:, 3]))
        entered = None
        before = Counter[str]()
        for k, frame in enumerate(track[:, 0]):
            if entered is None and inside[k]:
                entered = frame
                before["enter"] += 1
            elif entered is not None and far_out[k]:
                dwell += (frame - entered) / FPS
                entered = None
                before["exit"] += 1
            occupied[int(frame)] += entered is not None
        if entered is not None:
            dwell += (track[-1, 0] - entered) / FPS
            before["exit"] += 1
        entries, exits = entries + before["enter"], exits + before["exit"]
        assert counted[int(id)] == before
    assert entries > 20  # the scene is a busy one
    totals = monitor.totals()["area"]
    assert (totals["inside"], totals["entries"], totals["exits"]) == (0, entries, exits)
    assert totals["dwell"] == pytest.approx(dwell, abs=0.01)
    assert totals["entries.person"] == entries
    assert inside_at[:-1] == [occupied[frame] for frame in range(1, len(inside_at))]


def test_real_crossings_are_those_of_numpy(shared_data: Path):
    # Across the whole picture and beyond, so that nobody goes around its ends.
    line = LineConfig(start=[380.0, -10_000.0], end=[420.0, 10_000.0])
    monitor = ZoneMonitor({}, {"across": line})
    for moment in moments(shared_data):
        names = ["person"] * len(moment.ids)
        monitor.update(moment.ids, moment.ltrb, names, moment.live, moment.time, moment.wall)

    into = out = 0
    start, end = np.array(line.start), np.array(line.end)
    along = (end - start) / np.linalg.norm(end - start)
    found = rows(shared_data)
    for id in np.unique(found[:, 1]):
        track = found[found[:, 1] == id]
        feet = np.column_stack([(track[:, 2] + track[:, 4]) / 2, track[:, 5]])
        right = (feet - start) @ np.array([-along[1], along[0]])  # the y axis points down
        sure = np.abs(right) > MARGIN * (track[:, 5] - track[:, 3])
        sure[0] = True
        turns = np.diff(np.sign(right[sure]))
        into, out = into + int((turns > 0).sum()), out + int((turns < 0).sum())
    assert min(into, out) > 5
    totals = monitor.totals()["across"]
    assert (totals["in"], totals["out"]) == (into, out)
    assert (totals["in.person"], totals["out.person"]) == (into, out)


def test_hysteresis_saves_real_people_from_being_counted_again(shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    def entries() -> float:
        monitor = ZoneMonitor({"area": ZoneConfig(polygon=AREA)}, {})
        for moment in moments(shared_data):
            names = ["person"] * len(moment.ids)
            monitor.update(moment.ids, moment.ltrb, names, moment.live, moment.time, moment.wall)
        return monitor.totals()["area"]["entries"]

    calm = entries()
    monkeypatch.setattr("edge_tracker.app.counting.zones.MARGIN", 0.0)
    assert entries() > calm


def test_a_restart_in_the_middle_of_a_real_scene_changes_no_count(shared_data: Path):
    zones = {"area": ZoneConfig(polygon=AREA)}
    lines = {"across": LineConfig(start=[400.0, 0.0], end=[400.0, 576.0])}
    straight, resumed = ZoneMonitor(zones, lines), ZoneMonitor(zones, lines)
    for moment in moments(shared_data):
        seen = (moment.ids, moment.ltrb, ["person"] * len(moment.ids), moment.live)
        expected = straight.update(*seen, moment.time, moment.wall)
        if moment.frame % 100 == 0:
            saved = json.loads(json.dumps(resumed.state()))
            resumed = ZoneMonitor(zones, lines)
            resumed.load(saved)
        zones_of, events = resumed.update(*seen, moment.time, moment.wall)
        assert zones_of == expected[0]
        assert [(e.type, e.name, e.id) for e in events] == [(e.type, e.name, e.id) for e in expected[1]]
    # Each restart costs an object inside the time between two frames of its dwell.
    assert {k: v for k, v in resumed.totals()["area"].items() if "dwell" not in k} == {
        k: v for k, v in straight.totals()["area"].items() if "dwell" not in k
    }
    assert resumed.totals()["across"] == straight.totals()["across"]
