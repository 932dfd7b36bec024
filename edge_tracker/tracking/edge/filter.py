"""Motion in `method="edge"`: a Kalman filter in centre x, y, width, height.

The four coordinates are independent (see `tracking.coordinate`). The process noise is that of a white-noise
acceleration, integrated over the step (Bar-Shalom, Li and Kirubarajan, "Estimation with Applications to Tracking and
Navigation", 2001, 6.2.2), so that one step of two frames is as good as two of one.
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking import coordinate
from edge_tracker.tracking.arrays import Floats, Record
from edge_tracker.tracking.edge.statistics import usual_confidence
from edge_tracker.tracking.jit import jit

LEAST_SIDE = 1.0  # pixels


@jit
def shakiness(statistics: Record, axis: int, height: float, settings: Record) -> float:
    """Ratio of a track's movement along an axis to its movement before a still camera, as variances.

    Args:
        statistics: a record of STATISTICS.
        axis: 0 for x, 1 for y.
        height: of the track, pixels.
        settings: the parameters.
    """
    return 1.0 + settings["camera"] * statistics["shake"][axis] / (statistics["scatter"][axis] * height * height)


@jit
def predict(track: Record, dt: float, statistics: Record, settings: Record) -> None:
    """Move a track ahead by `dt` frames."""
    mean, covariance = track["mean"], track["covariance"]
    height = mean[3]
    for i in range(4):
        std = (settings["acceleration"] if i < 2 else settings["growth"]) * height
        noise = std * std
        if i < 2:
            noise *= shakiness(statistics, i, height, settings)
        mean[i] += dt * mean[i + 4]
        p, c, v = covariance[i, 0], covariance[i, 1], covariance[i, 2]
        covariance[i, 0] = p + dt * (2.0 * c + dt * v) + noise * dt * dt * dt / 3.0
        covariance[i, 1] = c + dt * v + noise * dt * dt / 2.0
        covariance[i, 2] = v + noise * dt
    mean[2] = max(mean[2], LEAST_SIDE)
    mean[3] = max(mean[3], LEAST_SIDE)


@jit
def sureness(confidence: float) -> float:
    """A confidence as a number from 0 to 1; where it is unknown, 1."""
    return min(max(confidence, 0.0), 1.0) if np.isfinite(confidence) else 1.0


@jit
def inaccuracy(statistics: Record, confidence: float, settings: Record) -> float:
    """Error of a detection, relative to one of the confidence that is usual for this detector."""
    doubt = settings["doubt"]
    return (1.0 + doubt * (1.0 - sureness(confidence))) / (1.0 + doubt * (1.0 - usual_confidence(statistics)))


@jit
def _noise(i: int, height: float, off: float, settings: Record) -> float:
    """Variance of the measurement of coordinate i."""
    std = (settings["position_noise"] if i < 2 else settings["size_noise"]) * height * off
    return max(std * std, 1e-12)


@jit
def start(track: Record, measured: Floats, off: float, settings: Record) -> None:
    """Set a track's motion to a box (4,) xywh, at rest; `off` is its `inaccuracy`."""
    mean, covariance, height = track["mean"], track["covariance"], measured[3]
    for i in range(4):
        speed = (settings["first_speed"] if i < 2 else settings["first_growth"]) * height
        mean[i], mean[i + 4] = measured[i], 0.0
        covariance[i, 0] = _noise(i, height, off, settings)
        covariance[i, 1] = 0.0
        covariance[i, 2] = speed * speed


@jit
def correct(track: Record, measured: Floats, off: float, settings: Record) -> None:
    """Correct a predicted track by a box (4,) xywh, whose `inaccuracy` is `off`."""
    height = track["mean"][3]
    for i in range(4):
        coordinate.correct(track, i, measured[i], _noise(i, height, off, settings))


@jit
def box(track: Record) -> tuple[float, float, float, float]:
    """Left, top, width, height of a track's mean."""
    mean = track["mean"]
    width, height = max(mean[2], LEAST_SIDE), max(mean[3], LEAST_SIDE)
    return mean[0] - width / 2, mean[1] - height / 2, width, height
