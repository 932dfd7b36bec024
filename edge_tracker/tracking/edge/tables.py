"""The tables of `method="edge"`, and the operations on a single track."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.arrays import Floats, Record, Table, extended
from edge_tracker.tracking.detections import DETECTION
from edge_tracker.tracking.edge import filter as edge_filter
from edge_tracker.tracking.edge.statistics import STATISTICS, first_statistics
from edge_tracker.tracking.gallery import EMPTY_QUEUE, NO_ROW, QUEUE, Gallery
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.saved_arrays import check_features, check_finite, checked_array
from edge_tracker.tracking.tables import CONFIRMED, DELETED, SHOWN, TENTATIVE, TRACK, pass_time, show_track
from edge_tracker.tracking.track_table import TrackTable

MOST_EVIDENCE = 7.0  # that one detection gives
LONG_AGO = 1e12  # frames
PENDING = np.int64(3)  # features kept after a crossing, until the identities are settled

# A track, with the fields that only this method has.
#   evidence: sum of -ln(1 - confidence) over the detections matched. stale: frames since a feature entered the gallery.
#   partner: id of the track that this one has crossed, 0 for none; parted: frames since they last overlapped.
#   pending: the features seen since. returns: true in the frame in which a lost track comes back.
EDGE_TRACK = extended(
    TRACK,
    [
        ("evidence", "f8"),
        ("stale", "f8"),
        ("partner", "i8"),
        ("parted", "f8"),
        ("pending", QUEUE),
        ("returns", "?"),
    ],
)

# A detection; `measured` is its x, y, w, h. clean: it shows little of any other detection.
EDGE_DETECTION = extended(DETECTION, [("clean", "?")])

# The fields of each track in a saved state that only this method has, under these names with `edge_` before them.
SAVED = ("evidence", "stale", "partner", "parted")


class EdgeTables(NamedTuple):
    """The state that the method keeps from frame to frame.

    Attributes:
        tracks: (C,) EDGE_TRACK, of which the first N are live.
        counts: (1,) COUNTS.
        gallery: the pool of all tracks' features.
        statistics: (1,) STATISTICS.
    """

    tracks: Table
    counts: Table
    gallery: Gallery
    statistics: Table


@jit
def predict_track(track: Record, dt: float, statistics: Record, settings: Record) -> None:
    """Move one track ahead by `dt` frames."""
    edge_filter.predict(track, dt, statistics, settings)
    pass_time(track, dt)
    track["stale"] += dt
    track["parted"] += dt
    track["returns"] = False


@jit
def evidence_of(confidence: float) -> float:
    """Evidence of a detection that there is an object: -ln of the chance that there is none."""
    return -np.log(max(1.0 - edge_filter.sureness(confidence), np.exp(-MOST_EVIDENCE)))


@jit
def update_track(
    track: Record, measured: Floats, confidence: float, n_init: int, statistics: Record, settings: Record
) -> None:
    """Correct one track by its detection.

    Args:
        track: EDGE_TRACK; changed. If it returns, its motion starts again at the detection.
        measured: (4,) float64 xywh.
        confidence: NaN for unknown.
        n_init: hits that confirm it, given the evidence.
        statistics: a record of STATISTICS.
        settings: the parameters.
    """
    off = edge_filter.inaccuracy(statistics, confidence, settings)
    if track["returns"]:
        edge_filter.start(track, measured, off, settings)
    else:
        edge_filter.correct(track, measured, off, settings)
    track["hits"] += 1
    track["time_since_update"] = 0.0
    track["evidence"] += evidence_of(confidence)
    if track["state"] == TENTATIVE and track["hits"] >= n_init and track["evidence"] >= settings["evidence"]:
        track["state"] = CONFIRMED


@jit
def longest_gap(track: Record, dt: float, appearance: bool, settings: Record) -> float:
    """Frames without a detection after which a confirmed track is deleted.

    Half a step more than the settings say, so that rounding never decides.
    """
    if appearance and track["gallery"]["newest"] != NO_ROW:
        return max(settings["memory"], settings["reenter_age"]) + dt / 2
    return settings["memory"] + dt / 2


@jit
def miss_track(track: Record, dt: float, appearance: bool, settings: Record) -> None:
    """Note that a track has no detection: a tentative one is deleted, a confirmed one when its time is over."""
    if track["state"] == TENTATIVE or track["time_since_update"] > longest_gap(track, dt, appearance, settings):
        track["state"] = DELETED


@jit(phase=True)
def show(tables: EdgeTables) -> Table:
    """Copies of the live rows for callers: (N,) SHOWN."""
    tracks, shown = tables.tracks, np.empty(tables.counts[0]["live"], dtype=SHOWN)
    for row in range(shown.shape[0]):
        show_track(shown[row], tracks[row], edge_filter.box(tracks[row]))
    return shown


class EdgeTable(TrackTable):
    """A `TrackTable` whose states are x, y, w, h.

    Args:
        settings: the parameters as compiled functions take them.
        capacity: tracks to make room for at first.

    Attributes:
        dt: frames of the step at hand, for tracks with methods of their own.
    """

    dtype = EDGE_TRACK
    queues = ("gallery", "pending")
    tables: EdgeTables

    def __init__(self, settings: Record, capacity: int = 64) -> None:
        super().__init__(capacity)
        plain: Any = self.tables
        self.tables = EdgeTables(plain.tracks, plain.counts, plain.gallery, first_statistics())
        self.settings = settings
        self.dt = 1.0

    @classmethod
    def _empty(cls, capacity: int) -> Table:
        tracks = super()._empty(capacity)
        tracks["stale"] = tracks["parted"] = LONG_AGO
        tracks["pending"] = EMPTY_QUEUE
        return tracks

    @property
    def statistics(self) -> Record:
        """The statistics, as a record."""
        return self.tables.statistics[0]

    @property
    def appearance(self) -> bool:
        """True once there have been features."""
        return bool(self.statistics["seen"] > 0)

    def alike(self, capacity: int = 1) -> EdgeTable:
        return EdgeTable(self.settings, capacity)

    def unmatch(self) -> None:
        super().unmatch()
        self.live["returns"] = False

    def shown(self) -> Table:
        return show(self.tables)

    def ltrb_after(self, dt: float) -> Floats:
        mean = self.live["mean"]
        state = mean[:, :4] + dt * mean[:, 4:]
        half = state[:, 2:].clip(min=0) / 2
        return np.concatenate([state[:, :2] - half, state[:, :2] + half], axis=1)

    def box(self, row: int) -> tuple[float, float, float, float]:
        return edge_filter.box(self.tracks[row])

    def predict(self, row: int, dt: float, longest: float) -> None:
        predict_track(self.tracks[row], dt, self.statistics, self.settings)

    def update(self, row: int, xyah: Floats, confidence: float, n_init: int) -> None:
        xywh = xyah.copy()
        xywh[2] *= xywh[3]
        update_track(self.tracks[row], xywh, float(confidence), n_init, self.statistics, self.settings)

    def miss(self, row: int, max_age: float) -> None:
        miss_track(self.tracks[row], self.dt, self.appearance, self.settings)

    def remember(self, row: int, feature: Floats, budget: int) -> None:
        """Nothing: the features that enter galleries are chosen for all tracks of a frame together."""

    def clear(self) -> None:
        super().clear()
        self.tables = self.tables._replace(statistics=first_statistics())

    def state_dict(self) -> dict[str, np.ndarray]:
        live, state = self.live, super().state_dict()
        state |= {f"edge_{name}": live[name].copy() for name in SAVED}
        state["edge_pending"] = live["pending"]["held"].astype(np.int32)
        state["edge_pending_unit"], state["edge_pending_norm"] = self._features_of("pending")
        state["edge_learnt"] = self.tables.statistics.view(np.float64).copy()
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray], budget: int) -> None:
        fresh = self.alike()
        super(EdgeTable, fresh).load_state_dict(state, budget)
        n = len(fresh)
        for name in SAVED:
            fresh.tracks[name][:n] = checked_array(state, f"edge_{name}", (n,), EDGE_TRACK[name])
        size = STATISTICS.itemsize // 8
        statistics = checked_array(state, "edge_learnt", (size,), np.dtype(np.float64))
        check_finite("edge_learnt", statistics)
        held = checked_array(state, "edge_pending", (n,), np.dtype(np.int32))
        count = int(held.sum())
        unit = checked_array(state, "edge_pending_unit", (count, fresh.gallery.unit.shape[1]), np.dtype(np.float32))
        norm = checked_array(state, "edge_pending_norm", (count,), np.dtype(np.float32))
        check_features("edge_pending", held, unit, norm)
        if held.max(initial=0) > PENDING:
            raise InputError(f"tracker state: edge_pending is {held.tolist()}, expected {PENDING} at most")
        fresh._load_features("pending", held, unit, norm, int(PENDING))
        self.tables = fresh.tables._replace(statistics=statistics.view(STATISTICS))
