"""The results of one camera: reported tracks, their events and counts, and the audience that receives them."""

from __future__ import annotations

import json

import numpy as np

from edge_tracker import EdgeDeepSort
from edge_tracker.app.config.schema import Camera, LineConfig, OutputsConfig, SourceConfig, TrackerConfig, ZoneConfig
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.run.reporting import Reporter
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats

YARD = ZoneConfig(polygon=[[0, 0], [500, 0], [500, 500], [0, 500]])
BOX = [100.0, 100.0, 40.0, 80.0]


def camera(zones: dict[str, ZoneConfig] | None = None, lines: dict[str, LineConfig] | None = None) -> Camera:
    return Camera("front", SourceConfig(), TrackerConfig(), OutputsConfig(), zones or {}, lines or {}, ())


class Scene:
    """A reporter, and objects that stand still before its camera."""

    def __init__(self, what: Camera) -> None:
        self.received: list[tuple[str, int, FrameTracks]] = []
        self.stats = CameraStats("front")
        self.reporter = Reporter(what, self.stats, [self.receive], 1.0)
        self._tracker = EdgeDeepSort(embedder=None, n_init=1, max_age=2)
        self._index = 0

    def receive(self, name: str, frame: Frame, tracks: FrameTracks) -> None:
        self.received.append((name, frame.index, tracks))

    def frame(self, *boxes: list[float]) -> FrameTracks:
        self._index += 1
        arrays = self._tracker.update(np.array(boxes).reshape(-1, 4), np.full(len(boxes), 0.9))
        frame = self.reporter.numbered(Frame(self._index, self._index / 10, None, 1e9 + self._index / 10))
        tracks = self.reporter.results(frame, arrays, predicted=False)
        self.reporter.publish(frame, tracks)
        self.reporter.count(frame, live=False)
        return tracks


def kinds(tracks: FrameTracks) -> list[str]:
    return sorted(event.type for event in tracks.events)


def test_an_object_is_counted_once_and_announced_to_the_audience():
    scene = Scene(camera({"yard": YARD}))
    for _ in range(4):
        scene.frame(BOX)
    assert [(name, index) for name, index, _ in scene.received] == [("front", n) for n in (1, 2, 3, 4)]
    assert (scene.stats.frames, scene.stats.tracks, scene.stats.active) == (4, 1, 1)
    announced = [kind for _, _, tracks in scene.received for kind in kinds(tracks)]
    assert announced.count("new") == 1
    assert scene.stats.totals["yard"]["inside"] == 1
    assert scene.received[-1][2].zones == [("yard",)]


def test_the_end_of_a_file_ends_its_objects():
    scene = Scene(camera({"yard": YARD}))
    scene.reporter.end_objects()
    assert scene.received == [], "there was no frame"
    for _ in range(4):
        scene.frame(BOX)
    scene.reporter.end_objects()
    name, index, tracks = scene.received[-1]
    assert (name, index, len(tracks)) == ("front", 4, 0)
    assert kinds(tracks) == ["end", "exit"]
    assert scene.stats.totals["yard"]["inside"] == 0


def test_a_zone_that_stays_keeps_its_counts_when_others_change():
    scene = Scene(camera({"yard": YARD}))
    for _ in range(4):
        scene.frame(BOX)
    scene.reporter.change(camera({"yard": YARD, "door": YARD}))
    tracks = scene.frame(BOX)
    assert set(scene.stats.totals) == {"yard", "door"}
    assert (scene.stats.totals["yard"]["entries"], scene.stats.totals["yard"]["inside"]) == (1, 1)
    assert "yard" in tracks.zones[0]
    scene.reporter.change(camera())
    assert scene.frame(BOX).zones == ()


def test_the_next_run_continues_numbers_and_counts():
    first = Scene(camera({"yard": YARD}))
    for _ in range(4):
        first.frame(BOX, [300.0, 300.0, 40.0, 80.0])
    state = json.loads(json.dumps(first.reporter.state()))
    assert (state["frames"], state["tracks"], state["reported"]) == (4, 2, [1, 2])

    second = Scene(camera({"yard": YARD}))
    second.reporter.load(state)
    assert second.stats.totals == first.stats.totals
    second.frame(BOX, [300.0, 300.0, 40.0, 80.0])
    assert second.received[0][1] == 5
    assert second.stats.tracks == 0, "both were reported before"
    assert second.reporter.state()["frames"] == 5
    assert second.reporter.state()["tracks"] == 2
