"""Zones and lines: the objects in each zone, their dwell times, and crossings of lines.

An object's position is the middle of its box's lower edge. Boxes jitter, so both have a hysteresis of `MARGIN` times
the height of the box:

- An object enters a zone as soon as its position is in it, and leaves when it is further outside than the margin, or
  when its track has been deleted.
- An object has crossed a line when it is on the other side and further away than the margin, if the path from its last
  position on the first side leads between the line's ends.

Distances to polygons are OpenCV's. Shapely would add a package to a Jetson without any gain, and supervision brings
SciPy and Matplotlib with it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from edge_tracker.app.config.schema import LineConfig, ZoneConfig
from edge_tracker.app.frame_results import ZoneEvent
from edge_tracker.app.saved import Saved, parse_saved

MARGIN = 0.05  # of the box's height; a walking person's box jitters by 1 to 3 %


class _Counts(dict[str, float]):
    """Figures by name, and by name and class as `name.class`."""

    def add(self, name: str, class_name: str | None, amount: float = 1) -> None:
        for key in _keys(name, class_name):
            self[key] = self.get(key, 0) + amount


@dataclass
class _Visit:
    """An object's stay in a zone: stream time at which it entered and was last seen, and its class on entering."""

    entered: float
    seen: float
    class_name: str | None


@dataclass
class _Zone:
    polygon: np.ndarray
    classes: Collection[str] | None
    counts: _Counts = field(default_factory=lambda: _Counts(entries=0, exits=0, dwell=0))
    visits: dict[int, _Visit] = field(default_factory=dict)

    def depth(self, x: float, y: float) -> float:
        """Pixels from the edge to a point, positive inside."""
        return float(cv2.pointPolygonTest(self.polygon, (x, y), True))


@dataclass
class _Line:
    start: tuple[float, float]
    end: tuple[float, float]
    classes: Collection[str] | None
    counts: _Counts = field(default_factory=lambda: _Counts({"in": 0, "out": 0}))
    stood: dict[int, tuple[float, float]] = field(default_factory=dict)  # last point on the side where an object is

    def side(self, x: float, y: float) -> float:
        """Pixels from the infinitely extended line to a point; positive on the right, looking from start to end."""
        (x0, y0), (x1, y1) = self.start, self.end
        return ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / math.hypot(x1 - x0, y1 - y0)

    def between_ends(self, a: tuple[float, float], b: tuple[float, float]) -> bool:
        """True if the path from `a` to `b`, on different sides, leads between the ends."""
        share = self.side(*a) / (self.side(*a) - self.side(*b))
        x, y = a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
        (x0, y0), (x1, y1) = self.start, self.end
        along = (x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)
        return 0 <= along <= (x1 - x0) ** 2 + (y1 - y0) ** 2


class _SavedVisit(Saved):
    dwell: NonNegativeFloat
    unseen: NonNegativeFloat
    class_name: str | None


class _SavedZone(Saved):
    counts: dict[str, NonNegativeInt | NonNegativeFloat]
    visits: dict[int, _SavedVisit]


class _SavedLine(Saved):
    counts: dict[str, NonNegativeInt | NonNegativeFloat]
    stood: dict[int, tuple[float, float]]


class _SavedCounts(Saved):
    zones: dict[str, _SavedZone]
    lines: dict[str, _SavedLine]


class ZoneMonitor:
    """Watches the zones and lines of one camera.

    An object's class matters when it enters a zone or crosses a line; an object that is inside stays inside when a
    later detection has another class.

    Args:
        zones, lines: by name.
    """

    def __init__(self, zones: Mapping[str, ZoneConfig], lines: Mapping[str, LineConfig]) -> None:
        self._zones = {
            name: _Zone(np.array(zone.polygon, np.float32), zone.classes and frozenset(zone.classes))
            for name, zone in zones.items()
        }
        self._lines = {
            name: _Line(
                (line.start[0], line.start[1]), (line.end[0], line.end[1]), line.classes and frozenset(line.classes)
            )
            for name, line in lines.items()
        }
        self._time: float | None = None  # of the last frame; None before the first, also after loading a state

    def update(
        self,
        ids: np.ndarray,
        ltrb: np.ndarray,
        class_names: Sequence[str | None],
        live_ids: Collection[int],
        time: float,
        wall: float,
    ) -> tuple[list[tuple[str, ...]], list[ZoneEvent]]:
        """Take one frame, and return the zones and events of its objects.

        Args:
            ids: (K,) identities of the objects reported.
            ltrb: (K, 4) their boxes, pixels.
            class_names: K names; None for objects without a class.
            live_ids: identities of all live tracks, including those not seen in this frame.
            time: stream time in seconds, never less than in the frame before. Durations are measured by it.
            wall: Unix seconds, for the events.

        Returns:
            For each object the names of the zones it is in; and the events, first the exits of deleted tracks, then
            the others by object.
        """
        if self._time is None:
            self._start_at(time)
        self._time = time
        live = set(live_ids)
        events = self._end(live, wall)
        inside: list[tuple[str, ...]] = []
        boxes = np.asarray(ltrb, np.float64).reshape(-1, 4).tolist()
        for id, (left, top, right, bottom), class_name in zip(
            np.asarray(ids).tolist(), boxes, class_names, strict=True
        ):
            foot, margin = ((left + right) / 2, bottom), MARGIN * (bottom - top)
            events += self._pass_zones(id, foot, margin, class_name, time, wall)
            events += self._pass_lines(id, foot, margin, class_name, wall)
            inside.append(tuple(name for name, zone in self._zones.items() if id in zone.visits))
        return inside, events

    def totals(self) -> dict[str, dict[str, float]]:
        """The counts so far, by name of zone or line.

        Returns:
            For a zone `inside` (objects now), `entries`, `exits` and `dwell` (seconds inside, summed over the exits);
            for a line `in` and `out`. Each also by class, as in `entries.person`.
        """
        totals: dict[str, dict[str, float]] = defaultdict(dict)
        for name, zone in self._zones.items():
            inside = _Counts({key.replace("entries", "inside", 1): 0 for key in zone.counts if _is(key, "entries")})
            for visit in zone.visits.values():
                inside.add("inside", visit.class_name)
            totals[name].update(inside)
            totals[name].update({key: round(value, 3) for key, value in zone.counts.items()})
        for name, line in self._lines.items():
            totals[name].update(line.counts)
        return dict(totals)

    def state(self) -> dict[str, Any]:
        """The state with which a later run can continue, as plain JSON."""
        now = self._time or 0.0
        return _SavedCounts(
            zones={
                name: _SavedZone(
                    counts=dict(zone.counts),
                    visits={
                        id: _SavedVisit(
                            dwell=visit.seen - visit.entered, unseen=now - visit.seen, class_name=visit.class_name
                        )
                        for id, visit in zone.visits.items()
                    },
                )
                for name, zone in self._zones.items()
            },
            lines={
                name: _SavedLine(counts=dict(line.counts), stood=dict(line.stood)) for name, line in self._lines.items()
            },
        ).model_dump(mode="json")

    def load(self, state: Any) -> None:
        """Continue from `state()`, before the first frame.

        Zones and lines that are no longer configured are dropped, and new ones start at zero. Objects continue where
        they were, and those whose tracks did not survive leave in the first frame. The time between the runs does not
        count as dwell. Anything but such a state is logged and changes nothing.
        """
        saved = parse_saved(_SavedCounts, state, "counts of zones and lines")
        if saved is None:
            return
        for name, zone in self._zones.items():
            if name in saved.zones:
                _restore(zone.counts, saved.zones[name].counts)
                zone.visits = {
                    id: _Visit(-visit.dwell - visit.unseen, -visit.unseen, visit.class_name)
                    for id, visit in saved.zones[name].visits.items()
                }
        for name, line in self._lines.items():
            if name in saved.lines:
                _restore(line.counts, saved.lines[name].counts)
                line.stood = dict(saved.lines[name].stood)
        self._time = None

    def _start_at(self, time: float) -> None:
        """Shift the times of loaded visits, which end at zero, to the first frame's time."""
        for zone in self._zones.values():
            for visit in zone.visits.values():
                visit.entered += time
                visit.seen += time

    def _end(self, live: set[int], wall: float) -> list[ZoneEvent]:
        """Forget deleted tracks; they leave their zones at the time when they were last seen."""
        events = [
            self._leave(name, zone, id, zone.visits[id].seen, wall)
            for name, zone in self._zones.items()
            for id in sorted(zone.visits.keys() - live)
        ]
        for line in self._lines.values():
            for id in line.stood.keys() - live:
                del line.stood[id]
        return events

    def _pass_zones(
        self, id: int, foot: tuple[float, float], margin: float, class_name: str | None, time: float, wall: float
    ) -> Iterable[ZoneEvent]:
        for name, zone in self._zones.items():
            visit = zone.visits.get(id)
            if visit is None:
                if (zone.classes is None or class_name in zone.classes) and zone.depth(*foot) > 0:
                    zone.visits[id] = _Visit(time, time, class_name)
                    zone.counts.add("entries", class_name)
                    yield ZoneEvent("enter", name, id, class_name, wall)
            elif zone.depth(*foot) < -margin:
                yield self._leave(name, zone, id, time, wall)
            else:
                visit.seen = time

    def _leave(self, name: str, zone: _Zone, id: int, until: float, wall: float) -> ZoneEvent:
        visit = zone.visits.pop(id)
        dwell = max(0.0, until - visit.entered)
        zone.counts.add("exits", visit.class_name)
        zone.counts.add("dwell", visit.class_name, dwell)
        return ZoneEvent("exit", name, id, visit.class_name, wall, dwell)

    def _pass_lines(
        self, id: int, foot: tuple[float, float], margin: float, class_name: str | None, wall: float
    ) -> Iterable[ZoneEvent]:
        for name, line in self._lines.items():
            side = line.side(*foot)
            if side == 0:
                continue
            before = line.stood.get(id)
            if before is not None and line.side(*before) * side < 0:
                if abs(side) <= margin:
                    continue  # it may still turn back: it counts as on the first side
                if (line.classes is None or class_name in line.classes) and line.between_ends(before, foot):
                    line.counts.add("in" if side > 0 else "out", class_name)
                    yield ZoneEvent("in" if side > 0 else "out", name, id, class_name, wall)
            line.stood[id] = foot


def _keys(name: str, class_name: str | None) -> list[str]:
    return [name] if class_name is None else [name, f"{name}.{class_name}"]


def _is(key: str, name: str) -> bool:
    return key.partition(".")[0] == name


def _restore(counts: _Counts, saved: Mapping[str, float]) -> None:
    names = list(counts)
    counts.update({key: value for key, value in saved.items() if any(_is(key, name) for name in names)})
