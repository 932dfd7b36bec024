"""Real objects for what comes after the tracker: the ground truth of PETS09-S2L1, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_tracker.app.config.schema import LineConfig, ZoneConfig
from edge_tracker.app.counting.events import ObjectEvents
from edge_tracker.app.counting.zones import ZoneMonitor
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats

FPS = 7.0
START = 1_700_000_000.0  # unix seconds of the first frame


@dataclass
class Moment:
    """A frame: `live` are the objects that are seen in it or were before and will be again."""

    frame: int
    ids: np.ndarray
    ltrb: np.ndarray
    live: set[int]
    time: float
    wall: float


def rows(data: Path) -> np.ndarray:
    """frame, id, left, top, right, bottom of every box."""
    found = np.loadtxt(data / "mot15/PETS09-S2L1/gt/gt.txt", delimiter=",")[:, :6]
    found[:, 4:6] += found[:, 2:4]
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def moments(data: Path, frames: int | None = None) -> Iterator[Moment]:
    """All frames in order, and one more in which all have gone."""
    found = rows(data)
    if frames is not None:
        found = found[found[:, 0] <= frames]
    spans = {int(id): found[found[:, 1] == id][[0, -1], 0] for id in np.unique(found[:, 1])}
    last = int(found[:, 0].max())
    for frame in range(1, last + 2):
        here = found[found[:, 0] == frame]
        live = {id for id, (first, end) in spans.items() if first <= frame <= end}
        time = (frame - 1) / FPS
        yield Moment(frame, here[:, 1].astype(np.int64), here[:, 2:6], live, time, START + time)


ZONES = {"crossing": ZoneConfig(polygon=[[250.0, 150.0], [520.0, 180.0], [600.0, 400.0], [200.0, 420.0]])}
LINES = {"gate": LineConfig(start=[400.0, 0.0], end=[400.0, 576.0])}


def results(
    data: Path, stats: CameraStats, frames: int | None = None, update_every: float = 1.0
) -> Iterator[tuple[Frame, FrameTracks]]:
    """The frames with their objects, zones and events, as a run gives them; `stats` gets the counts."""
    monitor, events = ZoneMonitor(ZONES, LINES), ObjectEvents(update_every)
    for now in moments(data, frames):
        k = len(now.ids)
        scores = np.round(0.5 + 0.4 * np.sin(now.ids + now.time), 4)
        args = (now.ids, now.ltrb, ["person"] * k)
        zones, zone_events = monitor.update(*args, now.live, now.time, now.wall)
        object_events = events.update(*args, scores, zones, now.live, now.time, now.wall)
        stats.totals = monitor.totals()
        yield (
            Frame(now.frame, now.time, None, now.wall),
            FrameTracks(
                now.ids, now.ltrb, np.zeros(k, np.int64), scores, ("person",), False, zones,
                [*object_events, *zone_events],
            ),
        )  # fmt: skip
