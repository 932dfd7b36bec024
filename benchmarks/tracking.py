"""Milliseconds per update, side by side with other trackers: one process, one thread, the same frames."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_tracker import EdgeDeepSort
from tests.tracking.scenes import crowd, raw

OBJECTS = (10, 50, 100, 200, 500)
DIMENSION, BUDGET = 512, 100
WARM_UP = 110  # frames: galleries are full
# The aims, in multiples of deep-sort-realtime's speed.
AIMS = dict(zip(OBJECTS, (80, 150, 150, 180, 200), strict=True))


def median_ms(samples: list[float]) -> float:
    """Median of times in seconds, as milliseconds."""
    return 1000 * float(np.median(samples))


def timed(call: Callable[[], Any]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def run(tracker: Callable[..., Any], frames: list[tuple[Any, ...]], counted: int) -> float:
    """Median ms of the last `counted` frames; each tracker has a pass of its own, as in use."""
    return median_ms([timed(lambda f=frame: tracker(*f)) for frame in frames][-counted:])


def with_features(objects: int, counted: int, dimension: int = DIMENSION) -> tuple[float, float]:
    """Median ms of `update_tracks` with given features: deep-sort-realtime, edge-tracker."""
    from deep_sort_realtime.deepsort_tracker import DeepSort

    scene = crowd(objects, WARM_UP + counted, dimension)
    frames = [(raw(ltwh), list(features)) for ltwh, features, _ in scene]
    theirs = DeepSort(embedder=None, nn_budget=BUDGET)
    ours = EdgeDeepSort(embedder=None, nn_budget=BUDGET)
    return run(theirs.update_tracks, frames, counted), run(ours.update_tracks, frames, counted)


def by_motion(objects: int, counted: int) -> tuple[float, float]:
    """Median ms of one frame by motion alone: Cython SORT, edge-tracker's arrays method."""
    from pyxtrackers.sort import Sort

    boxes = [ltwh for ltwh, _, _ in crowd(objects, 50 + counted, 2)]
    confidence = [np.full(len(ltwh), 0.9) for ltwh in boxes]
    rows = [(np.column_stack([b[:, :2], b[:, :2] + b[:, 2:], c]),) for b, c in zip(boxes, confidence, strict=True)]
    theirs = Sort(max_age=30, min_hits=3, iou_threshold=0.3)
    ours = EdgeDeepSort(embedder=None)
    return run(theirs.update, rows, counted), run(ours.update, list(zip(boxes, confidence, strict=True)), counted)


def by_method(objects: int, counted: int, dimension: int) -> tuple[float, float]:
    """Median ms of one frame through the arrays method: exact mode, `method="edge"`; dimension 0 is motion alone."""
    scene = list(crowd(objects, WARM_UP + counted, dimension or 2))
    frames = [(b, np.full(len(b), 0.9), None, f if dimension else None) for b, f, _ in scene]
    exact = EdgeDeepSort(embedder=None, nn_budget=BUDGET)
    edge = EdgeDeepSort(embedder=None, method="edge")
    # Frame by frame in turn, so that other load on the machine slows both equally.
    took = [(timed(lambda f=frame: exact.update(*f)), timed(lambda f=frame: edge.update(*f))) for frame in frames]
    first, second = zip(*took[-counted:], strict=True)
    return median_ms(list(first)), median_ms(list(second))


def main() -> None:
    """Print the tables."""
    version = importlib.metadata.version
    print(f"update_tracks with given features ({DIMENSION}-d, budget {BUDGET}, galleries full), ms per frame")
    print(f"| objects | deep-sort-realtime {version('deep-sort-realtime')} | edge-tracker | ratio | aim |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for objects in OBJECTS:
        theirs, ours = with_features(objects, counted=20 if objects >= 200 else 60)
        print(f"| {objects} | {theirs:.2f} | {ours:.3f} | {theirs / ours:.0f}x | {AIMS[objects]}x |", flush=True)
    print("\nby motion alone, ms per frame")
    print(f"| objects | SORT in Cython (pyxtrackers {version('pyxtrackers')}) | edge-tracker, arrays | ratio |")
    print("| ---: | ---: | ---: | ---: |")
    for objects in OBJECTS:
        theirs, ours = by_motion(objects, counted=400)
        print(f"| {objects} | {theirs:.3f} | {ours:.3f} | {theirs / ours:.2f}x |", flush=True)
    print(f"\nmethod='edge' beside exact mode ({DIMENSION}-d features, all given; and by motion alone), ms per frame")
    print("| objects | exact | edge | ratio | aim | exact, motion | edge, motion | ratio | aim |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for objects in OBJECTS:
        cells = []
        for dimension in (DIMENSION, 0):
            exact, edge = by_method(objects, 60, dimension)
            cells.append(f"{exact:.3f} | {edge:.3f} | {edge / exact:.2f}x | 2x")
        print(f"| {objects} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
