"""All live tracks as a struct of arrays: one row a track, in order of birth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking import kalman
from edge_tracker.tracking.appearance import NO_ROW, append, chain, feature_norm, make_gallery, release
from edge_tracker.tracking.jit import jit

TENTATIVE, CONFIRMED, DELETED = 1, 2, 3

NO_CLASS = -1
NO_DETECTION = -1

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
        newest: (C,) int32, newest row in the gallery, NO_ROW for none.
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
        features=np.zeros(capacity, dtype=np.int32),
    )


@jit
def copy_row(rows, source, target):  # type: ignore[no-untyped-def]
    """Copy one track's row over another."""
    rows.mean[target] = rows.mean[source]
    rows.covariance[target] = rows.covariance[source]
    rows.id[target] = rows.id[source]
    rows.state[target] = rows.state[source]
    rows.hits[target] = rows.hits[source]
    rows.age[target] = rows.age[source]
    rows.time_since_update[target] = rows.time_since_update[source]
    rows.class_id[target] = rows.class_id[source]
    rows.confidence[target] = rows.confidence[source]
    rows.ltwh[target] = rows.ltwh[source]
    rows.detection[target] = rows.detection[source]
    rows.newest[target] = rows.newest[source]
    rows.features[target] = rows.features[source]


@jit
def start_track(rows, row, track_id, measurement):  # type: ignore[no-untyped-def]
    """Make a row a new tentative track at a measurement (4,) xyah."""
    kalman.start(rows.mean[row], rows.covariance[row], measurement)
    rows.id[row] = track_id
    rows.state[row] = TENTATIVE
    rows.hits[row] = 1
    rows.age[row] = 1.0
    rows.time_since_update[row] = 0.0
    rows.newest[row] = NO_ROW
    rows.features[row] = 0


@jit
def predict_track(rows, row, dt, longest):  # type: ignore[no-untyped-def]
    """Move a row ahead by `dt` frames; it has no detection until it is matched."""
    kalman.predict(rows.mean[row], rows.covariance[row], dt, longest)
    rows.age[row] += dt
    rows.time_since_update[row] += dt
    rows.detection[row] = NO_DETECTION
    rows.confidence[row] = np.nan


@jit
def correct_track(rows, row, measurement, n_init):  # type: ignore[no-untyped-def]
    """Correct a row by its measurement (4,) xyah and confirm it once it has `n_init` hits."""
    kalman.update(rows.mean[row], rows.covariance[row], measurement)
    rows.hits[row] += 1
    rows.time_since_update[row] = 0.0
    if rows.state[row] == TENTATIVE and rows.hits[row] >= n_init:
        rows.state[row] = CONFIRMED


@jit
def see(rows, gallery, row, index, box, confidence, class_id, feature, norm, budget):  # type: ignore[no-untyped-def]
    """Note on a row the detection that it was matched to, and how it looked.

    Args:
        index: of the detection in the caller's order.
        box: (4,) ltwh float32.
        confidence: NaN for unknown.
        feature, norm: (D,) float32 and its length; a length of 0 stands for no appearance and is not kept.
    """
    rows.detection[row] = index
    rows.ltwh[row] = box
    rows.confidence[row] = confidence
    rows.class_id[row] = class_id
    if norm > 0.0:
        append(gallery, rows.newest, rows.features, row, feature, norm, budget)


@jit
def miss_track(rows, row, max_age):  # type: ignore[no-untyped-def]
    """Mark a row as missed: a tentative track dies of it, a confirmed one after `max_age` frames."""
    if rows.state[row] == TENTATIVE or rows.time_since_update[row] > max_age:
        rows.state[row] = DELETED


@jit
def bury(rows, counters):  # type: ignore[no-untyped-def]
    """Take deleted tracks out of the live rows, which close up in order.

    The k-th deleted row is kept at place C - 1 - k until the next frame, so that a caller's `Track` can take its last
    values along; its gallery is still to be given back (`release_buried`).

    Returns:
        (K,) int64, the former places of the deleted rows, ascending.
    """
    n = counters[LIVE]
    capacity = rows.id.shape[0]
    deaths = 0
    for row in range(n):
        if rows.state[row] == DELETED:
            deaths += 1
    buried = np.empty(deaths, dtype=np.int64)
    if deaths == 0:
        return buried
    kept, deaths = 0, 0
    for row in range(n):
        if rows.state[row] == DELETED:
            buried[deaths] = row
            deaths += 1
            copy_row(rows, row, capacity - deaths)
        else:
            if kept != row:
                copy_row(rows, row, kept)
            kept += 1
    counters[LIVE] = kept
    return buried


@jit
def release_buried(rows, gallery, deaths):  # type: ignore[no-untyped-def]
    """Give back the galleries of the rows that `bury` set aside; readable until the next feature is added."""
    capacity = rows.id.shape[0]
    for k in range(deaths):
        release(gallery, rows.newest[capacity - 1 - k], rows.features[capacity - 1 - k])


@jit
def snapshot(rows, n):  # type: ignore[no-untyped-def]
    """Copies of what callers ask for of the live rows: id, ltrb (N, 4), class, confidence, time since update,
    detection, confirmed."""
    ltrb = np.empty((n, 4))
    confirmed = np.empty(n, dtype=np.bool_)
    for row in range(n):
        left, top, width, height = kalman.box(rows.mean[row])
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
        return gallery.unit.shape[1] if gallery.free[1] < len(gallery.norm) else 0

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
        """Make room for `count` more features (D,) in the pool."""
        if self.gallery.unit.shape[1] != dimension:
            self.gallery = make_gallery(max(256, count), dimension)
        elif self.gallery.free[1] < count:
            rows = len(self.gallery.norm)
            self.gallery = make_gallery(rows + max(rows, count), dimension, self.gallery)

    def take(self, places: np.ndarray) -> TrackStore:
        """A store of its own with copies of some rows (K,), also of those just buried, and their latest features."""
        alone = TrackStore.__new__(TrackStore)
        alone.rows = Rows(*(column[places] for column in self.rows))
        alone.counters = np.array([len(places), 1], dtype=np.int64)
        known = np.flatnonzero(alone.rows.newest != NO_ROW)
        alone.gallery = make_gallery(1 + len(known), self.gallery.unit.shape[1])
        places = alone.rows.newest[known]
        alone.gallery.unit[: len(known)] = self.gallery.unit[places]
        alone.gallery.norm[: len(known)] = self.gallery.norm[places]
        alone.gallery.free[:] = len(known), 1
        alone.gallery.newer[: len(known)] = alone.gallery.older[: len(known)] = np.arange(len(known))
        alone.rows.newest[known] = np.arange(len(known))
        alone.rows.features[known] = 1
        return alone

    def latest_feature(self, row: int) -> np.ndarray | None:
        """The newest feature (D,) float32 of a track, at its own length; None if it has none."""
        place = self.rows.newest[row]
        return None if place == NO_ROW else self.gallery.unit[place] * self.gallery.norm[place]

    def add_feature(self, row: int, feature: np.ndarray, budget: int) -> None:
        """Append one feature (D,) to a row's gallery. A feature of length 0 is no appearance, and is not kept."""
        feature = np.ascontiguousarray(feature, dtype=np.float32)
        norm = feature_norm(feature)
        if norm > 0.0:
            self.reserve_features(1, len(feature))
            append(self.gallery, self.rows.newest, self.rows.features, row, feature, norm, budget)

    def clear(self) -> None:
        """Drop all tracks; the features' dimension may be another from here on."""
        self.counters[LIVE] = 0
        self.gallery = make_gallery(1, 0)

    def state_dict(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays, galleries oldest row first: what `load_state_dict` takes."""
        n = len(self)
        state = {name: column[:n].copy() for name, column in self.rows._asdict().items()}
        newest = state.pop("newest")  # a place in this pool means nothing in another
        places = [p for row in range(n) for p in chain(self.gallery, int(newest[row]), int(state["features"][row]))]
        state["gallery_unit"] = self.gallery.unit[places]
        state["gallery_norm"] = self.gallery.norm[places]
        state["counters"] = self.counters.copy()
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray], budget: int) -> None:
        """Take over what `state_dict` gave, of each gallery the newest `budget` rows. On an error nothing is changed.

        Raises:
            InputError: an array is missing, or has the wrong shape or type, or the numbers contradict each other.
        """
        fresh = TrackStore(capacity=1)
        counters = _checked(state, "counters", (2,), np.dtype(np.int64))
        n = int(counters[LIVE])
        if n < 0 or counters[NEXT_ID] < 1:
            raise InputError(f"tracker state: counters {counters.tolist()} are not possible")
        fresh.reserve(n)
        for name, column in fresh.rows._asdict().items():
            if name != "newest":
                column[:n] = _checked(state, name, (n, *column.shape[1:]), column.dtype)
        fresh.counters[:] = counters
        held = fresh.rows.features[:n].copy()
        count = int(held.sum())
        unit = _checked(state, "gallery_unit", (count, None), np.dtype(np.float32))
        norm = _checked(state, "gallery_norm", (count,), np.dtype(np.float32))
        if held.min(initial=0) < 0 or norm.min(initial=1) <= 0:
            raise InputError("tracker state: a gallery holds less than nothing")
        fresh.reserve_features(count, unit.shape[1])
        fresh.rows.features[:n] = 0
        at = 0
        for row in range(n):
            for _ in range(held[row]):
                append(fresh.gallery, fresh.rows.newest, fresh.rows.features, row, unit[at], 1.0, budget)
                # The rows are unit already: only their former lengths are to be put back.
                fresh.gallery.unit[fresh.rows.newest[row]] = unit[at]
                fresh.gallery.norm[fresh.rows.newest[row]] = norm[at]
                at += 1
        self.rows, self.gallery, self.counters = fresh.rows, fresh.gallery, fresh.counters


def _checked(state: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
    """One array of a saved state, of the shape (None: any) and type it must have."""
    array = state.get(name)
    if not isinstance(array, np.ndarray):
        raise InputError(f"tracker state: {name} is missing")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        raise InputError(f"tracker state: {name} is {array.dtype}{array.shape}, expected {dtype}{shape}")
    return np.ascontiguousarray(array)
