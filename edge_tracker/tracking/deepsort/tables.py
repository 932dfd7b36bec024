"""The table of exact mode's tracks."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import Floats, Table
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.deepsort.phases import miss_track, predict_track, update_track
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import SHOWN, Tables, show_track
from edge_tracker.tracking.track_table import TrackTable


@jit(phase=True)
def show(tables: Tables) -> Table:
    """Copies of the live rows for callers: (N,) SHOWN."""
    tracks, shown = tables.tracks, np.empty(tables.counts[0]["live"], dtype=SHOWN)
    for row in range(shown.shape[0]):
        show_track(shown[row], tracks[row], kalman.box(tracks[row]))
    return shown


class DeepSortTable(TrackTable):
    """A `TrackTable` whose states are x, y, a, h."""

    def box(self, row: int) -> tuple[float, float, float, float]:
        return kalman.box(self.tracks[row])

    def shown(self) -> Table:
        return show(self.tables)

    def ltrb_after(self, dt: float) -> Floats:
        mean = self.live["mean"]
        state = mean[:, :4] + dt * mean[:, 4:]
        half = np.stack([state[:, 2] * state[:, 3], state[:, 3]], axis=1).clip(min=0) / 2
        return np.concatenate([state[:, :2] - half, state[:, :2] + half], axis=1)

    def predict(self, row: int, dt: float, longest: float) -> None:
        predict_track(self.tracks[row], dt, longest)

    def update(self, row: int, xyah: Floats, confidence: float, n_init: int) -> None:
        update_track(self.tracks[row], xyah, n_init)

    def miss(self, row: int, max_age: float) -> None:
        miss_track(self.tracks[row], max_age)

    def remember(self, row: int, feature: Floats, budget: int) -> None:
        self.add_feature(row, feature, budget)
