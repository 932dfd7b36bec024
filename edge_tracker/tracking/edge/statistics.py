"""Statistics that `method="edge"` gathers while it runs: the camera's movement, and usual confidences and distances."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import Record
from edge_tracker.tracking.jit import jit

# A running sum and the number of values in it; old ones fade.
RUNNING = np.dtype([("sum", "f8"), ("count", "f8")], align=True)

# pairs, singles, pair_sum, single_sum: running sums behind the variances `shake` of the camera (x, y; pixels^2) and
# `scatter` of the tracks' own movement (x, y; heights^2), see `edge.camera`.
# same, other: cosine distances between features of one object and of two. seen: 1 once there have been features.
# confidence: of the detections that confirmed tracks get.
STATISTICS = np.dtype(
    [
        ("pairs", "f8"),
        ("singles", "f8"),
        ("pair_sum", "f8", 2),
        ("single_sum", "f8", 2),
        ("shake", "f8", 2),
        ("scatter", "f8", 2),
        ("same", RUNNING),
        ("other", RUNNING),
        ("seen", "f8"),
        ("confidence", RUNNING),
    ],
    align=True,
)

FIRST_SCATTER = 1e-3  # before any movement was seen

# A detector's usual confidence before any was seen, with the weight of so many detections; old ones fade.
USUAL, USUAL_WEIGHT, USUAL_FADE = 0.9, 20.0, 0.998


def first_statistics() -> np.ndarray:
    """The statistics (1,) STATISTICS of a new tracker."""
    statistics = np.zeros(1, dtype=STATISTICS)
    statistics["scatter"] = FIRST_SCATTER
    return statistics


@jit
def observe(running: Record, total: float, count: int, fade: float) -> None:
    """Add a frame's `count` values, whose sum is `total`, to a running sum.

    The values before fade by `fade` for each new one. Taken frame by frame, the order within one does not matter.
    """
    running["sum"] = running["sum"] * fade**count + total
    running["count"] = running["count"] * fade**count + count


@jit
def usual_confidence(statistics: Record) -> float:
    """The mean confidence of this detector's detections."""
    running = statistics["confidence"]
    return (running["sum"] + USUAL_WEIGHT * USUAL) / (running["count"] + USUAL_WEIGHT)
