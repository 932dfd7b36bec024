"""All live tracks as a struct of arrays: one row a track, in order of birth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.edge import filter as edge_filter
from edge_tracker.tracking.gallery import (
    BLOCK,
    NO_ROW,
    Queues,
    append,
    append_unit,
    chain,
    feature_norm,
    make_gallery,
    release,
)
from edge_tracker.tracking.jit import jit

TENTATIVE, CONFIRMED, DELETED = 1, 2, 3

NO_CLASS = -1
NO_DETECTION = -1

# What `settle_tracks` takes for a single track.
MATCHED, MISSED = np.array([0]), np.array([NONE])
NO_MEASUREMENT = np.empty((0, 4))

# Places in `TrackStore.counters`.
LIVE, NEXT_ID = 0, 1


class Rows(NamedTuple):
    """The columns of the table of tracks, each with room for C rows of which the first N are live.

    Attributes:
        mean: (C, 8) float64, x, y, a, h and their velocities, pixels and frames.
        covariance: (C, 4, 3) float64, see `tracking.kalman`.
        id: (C,) int64.
        state: (C,) int8, TENTATIVE, CONFIRMED or DELETED.
        hits: (C,) int64, detections matched, the first included.
        age: (C,) float64, frames since birth, from 1.
        time_since_update: (C,) float64, frames since a detection was last matched.
        class_id: (C,) int64 of the detection last matched, NO_CLASS for none.
        confidence: (C,) float64 of this frame's detection, NaN without one.
        ltwh: (C, 4) float32, box of the detection last matched.
        detection: (C,) int64, index of this frame's detection, NO_DETECTION without one.
        newest, oldest: (C,) int32, ends of the gallery (see `tracking.appearance`), NO_ROW for none.
        features: (C,) int32, rows in the gallery.
    """

    mean: np.ndarray
    covariance: np.ndarray
    id: np.ndarray
    state: np.ndarray
    hits: np.ndarray
    age: np.ndarray
    time_since_update: np.ndarray
    class_id: np.ndarray
    confidence: np.ndarray
    ltwh: np.ndarray
    detection: np.ndarray
    newest: np.ndarray
    oldest: np.ndarray
    features: np.ndarray


def make_rows(capacity: int) -> Rows:
    """An empty table with room for `capacity` tracks."""
    return Rows(
        mean=np.zeros((capacity, 8)),
        covariance=np.zeros((capacity, 4, 3)),
        id=np.zeros(capacity, dtype=np.int64),
        state=np.full(capacity, TENTATIVE, dtype=np.int8),
        hits=np.ones(capacity, dtype=np.int64),
        age=np.ones(capacity),
        time_since_update=np.zeros(capacity),
        class_id=np.full(capacity, NO_CLASS, dtype=np.int64),
        confidence=np.full(capacity, np.nan),
        ltwh=np.zeros((capacity, 4), dtype=np.float32),
        detection=np.full(capacity, NO_DETECTION, dtype=np.int64),
        newest=np.full(capacity, NO_ROW, dtype=np.int32),
        oldest=np.full(capacity, NO_ROW, dtype=np.int32),
        features=np.zeros(capacity, dtype=np.int32),
    )


# The functions below take the whole table and loop over it inside: passing it on row by row costs more than the work.


@jit
def predict_tracks(rows, first, last, dt, longest):  # type: ignore[no-untyped-def]
    """Move rows first .. last ahead by `dt` frames; they have no detection until they are matched."""
    mean, covariance, age, since = rows.mean, rows.covariance, rows.age, rows.time_since_update
    detection, confidence = rows.detection, rows.confidence
    for row in range(first, last):
        kalman.predict(mean, covariance, row, dt, longest)
        age[row] += dt
        since[row] += dt
        detection[row] = NO_DETECTION
        confidence[row] = np.nan


@jit
def settle_tracks(rows, first, match, measurements, n_init, max_age):  # type: ignore[no-untyped-def]
    """Correct the rows that were matched, mark the others as missed.

    A tentative track is confirmed by its `n_init`-th hit and dies of a miss, a confirmed one after `max_age` frames.

    Args:
        first: the row that `match` begins with.
        match: (n,) int64, which of the measurements each row got, NONE for none.
        measurements: (K, 4) float64 xyah.
    """
    mean, covariance, hits, since, state = rows.mean, rows.covariance, rows.hits, rows.time_since_update, rows.state
    for k in range(match.shape[0]):
        row = first + k
        if match[k] != NONE:
            kalman.update(mean, covariance, row, measurements, match[k])
            hits[row] += 1
            since[row] = 0.0
            if state[row] == TENTATIVE and hits[row] >= n_init:
                state[row] = CONFIRMED
        elif state[row] == TENTATIVE or since[row] > max_age:
            state[row] = DELETED


@jit
def open_row(rows, counters):  # type: ignore[no-untyped-def]
    """Append a new tentative track, seen once, whose state is still to be set; returns its row."""
    row = counters[LIVE]
    rows.id[row] = counters[NEXT_ID]
    rows.state[row] = TENTATIVE
    rows.hits[row] = 1
    rows.age[row] = 1.0
    rows.time_since_update[row] = 0.0
    rows.newest[row] = rows.oldest[row] = NO_ROW
    rows.features[row] = 0
    counters[LIVE] += 1
    counters[NEXT_ID] += 1
    return row


@jit
def start_tracks(rows, counters, measurements, chosen):  # type: ignore[no-untyped-def]
    """Append a tentative track at each chosen measurement, numbered in their order.

    Args:
        measurements: (K, 4) float64 xyah.
        chosen: (B,) int64, which of them.
    """
    for k in chosen:
        kalman.start(rows.mean, rows.covariance, open_row(rows, counters), measurements, k)


@jit
def close_up(column, kept, buried):  # type: ignore[no-untyped-def]
    """Move the kept rows of a column (C, width) to its front and the buried ones to its end, the first of them last."""
    capacity = column.shape[0]
    for i in range(column.shape[1]):
        for k in range(buried.shape[0]):
            column[capacity - 1 - k, i] = column[buried[k], i]
        for k in range(kept.shape[0]):
            column[k, i] = column[kept[k], i]


@jit
def bury(rows, counters):  # type: ignore[no-untyped-def]
    """Take deleted tracks out of the live rows, which close up in order.

    The k-th deleted row is kept at place C - 1 - k until the next frame, so that a caller's `Track` can take its last
    values along; its gallery is still to be given back (`release_buried`).

    Returns:
        (K,) int64, the former places of the deleted rows, ascending.
    """
    live = rows.state[: counters[LIVE]]
    buried = np.flatnonzero(live == DELETED)
    if buried.shape[0] > 0:
        kept = np.flatnonzero(live != DELETED)
        capacity = rows.id.shape[0]
        close_up(rows.mean, kept, buried)
        close_up(rows.covariance.reshape(capacity, 12), kept, buried)
        close_up(rows.id.reshape(capacity, 1), kept, buried)
        close_up(rows.state.reshape(capacity, 1), kept, buried)
        close_up(rows.hits.reshape(capacity, 1), kept, buried)
        close_up(rows.age.reshape(capacity, 1), kept, buried)
        close_up(rows.time_since_update.reshape(capacity, 1), kept, buried)
        close_up(rows.class_id.reshape(capacity, 1), kept, buried)
        close_up(rows.confidence.reshape(capacity, 1), kept, buried)
        close_up(rows.ltwh, kept, buried)
        close_up(rows.detection.reshape(capacity, 1), kept, buried)
        close_up(rows.newest.reshape(capacity, 1), kept, buried)
        close_up(rows.oldest.reshape(capacity, 1), kept, buried)
        close_up(rows.features.reshape(capacity, 1), kept, buried)
        counters[LIVE] = kept.shape[0]
    return buried


@jit
def release_buried(rows, gallery, deaths):  # type: ignore[no-untyped-def]
    """Give back the galleries of the rows that `bury` set aside; readable until the next feature is added."""
    capacity = rows.id.shape[0]
    for k in range(deaths):
        release(gallery, rows.newest[capacity - 1 - k], rows.oldest[capacity - 1 - k])


@jit
def snapshot(rows, n, by_width):  # type: ignore[no-untyped-def]
    """Copies of what callers ask for of the live rows: id, ltrb (N, 4), class, confidence, time since update,
    detection, confirmed.

    Args:
        by_width: states hold the width (`tracking.edge_filter`), not the aspect ratio.
    """
    ltrb = np.empty((n, 4))
    confirmed = np.empty(n, dtype=np.bool_)
    for row in range(n):
        left, top, width, height = edge_filter.box(rows.mean, row) if by_width else kalman.box(rows.mean, row)
        ltrb[row, 0], ltrb[row, 1], ltrb[row, 2], ltrb[row, 3] = left, top, left + width, top + height
        confirmed[row] = rows.state[row] == CONFIRMED
    return (
        rows.id[:n].copy(), ltrb, rows.class_id[:n].copy(), rows.confidence[:n].copy(),
        rows.time_since_update[:n].copy(), rows.detection[:n].copy(), confirmed,
    )  # fmt: skip


def whole(frames: float) -> int | float:
    """A number of frames as an int, unless time steps were fractions."""
    return int(frames) if frames == int(frames) else float(frames)


class TrackStore:
    """The table of tracks, the pool of their features, and what numbers them.

    Args:
        capacity: tracks to make room for at first; the store grows.

    Attributes:
        rows: see `Rows`.
        gallery: see `tracking.appearance.Gallery`; D is 0 until the first feature is seen.
        counters: (2,) int64: LIVE, the number of live rows N, and NEXT_ID.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.rows = make_rows(capacity)
        self.gallery = make_gallery(1, 0)
        self.counters = np.array([0, 1], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.counters[LIVE])

    @property
    def dimension(self) -> int:
        """D, the length of the features held; 0 when there are none."""
        gallery = self.gallery
        return gallery.unit.shape[1] if gallery.free[1] < len(gallery.newer) else 0

    def reserve(self, births: int) -> None:
        """Make room for so many new tracks, and for every live one to die and be kept aside for a frame."""
        n, capacity = len(self), len(self.rows.id)
        needed = 2 * n + births
        if needed > capacity:
            grown = make_rows(max(needed, 2 * capacity))
            for new, old in zip(grown, self.rows, strict=True):
                new[:n] = old[:n]
            self.rows = grown

    def reserve_features(self, count: int, dimension: int) -> None:
        """Make room for `count` more features (D,) in the pool, each in a gallery of its own."""
        if self.gallery.unit.shape[1] != dimension:
            self.gallery = make_gallery(max(16, count), dimension)
        elif self.gallery.free[1] < count:
            blocks = len(self.gallery.newer)
            self.gallery = make_gallery(blocks + max(blocks, count), dimension, self.gallery)

    def queues(self) -> Queues:
        """The galleries of the rows."""
        return Queues(self.rows.newest, self.rows.oldest, self.rows.features)

    def alike(self) -> TrackStore:
        """An empty store for a track that stands alone, whose states mean the same as here."""
        return TrackStore(capacity=1)

    def box(self, row: int) -> tuple[float, float, float, float]:
        """Left, top, width, height of a row's state, pixels."""
        return kalman.box(self.rows.mean, row)

    def snapshot(self) -> tuple[np.ndarray, ...]:
        """What the function `snapshot` gives of the live rows."""
        return snapshot(self.rows, len(self), False)

    def predict(self, row: int, dt: float, longest: float) -> None:
        """Move one row ahead; the arguments are those of `predict_tracks`."""
        predict_tracks(self.rows, row, row + 1, dt, longest)

    def correct(self, row: int, xyah: np.ndarray, confidence: float, n_init: int) -> None:
        """Take a detection (4,) into one row, as `settle_tracks` does."""
        settle_tracks(self.rows, row, MATCHED, xyah[None], n_init, 0.0)

    def miss(self, row: int, max_age: float) -> None:
        """Note that one row has no detection, as `settle_tracks` does."""
        settle_tracks(self.rows, row, MISSED, NO_MEASUREMENT, 0, max_age)

    def remember(self, row: int, feature: np.ndarray, budget: int) -> None:
        """Take in how a row's new detection looks."""
        self.add_feature(row, feature, budget)

    def take(self, places: np.ndarray) -> TrackStore:
        """A store of its own with copies of some rows (K,), also of those just buried, and their latest features."""
        alone = self.alike()
        alone.rows = Rows(*(column[places] for column in self.rows))
        alone.counters = np.array([len(places), 1], dtype=np.int64)
        known = np.flatnonzero(alone.rows.newest != NO_ROW)
        alone.gallery = make_gallery(1 + len(known), self.gallery.unit.shape[1])
        newest = alone.rows.newest[known]
        alone.rows.newest[known] = alone.rows.oldest[known] = NO_ROW
        alone.rows.features[known] = 0
        for row, place in zip(known.tolist(), newest.tolist(), strict=True):
            append_unit(alone.gallery, alone.queues(), row, self.gallery.unit, place, self.gallery.norm[place], 1)
        return alone

    def latest_feature(self, row: int) -> np.ndarray | None:
        """The newest feature (D,) float32 of a track, at its own length; None if it has none."""
        place = self.rows.newest[row]
        return None if place == NO_ROW else self.gallery.unit[place] * self.gallery.norm[place]

    def add_feature(self, row: int, feature: np.ndarray, budget: int) -> None:
        """Append one feature (D,) to a row's gallery. A feature of length 0 is no appearance, and is not kept."""
        features = np.array(feature, dtype=np.float32, ndmin=2)
        norm = feature_norm(features, 0)
        if norm > 0.0:
            self.reserve_features(1, features.shape[1])
            append(self.gallery, self.queues(), row, features, 0, norm, budget)

    def clear(self) -> None:
        """Drop all tracks; the features' dimension may be another from here on."""
        self.counters[LIVE] = 0
        self.gallery = make_gallery(1, 0)

    def state_dict(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, galleries oldest row first: what `load_state_dict` takes."""
        n = len(self)
        state = {name: column[:n].copy() for name, column in self.rows._asdict().items()}
        newest, _ = state.pop("newest"), state.pop("oldest")  # places in this pool mean nothing in another
        places = [p for row in range(n) for p in chain(self.gallery, int(newest[row]), int(state["features"][row]))]
        state["gallery_unit"] = self.gallery.unit[places, : self.dimension]
        state["gallery_norm"] = self.gallery.norm[places]
        state["counters"] = self.counters.copy()
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray], budget: int) -> None:
        """Take over what `state_dict` gave, of each gallery the newest `budget` rows. On an error nothing is changed.

        Raises:
            InputError: an array is missing, or has the wrong shape or type, or the numbers contradict each other.
        """
        fresh = TrackStore(capacity=1)
        counters = checked_array(state, "counters", (2,), np.dtype(np.int64))
        n = int(counters[LIVE])
        saved = {
            name: checked_array(state, name, (n, *column.shape[1:]), column.dtype)
            for name, column in fresh.rows._asdict().items()
            if name not in ("newest", "oldest")
        }
        held = saved["features"]
        count = int(held.sum())
        unit = checked_array(state, "gallery_unit", (count, None), np.dtype(np.float32))
        norm = checked_array(state, "gallery_norm", (count,), np.dtype(np.float32))
        _check_sense(saved, unit, norm, int(counters[NEXT_ID]))
        fresh.reserve(n)
        for name, column in saved.items():
            getattr(fresh.rows, name)[:n] = column
        fresh.counters[:] = counters
        fresh.reserve_features(n + count // BLOCK, unit.shape[1])
        fresh.rows.features[:n] = 0
        at = 0
        for row in range(n):
            for _ in range(held[row]):
                append_unit(fresh.gallery, fresh.queues(), row, unit, at, norm[at], budget)
                at += 1
        self.rows, self.gallery, self.counters = fresh.rows, fresh.gallery, fresh.counters


def checked_array(
    state: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], dtype: np.dtype
) -> np.ndarray:
    """One array of a saved state, of the shape (None: any) and type it must have."""
    array = state.get(name)
    if not isinstance(array, np.ndarray):
        raise InputError(f"tracker state: {name} is missing")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        raise InputError(f"tracker state: {name} is {array.dtype}{array.shape}, expected {dtype}{shape}")
    return np.array(array, order="C")  # writable: compiled code has one form for that, another for what is not


def _check_sense(saved: Mapping[str, np.ndarray], unit: np.ndarray, norm: np.ndarray, next_id: int) -> None:
    """Refuse a saved state in which numbers are impossible.

    Raises:
        InputError: which of them.
    """
    ids, states = saved["id"], saved["state"]
    if not (np.diff(ids, prepend=0, append=next_id) > 0).all():
        raise InputError(f"tracker state: ids {ids.tolist()} and {next_id} for the next are not in order")
    if not np.isin(states, (TENTATIVE, CONFIRMED)).all():
        raise InputError(f"tracker state: states {states.tolist()}, expected {TENTATIVE} or {CONFIRMED}")
    if saved["features"].min(initial=0) < 0 or norm.min(initial=1) <= 0:
        raise InputError("tracker state: a gallery holds less than nothing")
    checked = {name: saved[name] for name in ("mean", "covariance", "age", "time_since_update", "ltwh")}
    for name, array in {**checked, "gallery_unit": unit, "gallery_norm": norm}.items():
        if not np.isfinite(array).all():
            raise InputError(f"tracker state: {name} has a NaN or infinite value")
