"""The results of one camera: the tracks reported of each frame, with their events and counts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from edge_tracker.app.config.schema import Camera
from edge_tracker.app.counting.events import ObjectEvents
from edge_tracker.app.counting.zones import ZoneMonitor
from edge_tracker.app.frame_results import FrameTracks, ObjectEvent, ZoneEvent, reported
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats
from edge_tracker.track_arrays import TrackArrays


class Audience(Protocol):
    """Receives the results of each frame at once, and must not block."""

    def __call__(self, camera: str, frame: Frame, tracks: FrameTracks) -> None: ...


class Earlier(NamedTuple):
    """Counts of the runs before this one, which it continues."""

    frames: int = 0
    tracks: int = 0


class Reporter:
    """Makes results of one camera's tracks: what is reported, events, counts and statistics.

    Args:
        camera: the zones and lines to count at, and how long tracks without a detection are reported.
        stats: the camera's statistics.
        audience: receive each frame's results. The caller may add to the list later.
        update_every: least seconds between `update` events of an object.

    Attributes:
        camera, stats: as given; `change` replaces the camera.
        names: class names of the latest detections.
    """

    def __init__(self, camera: Camera, stats: CameraStats, audience: Sequence[Audience], update_every: float) -> None:
        self.camera, self.stats = camera, stats
        self.names: list[str] = []
        self._audience = audience
        self._monitor = ZoneMonitor(camera.zones, camera.lines)
        self._events = ObjectEvents(update_every)
        self._reported: set[int] = set()  # of the tracks that live, so that it stays small
        self._last: Frame | None = None
        self._earlier = Earlier()

    def change(self, camera: Camera) -> None:
        """Count at other zones and lines from the next frame on; those of the same name keep their counts."""
        state = self._monitor.state()
        self._monitor = ZoneMonitor(camera.zones, camera.lines)
        self._monitor.load(state)
        self.camera = camera

    # ---- frames ------------------------------------------------------------------------------------------------------

    def numbered(self, frame: Frame) -> Frame:
        """The frame with a number that counts the frames of earlier runs, too."""
        return replace(frame, index=frame.index + self._earlier.frames) if self._earlier.frames else frame

    def results(self, frame: Frame, arrays: TrackArrays, predicted: bool) -> FrameTracks:
        """The tracks of a frame that are reported, counted and with their events.

        Args:
            frame: the frame.
            arrays: all live tracks.
            predicted: True for a frame that the detector did not look at.
        """
        stats = self.stats
        tracks = reported(arrays, self.names, self.camera.outputs.coast, predicted)
        live = set(arrays.ids.tolist())
        ids = set(tracks.ids.tolist())
        stats.tracks += len(ids - self._reported)
        stats.active = len(ids)
        self._reported = (self._reported | ids) & live
        names = [tracks.class_name(k) for k in range(len(tracks))]
        now = (live, frame.time, frame.wall)
        zones, zone_events = self._monitor.update(tracks.ids, tracks.ltrb, names, *now)
        happened: list[ObjectEvent | ZoneEvent] = [
            *self._events.update(tracks.ids, tracks.ltrb, names, tracks.confidence, zones, *now),
            *zone_events,
        ]
        stats.totals = self._monitor.totals()
        self._last = frame
        return replace(tracks, zones=zones if self.camera.zones else (), events=happened)

    def publish(self, frame: Frame, tracks: FrameTracks) -> None:
        """Pass the results of a frame to the audience."""
        for receive in self._audience:
            receive(self.stats.name, frame, tracks)

    def count(self, frame: Frame, live: bool) -> None:
        """Count a frame whose results are out; of a live source, with its latency."""
        if live:
            self.stats.latency.observe(max(0.0, time.time() - frame.wall))
        self.stats.count_frame()

    def end_objects(self) -> None:
        """End all objects at the end of a file. Those of a live source continue in the next run instead."""
        if self._last is None:
            return
        frame, ids, boxes, scores = self._last, np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)
        now = (set[int](), frame.time, frame.wall)
        ended: list[ObjectEvent | ZoneEvent] = [*self._events.update(ids, boxes, [], scores, [], *now)]
        ended += self._monitor.update(ids, boxes, [], *now)[1]
        self.stats.totals = self._monitor.totals()
        self.publish(frame, FrameTracks(ids, boxes, ids, scores, self.names, events=ended))

    # ---- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The counts that the next run continues from: a part of `CameraState.meta`."""
        return {
            "frames": self._earlier.frames + self.stats.frames,
            "tracks": self._earlier.tracks + self.stats.tracks,
            "reported": sorted(self._reported),
            "names": list(self.names),
            "zones": self._monitor.state(),
            "events": self._events.state(),
        }

    def load(self, meta: Mapping[str, Any]) -> None:
        """Continue from what `state` gave in an earlier run."""
        self._earlier = Earlier(int(meta["frames"]), int(meta["tracks"]))
        self._reported = set(meta["reported"])
        self._monitor.load(meta["zones"])
        self._events.load(meta["events"])
        self.stats.totals = self._monitor.totals()
