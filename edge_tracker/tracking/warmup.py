"""Compiling ahead of the first frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_tracker.tracking.deepsort import phases as deepsort_phases
from edge_tracker.tracking.deepsort.kalman import KalmanFilter
from edge_tracker.tracking.deepsort.settings import DeepSortParameters
from edge_tracker.tracking.deepsort.tracker import DeepSortTracker
from edge_tracker.tracking.detections import Given
from edge_tracker.tracking.edge import phases as edge_phases
from edge_tracker.tracking.edge.tracker import EdgeTracker
from edge_tracker.tracking.jit import is_cached
from edge_tracker.tracking.method import Method
from edge_tracker.tracking.parameters import Common


def is_compiled(method: str) -> bool:
    """True if a method ("deepsort" or "edge") is in the cache, or can never be because nothing can be cached."""
    if method == "edge":
        return is_cached(edge_phases.open_frame) and is_cached(edge_phases.close_frame)
    return is_cached(deepsort_phases.step) and is_cached(deepsort_phases.step_by_motion)


class _Identity:
    """An embedder for compiling: the k-th detection's feature is the k-th unit vector."""

    dimension = 2

    def __call__(self, places: np.ndarray) -> np.ndarray:
        return np.eye(2, dtype=np.float32)[places]


def warm_up(method: str = "deepsort", *, own_classes: bool = False) -> None:
    """Compile everything that runs a frame, or load it from Numba's cache, so that no frame has to wait for it.

    Args:
        method: "deepsort" or "edge", as for `EdgeDeepSort`.
        own_classes: compile what tracks of a class with methods of its own (`override_track_class`) use, too.
    """
    common = Common(nms_max_overlap=0.9)
    tracker: Method
    if method == "edge":
        tracker = EdgeTracker(common=common)
    else:
        tracker = DeepSortTracker(DeepSortParameters(n_init=1, max_age=1), common)
    boxes = np.array([[0.0, 0.0, 10.0, 20.0], [40.0, 0.0, 10.0, 20.0]])  # apart: crops that overlap are not kept
    features = np.eye(2, dtype=np.float32)

    def given(seen: int, dimension: int) -> Given:
        classes = np.zeros(seen, dtype=np.int64)
        return Given(boxes[:seen], np.ones(seen), classes, features[: seen if dimension else 0])

    table: Any = tracker.table
    for seen in (2, 2, 2, 1, 0):
        tracker.step(given(seen, 2), 1.0)
        tracker.step(given(seen, 0), 1.0, _Identity())
        table.state_dict()
        table.copy_rows(np.arange(len(table)))
    other = tracker.new_table()
    tracker.step(given(2, 2), 1.0)
    other.load_state_dict(table.state_dict(), tracker.budget)
    table.shown()

    table.box(0)
    if own_classes:
        _warm_up_single_tracks(tracker, given(2, 2))


def _warm_up_single_tracks(tracker: Method, given: Given) -> None:
    """Compile what is called for one track at a time, with two that are live, and a dense filter's functions."""
    table, xyah = tracker.table, np.array([5.0, 10.0, 0.5, 20.0])
    scene = tracker.prepare(given)
    table.predict(0, 1.0, 2.0)
    tracker.match(scene, 1.0)
    table.update(0, xyah, 1.0, 1)
    table.miss(1, 1.0)
    table.add_feature(0, given.features[0], 1)
    tracker.finish(scene)
    kf = KalmanFilter()
    kf.gating_distance(*kf.update(*kf.predict(*kf.initiate(xyah)), xyah), xyah[None])
