"""One frame of DeepSORT on arrays: predict, matching cascade, IoU stage, lifecycle.

The method is that of Wojke, Bewley and Paulus (2017, arXiv 1703.07402) as deep-sort-realtime runs it; what is computed,
and in which order, is chosen so that only what the answer depends on is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.deepsort.association import Settings, associate
from edge_tracker.tracking.detections import OK, Frame, complain, prepare
from edge_tracker.tracking.gallery import Queues, append
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import (
    LIVE,
    TrackStore,
    bury,
    predict_tracks,
    release_buried,
    settle_tracks,
    start_tracks,
)


@jit
def note_detections(rows, first, match, frame):  # type: ignore[no-untyped-def]
    """Note on rows the detections that they were matched to or born from.

    Args:
        first: the row that `match` begins with.
        match: (n,) int64, which detection of the frame each row got, NONE for none.
    """
    ltwh, detection, confidence, class_id = rows.ltwh, rows.detection, rows.confidence, rows.class_id
    for j in range(match.shape[0]):
        row, k = first + j, match[j]
        if k == NONE:
            continue
        for i in range(4):
            ltwh[row, i] = frame.ltwh[k, i]
        detection[row] = frame.origin[k]
        confidence[row] = frame.confidence[k]
        class_id[row] = frame.class_id[k]


@jit
def note(rows, gallery, first, match, frame, features, budget):  # type: ignore[no-untyped-def]
    """`note_detections`, and how they looked.

    Args:
        features: (M, D) float32 in the caller's order, or (0, D).
        budget: features that a track may hold; 0 for no limit.
    """
    note_detections(rows, first, match, frame)
    queues = Queues(rows.newest, rows.oldest, rows.features)
    for j in range(match.shape[0]):
        k = match[j]
        if k != NONE and frame.norm[k] > 0.0:
            append(gallery, queues, first + j, features, frame.origin[k], frame.norm[k], budget)


@jit
def give_birth(rows, counters, gallery, frame, features, match, budget):  # type: ignore[no-untyped-def]
    """Start a track at every detection of a frame that no track was matched to, in detection order."""
    taken = np.zeros(frame.origin.shape[0], dtype=np.bool_)
    for row in range(match.shape[0]):
        if match[row] != NONE:
            taken[match[row]] = True
    unmatched = np.flatnonzero(~taken)
    first = counters[LIVE]
    start_tracks(rows, counters, frame.xyah, unmatched)
    note(rows, gallery, first, unmatched, frame, features, budget)


@jit
def step(rows, counters, gallery, ltwh, confidence, class_ids, features, dt, settings):  # type: ignore[no-untyped-def]
    """One whole frame. If a detection is not valid nothing is changed.

    Arguments as for `prepare` and `associate`.

    Returns:
        OK or the complaint, the detection it is about, and (K,) int64, the rows that were buried (see `bury`).
    """
    complaint, blamed, frame = prepare(ltwh, confidence, class_ids, features, settings)
    if complaint != OK:
        return complaint, blamed, np.empty(0, dtype=np.int64)
    n = counters[LIVE]
    predict_tracks(rows, 0, n, dt, settings.max_age + 1)
    match = associate(rows, n, gallery, frame, features, dt, settings)
    settle_tracks(rows, 0, match, frame.xyah, settings.n_init, settings.max_age)
    note(rows, gallery, 0, match, frame, features, settings.budget)
    buried = bury(rows, counters)
    give_birth(rows, counters, gallery, frame, features, match, settings.budget)
    release_buried(rows, gallery, buried.shape[0])
    return complaint, blamed, buried


# Given places (K,) in the caller's order and M, the features (M, D) of the detections there, zero elsewhere.
Embed = Callable[[np.ndarray, int], np.ndarray]


class Tracker:
    """DeepSORT over a `TrackStore`: arrays in, the store changed.

    Args:
        max_iou_distance: largest 1 - IoU at which the IoU stage matches.
        max_age: frames a confirmed track lives without a detection.
        n_init: hits that confirm a track; before that a single miss ends it.
        nms_max_overlap: a detection is dropped when more than this share of its area is covered by one of higher
            confidence; 1 for no suppression.
        max_cosine_distance: largest cosine distance at which the cascade matches.
        nn_budget: features a track's gallery holds, the newest ones; None for no limit.
        gating_only_position: gate on the centre alone instead of on centre, aspect ratio and height.
        class_aware: match a track only to detections of its own class.
        drop_invalid: leave out detections with NaN or infinite values instead of refusing the frame.

    Attributes:
        store: the tracks.
        settings: the above as the compiled code takes it.

    Raises:
        InputError: an argument that is out of range, by name.
    """

    def __init__(
        self,
        max_iou_distance: float = 0.7,
        max_age: int = 30,
        n_init: int = 3,
        nms_max_overlap: float = 1.0,
        max_cosine_distance: float = 0.2,
        nn_budget: int | None = 100,
        gating_only_position: bool = False,
        class_aware: bool = False,
        drop_invalid: bool = False,
    ) -> None:
        check("max_iou_distance", max_iou_distance, 0)
        check("max_age", max_age, 0)
        check("n_init", n_init, 1, whole=True)
        check("nms_max_overlap", nms_max_overlap, 0)
        check("max_cosine_distance", max_cosine_distance, 0)
        if nn_budget is not None:
            check("nn_budget", nn_budget, 1, whole=True)
        self.settings = Settings(
            max_iou_distance=float(max_iou_distance),
            max_age=float(max_age),
            n_init=int(n_init),
            nms_max_overlap=float(nms_max_overlap),
            max_cosine_distance=float(max_cosine_distance),
            budget=int(nn_budget or 0),
            gating_only_position=bool(gating_only_position),
            class_aware=bool(class_aware),
            drop_invalid=bool(drop_invalid),
        )
        self.store = self.new_store()

    def new_store(self) -> TrackStore:
        """An empty store of the kind that this method works on."""
        return TrackStore()

    def no_features(self) -> np.ndarray:
        """What stands for "no features" in `step`: (0, D)."""
        return self.store.gallery.unit[:0]

    def reserve(self, detections: int, features: np.ndarray) -> None:
        """Make room in the store for what one frame can add.

        Raises:
            InputError: features of another length than the tracks have.
        """
        if len(features):
            dimension = self.store.dimension
            if dimension not in (0, features.shape[1]):
                raise InputError(
                    f"features have {features.shape[1]} values, those of earlier frames {dimension}: "
                    "use one embedder, or delete_all_tracks() before changing it"
                )
            self.store.reserve_features(detections, features.shape[1])
        self.store.reserve(detections)

    def step(
        self,
        ltwh: np.ndarray,
        confidence: np.ndarray,
        class_ids: np.ndarray,
        features: np.ndarray,
        dt: float,
        embed: Embed | None = None,
    ) -> np.ndarray:
        """Run one frame.

        Args:
            ltwh: (M, 4) float64, pixels.
            confidence: (M,) float64, or `NO_FLOATS`.
            class_ids: (M,) int64, or `NO_CLASSES`.
            features: (M, D) float32, or `no_features()`.
            dt: frames since the last call.
            embed: in the place of `features`, what computes them, for methods that do not need all.

        Returns:
            (K,) int64, the rows of the tracks that ended (see `bury`).

        Raises:
            InputError: a detection with a NaN or infinite value, by index. The store is unchanged.
        """
        self.reserve(len(ltwh), features)
        store = self.store
        complaint, blamed, buried = step(
            store.rows, store.counters, store.gallery, ltwh, confidence, class_ids, features, dt, self.settings
        )
        if complaint:
            complain(complaint, blamed)
        return buried

    # --- what tracks with methods of their own go through ---------------------------------------------------------

    def match(
        self, frame: Frame, features: np.ndarray, dt: float, embed: Embed | None, m: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Match the tracks, which have been predicted; arguments as for `step`.

        Returns:
            (N,) int64, the place in `frame` of each row's detection or NONE, and the features.
        """
        store = self.store
        return associate(store.rows, len(store), store.gallery, frame, features, dt, self.settings), features

    def conclude(self, frame: Frame, features: np.ndarray, match: np.ndarray) -> np.ndarray:
        """Deaths and births, when all tracks have been corrected or marked as missed.

        Returns:
            (K,) int64, the rows of the tracks that ended.
        """
        store = self.store
        buried = bury(store.rows, store.counters)
        give_birth(store.rows, store.counters, store.gallery, frame, features, match, self.settings.budget)
        release_buried(store.rows, store.gallery, len(buried))
        return buried


def check(name: str, value: Any, least: float, most: float = np.inf, *, whole: bool = False) -> None:
    """Refuse an argument that is not a finite number from `least` to `most`, or not a whole one.

    Raises:
        InputError: with its name and value.
    """
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not good or not np.isfinite(value) or not least <= value <= most or (whole and int(value) != value):
        limit = "" if most == np.inf else f" and at most {most:g}"
        raise InputError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number of at least {least}{limit}")
