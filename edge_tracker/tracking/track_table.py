"""The table of one tracker's tracks: it grows, is copied, saved and loaded here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_tracker.tracking.arrays import NONE, Floats, Ints, Table
from edge_tracker.tracking.gallery import (
    BLOCK_ROWS,
    EMPTY_QUEUE,
    NO_ROW,
    Gallery,
    append,
    append_unit,
    feature_norm,
    make_gallery,
    rows_of,
)
from edge_tracker.tracking.saved_arrays import check_features, check_sense, checked_array
from edge_tracker.tracking.tables import COUNTS, NO_CLASS, NO_DETECTION, TENTATIVE, TRACK, Tables

# The fields of each track in a saved state, by their names there.
SAVED = (
    "mean", "covariance", "id", "state", "hits", "age", "time_since_update", "class_id", "confidence", "ltwh",
    "detection",
)  # fmt: skip


class TrackTable(ABC):
    """The tables of one tracker: they grow, are copied, saved and loaded here, and worked on by compiled functions.

    Each method has a subclass for its kind of state.

    Args:
        capacity: tracks to make room for at first.

    Attributes:
        tables: see `Tables`; another object after each growth.
    """

    dtype = TRACK
    queues: tuple[str, ...] = ("gallery",)  # the fields that are queues of features
    tables: Any

    def __init__(self, capacity: int = 64) -> None:
        self.tables = Tables(self._empty(capacity), np.array([(0, 1)], dtype=COUNTS), make_gallery(1, 0))

    def __len__(self) -> int:
        return int(self.tables.counts[0]["live"])

    @classmethod
    def _empty(cls, capacity: int) -> Table:
        """Rows of a new table, with the values of a track that has had no detection."""
        tracks = np.zeros(capacity, dtype=cls.dtype)
        for name, value in (
            ("state", TENTATIVE), ("hits", 1), ("age", 1.0), ("class_id", NO_CLASS), ("confidence", np.nan),
            ("detection", NO_DETECTION), ("match", NONE), ("gallery", EMPTY_QUEUE),
        ):  # fmt: skip
            tracks[name] = value
        return tracks

    @property
    def tracks(self) -> Table:
        """(C,) all rows, those in use first."""
        return self.tables.tracks

    @property
    def live(self) -> Table:
        """(N,) view of the live rows."""
        return self.tables.tracks[: len(self)]

    @property
    def gallery(self) -> Gallery:
        """The pool of features."""
        return self.tables.gallery

    @property
    def next_id(self) -> int:
        """The number of the next track. Can be set."""
        return int(self.tables.counts[0]["next_id"])

    @next_id.setter
    def next_id(self, value: int) -> None:
        self.tables.counts[0]["next_id"] = value

    @property
    def dimension(self) -> int:
        """D, the length of the features held; 0 when there are none."""
        gallery = self.gallery
        return gallery.unit.shape[1] if gallery.free[0]["count"] < len(gallery.blocks) else 0

    def unmatch(self) -> None:
        """Forget the matches of the last frame; predicting does so, too, but tracks may have methods of their own."""
        self.live["match"] = NONE

    def reserve(self, starts: int) -> None:
        """Make room for so many new tracks, and for every live one to end and be kept aside for a frame."""
        n, capacity = len(self), len(self.tracks)
        needed = 2 * n + starts
        if needed > capacity:
            grown = self._empty(max(needed, 2 * capacity))
            grown[:n] = self.tracks[:n]
            self.tables = self.tables._replace(tracks=grown)

    def reserve_features(self, count: int, dimension: int) -> None:
        """Make room for `count` more features (D,) in the pool, each in a block of its own."""
        gallery = self.gallery
        if gallery.unit.shape[1] != dimension:
            gallery = make_gallery(max(16, count), dimension)
        elif gallery.free[0]["count"] < count:
            blocks = len(gallery.blocks)
            gallery = make_gallery(blocks + max(blocks, count), dimension, gallery)
        else:
            return
        self.tables = self.tables._replace(gallery=gallery)

    def alike(self, capacity: int = 1) -> TrackTable:
        """An empty table whose rows mean the same as here."""
        return type(self)(capacity)

    def copy_rows(self, rows: Ints) -> TrackTable:
        """A table of its own with copies of some rows (K,), also of those just deleted, and their latest features."""
        alone = self.alike(len(rows))
        tracks = alone.tracks
        tracks[:] = self.tracks[rows]
        alone.tables.counts[0] = len(rows), 1
        newest = tracks["gallery"]["newest"].copy()
        for name in alone.queues:
            tracks[name] = EMPTY_QUEUE
        known = np.flatnonzero(newest != NO_ROW)
        if len(known):
            alone.reserve_features(len(known), self.gallery.unit.shape[1])
        for k in known.tolist():
            row = newest[k]
            append_unit(alone.gallery, tracks[k]["gallery"], self.gallery.unit, row, self.gallery.norm[row], 1)
        return alone

    @abstractmethod
    def shown(self) -> Table:
        """Copies of the live rows for callers: (N,) SHOWN."""

    @abstractmethod
    def ltrb_after(self, dt: float) -> Floats:
        """Boxes (N, 4) left, top, right, bottom of the live rows, pixels, moved ahead by `dt` frames."""

    # --- one row alone, for tracks with methods of their own ------------------------------------------------------

    @abstractmethod
    def box(self, row: int) -> tuple[float, float, float, float]:
        """Left, top, width, height of a row's state, pixels."""

    @abstractmethod
    def predict(self, row: int, dt: float, longest: float) -> None:
        """Move one row ahead by `dt` frames, `longest` at most."""

    @abstractmethod
    def update(self, row: int, xyah: Floats, confidence: float, n_init: int) -> None:
        """Correct one row by its detection (4,) float64; the `n_init`-th confirms it."""

    @abstractmethod
    def miss(self, row: int, max_age: float) -> None:
        """Note that one row has no detection in this frame."""

    @abstractmethod
    def remember(self, row: int, feature: Floats, budget: int) -> None:
        """Add the feature (D,) of a row's new detection to its gallery, if that is for the row alone to decide."""

    # --- features -------------------------------------------------------------------------------------------------

    def latest_feature(self, row: int) -> Floats | None:
        """The newest feature (D,) float32 of a track, at its own length; None if it has none."""
        place = self.tracks[row]["gallery"]["newest"]
        return None if place == NO_ROW else self.gallery.unit[place] * self.gallery.norm[place]

    def add_feature(self, row: int, feature: Floats, budget: int) -> None:
        """Append one feature (D,) to a row's gallery. A feature of length 0 is no appearance, and is not kept."""
        features = np.array(feature, dtype=np.float32, ndmin=2)
        norm = feature_norm(features, 0)
        if norm > 0.0:
            self.reserve_features(1, features.shape[1])
            append(self.gallery, self.tracks[row]["gallery"], features, 0, norm, budget)

    def clear(self) -> None:
        """Delete all tracks; later features may have another dimension."""
        self.tables.counts[0]["live"] = 0
        self.tables = self.tables._replace(gallery=make_gallery(1, 0))

    # --- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """The whole table as plain arrays, for `load_state_dict`; of each gallery the oldest row first."""
        live = self.live
        state = {name: live[name].copy() for name in SAVED}
        state["features"] = live["gallery"]["held"].astype(np.int32)
        state["gallery_unit"], state["gallery_norm"] = self._features_of("gallery")
        counts = self.tables.counts[0]
        state["counters"] = np.array([counts["live"], counts["next_id"]], dtype=np.int64)
        return state

    def _features_of(self, queue: str) -> tuple[Floats, Floats]:
        """The unit features (K, D) and lengths (K,) in a queue of each live row, row by row, oldest first."""
        rows = [row for track in self.live for row in rows_of(self.gallery, track[queue])]
        return self.gallery.unit[rows, : self.dimension], self.gallery.norm[rows]

    def load_state_dict(self, state: Mapping[str, np.ndarray], budget: int) -> None:
        """Replace everything by a state of `state_dict`, with the newest `budget` rows of each gallery.

        Raises:
            InputError: an array is missing, or has the wrong shape or type, or the numbers contradict each other.
                Nothing is changed.
        """
        live, next_id = checked_array(state, "counters", (2,), np.dtype(np.int64)).tolist()
        n = int(live)
        saved = {name: checked_array(state, name, (n, *TRACK[name].shape), TRACK[name].base) for name in SAVED}
        held = checked_array(state, "features", (n,), np.dtype(np.int32))
        count = int(held.sum())
        unit = checked_array(state, "gallery_unit", (count, None), np.dtype(np.float32))
        norm = checked_array(state, "gallery_norm", (count,), np.dtype(np.float32))
        check_sense(saved, next_id)
        check_features("gallery", held, unit, norm)
        fresh = self.alike()
        fresh.reserve(n)
        for name, column in saved.items():
            fresh.tracks[name][:n] = column
        fresh.tables.counts[0] = n, next_id
        fresh._load_features("gallery", held, unit, norm, budget)
        self.tables = fresh.tables

    def _load_features(self, queue: str, held: Ints, unit: Floats, norm: Floats, budget: int) -> None:
        """Fill a queue of each live row with its share of saved features, the oldest first."""
        self.reserve_features(len(held) + len(unit) // BLOCK_ROWS, unit.shape[1])
        at = 0
        for track, count in zip(self.live, held.tolist(), strict=True):
            for _ in range(count):
                append_unit(self.gallery, track[queue], unit, at, norm[at], budget)
                at += 1
