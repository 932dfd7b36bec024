"""The table of tracks with what `method="edge"` keeps beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.edge import filter as edge_filter
from edge_tracker.tracking.edge.filter import FIRST_SCATTER, LEARNT, SCATTER, SEEN
from edge_tracker.tracking.edge.settings import EdgeSettings
from edge_tracker.tracking.gallery import BLOCK, NO_ROW, Queues, append_unit, chain, release
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import (
    CONFIRMED,
    DELETED,
    LIVE,
    MATCHED,
    MISSED,
    NO_DETECTION,
    NO_MEASUREMENT,
    TENTATIVE,
    TrackStore,
    bury,
    checked_array,
    close_up,
    open_row,
    snapshot,
)

MOST_EVIDENCE = 7.0  # that one detection gives
LONG_AGO = 1e12  # frames

# Features a track may show after a crossing before it is decided who is who.
PENDING = 3


class EdgeColumns(NamedTuple):
    """Columns beside those of `Rows`, row for row.

    Attributes:
        evidence: (C,) float64, sum of -ln(1 - confidence) over the detections matched.
        stale: (C,) float64, frames since a feature entered the gallery.
        partner: (C,) int64, id of the track that this one has crossed, 0 for none.
        parted: (C,) float64, frames since they last overlapped.
        pending_newest, pending_oldest, pending: (C,) int32, ends and count of the queue of features seen since.
    """

    evidence: np.ndarray
    stale: np.ndarray
    partner: np.ndarray
    parted: np.ndarray
    pending_newest: np.ndarray
    pending_oldest: np.ndarray
    pending: np.ndarray


def make_columns(capacity: int) -> EdgeColumns:
    """Empty columns with room for `capacity` tracks."""
    return EdgeColumns(
        evidence=np.zeros(capacity),
        stale=np.full(capacity, LONG_AGO),
        partner=np.zeros(capacity, dtype=np.int64),
        parted=np.full(capacity, LONG_AGO),
        pending_newest=np.full(capacity, NO_ROW, dtype=np.int32),
        pending_oldest=np.full(capacity, NO_ROW, dtype=np.int32),
        pending=np.zeros(capacity, dtype=np.int32),
    )


@jit
def pending_queues(columns):  # type: ignore[no-untyped-def]
    """The queues of pending features."""
    return Queues(columns.pending_newest, columns.pending_oldest, columns.pending)


@jit
def predict_edge(rows, columns, learnt, first, last, dt, edge):  # type: ignore[no-untyped-def]
    """Move rows first .. last ahead by `dt` frames; they have no detection until they are matched."""
    age, since, detection, confidence = rows.age, rows.time_since_update, rows.detection, rows.confidence
    stale, parted = columns.stale, columns.parted
    edge_filter.predict(rows.mean, rows.covariance, first, last, dt, learnt, edge)
    for row in range(first, last):
        age[row] += dt
        since[row] += dt
        detection[row] = NO_DETECTION
        confidence[row] = np.nan
        stale[row] += dt
        parted[row] += dt


@jit
def evidence_of(confidence):  # type: ignore[no-untyped-def]
    """What a detection says for there being an object: -ln of the chance that there is none."""
    return -np.log(max(1.0 - edge_filter.sureness(confidence), np.exp(-MOST_EVIDENCE)))


@jit
def longest_gap(rows, row, dt, appearance, edge):  # type: ignore[no-untyped-def]
    """Frames without a detection for which a confirmed row lives; rounding must not decide."""
    if appearance and rows.newest[row] != NO_ROW:
        return max(edge.memory, edge.reenter_age) + dt / 2
    return edge.memory + dt / 2


@jit
def settle_edge(rows, columns, learnt, first, match, anew, boxes, confidence, n_init, dt, appearance, edge):  # type: ignore[no-untyped-def] # fmt: skip
    """Correct the rows that were matched, mark the others as missed.

    A tentative track ends at a miss, a confirmed one when its time is over.

    Args:
        first: the row that `match` begins with.
        match: (n,) int64, which of the boxes each row got, NONE for none.
        anew: (n,) bool, rows whose motion starts again at their box.
        boxes: (K, 4) xywh.
        confidence: (K,) float64.
    """
    mean, covariance, hits, since, state = rows.mean, rows.covariance, rows.hits, rows.time_since_update, rows.state
    evidence = columns.evidence
    for j in range(match.shape[0]):
        row, k = first + j, match[j]
        if k == NONE:
            if state[row] == TENTATIVE or since[row] > longest_gap(rows, row, dt, appearance, edge):
                state[row] = DELETED
            continue
        off = edge_filter.inaccuracy(learnt, confidence[k], edge)
        if anew[j]:
            edge_filter.start(mean, covariance, row, boxes, k, off, edge)
        else:
            edge_filter.correct(mean, covariance, row, boxes, k, off, edge)
        hits[row] += 1
        since[row] = 0.0
        evidence[row] += evidence_of(confidence[k])
        if state[row] == TENTATIVE and hits[row] >= n_init and evidence[row] >= edge.evidence:
            state[row] = CONFIRMED


@jit
def bury_edge(rows, columns, counters):  # type: ignore[no-untyped-def]
    """`store.bury` with the columns beside."""
    n = counters[LIVE]
    buried = bury(rows, counters)
    if buried.shape[0] > 0:
        stays = np.ones(n, dtype=np.bool_)
        stays[buried] = False
        kept = np.flatnonzero(stays)
        capacity = rows.id.shape[0]
        close_up(columns.evidence.reshape(capacity, 1), kept, buried)
        close_up(columns.stale.reshape(capacity, 1), kept, buried)
        close_up(columns.partner.reshape(capacity, 1), kept, buried)
        close_up(columns.parted.reshape(capacity, 1), kept, buried)
        close_up(columns.pending_newest.reshape(capacity, 1), kept, buried)
        close_up(columns.pending_oldest.reshape(capacity, 1), kept, buried)
        close_up(columns.pending.reshape(capacity, 1), kept, buried)
    return buried


@jit
def release_edge(rows, columns, gallery, deaths):  # type: ignore[no-untyped-def]
    """Give back all features of the rows that `bury_edge` set aside."""
    capacity = rows.id.shape[0]
    for k in range(deaths):
        row = capacity - 1 - k
        release(gallery, rows.newest[row], rows.oldest[row])
        release(gallery, columns.pending_newest[row], columns.pending_oldest[row])


@jit
def start_edge(rows, columns, counters, learnt, boxes, k, confidence, edge):  # type: ignore[no-untyped-def]
    """Append a tentative track at the k-th box (K, 4) xywh and return its row."""
    row = open_row(rows, counters)
    off = edge_filter.inaccuracy(learnt, confidence, edge)
    edge_filter.start(rows.mean, rows.covariance, row, boxes, k, off, edge)
    columns.evidence[row] = evidence_of(confidence)
    columns.stale[row] = columns.parted[row] = LONG_AGO
    columns.partner[row] = 0
    columns.pending_newest[row] = columns.pending_oldest[row] = NO_ROW
    columns.pending[row] = 0
    return row


class EdgeStore(TrackStore):
    """A `TrackStore` whose states are x, y, w, h.

    Args:
        edge: the settings, in frames.
        capacity: tracks to make room for at first.

    Attributes:
        columns: see `EdgeColumns`.
        learnt: (LEARNT,) float64, see `tracking.edge_filter`.
        dt: frames of the step at hand.
        anew: bool, the rows whose motion is to start again at their detection in the step at hand; for tracks with
            methods of their own.
    """

    def __init__(self, edge: EdgeSettings, capacity: int = 64) -> None:
        super().__init__(capacity)
        self.edge = edge
        self.columns = make_columns(capacity)
        self.learnt = _nothing_learnt()
        self.dt = 1.0
        self.anew = np.zeros(0, dtype=np.bool_)

    @property
    def appearance(self) -> bool:
        """Whether there have been features."""
        return bool(self.learnt[SEEN] > 0)

    def alike(self) -> EdgeStore:
        return EdgeStore(self.edge, capacity=1)

    def box(self, row: int) -> tuple[float, float, float, float]:
        return edge_filter.box(self.rows.mean, row)

    def snapshot(self) -> tuple[np.ndarray, ...]:
        return snapshot(self.rows, len(self), True)

    def predict(self, row: int, dt: float, longest: float) -> None:
        predict_edge(self.rows, self.columns, self.learnt, row, row + 1, dt, self.edge)

    def correct(self, row: int, xyah: np.ndarray, confidence: float, n_init: int) -> None:
        xywh = xyah[None].copy()
        xywh[0, 2] *= xywh[0, 3]
        anew = np.array([row < len(self.anew) and self.anew[row]])
        self._settle(row, MATCHED, anew, xywh, np.array([float(confidence)]), n_init)

    def miss(self, row: int, max_age: float) -> None:
        self._settle(row, MISSED, np.zeros(1, dtype=np.bool_), NO_MEASUREMENT, np.empty(0), 0)

    def _settle(
        self, row: int, match: np.ndarray, anew: np.ndarray, boxes: np.ndarray, confidence: np.ndarray, n_init: int
    ) -> None:
        settle_edge(
            self.rows, self.columns, self.learnt, row, match, anew, boxes, confidence, n_init, self.dt,
            self.appearance, self.edge,
        )  # fmt: skip

    def remember(self, row: int, feature: np.ndarray, budget: int) -> None:
        """Nothing: which features enter a gallery is decided for all tracks of a frame together."""

    def take(self, places: np.ndarray) -> TrackStore:
        alone = super().take(places)
        assert isinstance(alone, EdgeStore)
        alone.columns = make_columns(len(places))
        return alone

    def reserve(self, births: int) -> None:
        n = len(self)
        super().reserve(births)
        capacity = len(self.rows.id)
        if len(self.columns.evidence) < capacity:
            grown = make_columns(capacity)
            for new, old in zip(grown, self.columns, strict=True):
                new[:n] = old[:n]
            self.columns = grown

    def clear(self) -> None:
        super().clear()
        self.learnt = _nothing_learnt()

    def state_dict(self) -> dict[str, np.ndarray]:
        n = len(self)
        state = super().state_dict()
        columns = {f"edge_{name}": column[:n].copy() for name, column in self.columns._asdict().items()}
        newest, _ = columns.pop("edge_pending_newest"), columns.pop("edge_pending_oldest")
        held = columns["edge_pending"]
        places = [place for row in range(n) for place in chain(self.gallery, int(newest[row]), int(held[row]))]
        state |= columns
        state["edge_pending_unit"] = self.gallery.unit[places, : self.dimension]
        state["edge_pending_norm"] = self.gallery.norm[places]
        state["edge_learnt"] = self.learnt.copy()
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray], budget: int) -> None:
        plain = TrackStore(capacity=1)
        plain.load_state_dict(state, budget)
        n = len(plain)
        columns = make_columns(len(plain.rows.id))
        for name, column in columns._asdict().items():
            if name not in ("pending_newest", "pending_oldest"):
                column[:n] = checked_array(state, f"edge_{name}", (n,), column.dtype)
        learnt = checked_array(state, "edge_learnt", (LEARNT,), np.dtype(np.float64))
        held = columns.pending[:n].copy()
        count = int(held.sum())
        unit = checked_array(state, "edge_pending_unit", (count, plain.dimension), np.dtype(np.float32))
        norm = checked_array(state, "edge_pending_norm", (count,), np.dtype(np.float32))
        if held.min(initial=0) < 0 or held.max(initial=0) > PENDING or norm.min(initial=1) <= 0:
            raise InputError("tracker state: a queue of features is not possible")
        for name, array in (("pending_unit", unit), ("pending_norm", norm), ("learnt", learnt)):
            if not np.isfinite(array).all():
                raise InputError(f"tracker state: edge_{name} is not finite")
        plain.reserve_features(n + count // BLOCK, unit.shape[1])
        columns.pending[:n] = 0
        at = 0
        for row in range(n):
            for _ in range(held[row]):
                append_unit(plain.gallery, pending_queues(columns), row, unit, at, norm[at], PENDING)
                at += 1
        self.rows, self.gallery, self.counters = plain.rows, plain.gallery, plain.counters
        self.columns, self.learnt = columns, learnt.copy()


def _nothing_learnt() -> np.ndarray:
    learnt = np.zeros(LEARNT)
    learnt[SCATTER : SCATTER + 2] = FIRST_SCATTER
    return learnt
