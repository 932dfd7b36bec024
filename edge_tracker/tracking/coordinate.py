"""One coordinate of a constant-velocity Kalman filter, whose coordinates are independent of each other.

Its uncertainty is a block (p, c, v): variance of the position, covariance with the velocity, variance of the velocity.
"""

from __future__ import annotations

from edge_tracker.tracking.arrays import Record
from edge_tracker.tracking.jit import jit


@jit
def correct(track: Record, i: int, measured: float, noise: float) -> None:
    """Kalman update of coordinate i of a track (mean, covariance) by a measurement with noise of this variance."""
    mean, block = track["mean"], track["covariance"][i]
    p, c, v = block[0], block[1], block[2]
    variance = p + noise
    gain, velocity_gain = p / variance, c / variance
    innovation = measured - mean[i]
    mean[i] += gain * innovation
    mean[i + 4] += velocity_gain * innovation
    block[0] = p - gain * p
    block[1] = c - gain * c
    block[2] = v - velocity_gain * c
