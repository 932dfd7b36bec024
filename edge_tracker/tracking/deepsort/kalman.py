"""Constant-velocity Kalman filter over all tracks at once.

State (x, y, a, h) and velocities, in pixels and frames: box centre, aspect ratio w/h, height. The model is DeepSORT's
(Wojke, Bewley and Paulus, 2017, arXiv 1703.07402): process and measurement noise are diagonal and proportional to the
height. With a diagonal start the 8x8 covariance never mixes coordinates, so it is kept as four blocks
(p, c, v): position variance, position-velocity covariance, velocity variance. Predict, update and the Mahalanobis
distance are then exact with scalars alone: no matrix product, no factorisation.
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.jit import jit

POSITION_WEIGHT = 1.0 / 20  # standard deviation of a position, in heights
VELOCITY_WEIGHT = 1.0 / 160  # standard deviation of a velocity, in heights a frame
ASPECT = 2  # index of the aspect ratio: its noise does not scale with the height
ASPECT_STD, ASPECT_VELOCITY_STD, ASPECT_MEASUREMENT_STD = 1e-2, 1e-5, 1e-1

# 0.95 quantile of the chi-square distribution, by degrees of freedom: what the squared Mahalanobis distance of a true
# pair stays below 19 times in 20.
CHI2_95_2DOF = 5.9915
CHI2_95_4DOF = 9.4877


@jit
def _std(weight, height, single):  # type: ignore[no-untyped-def]
    """Standard deviation of noise that scales with the height.

    In single precision while the state is still a measurement itself: deep-sort-realtime computes so, and its tracks
    are to be met to 1e-6.
    """
    return float(np.float32(weight) * np.float32(height)) if single else weight * height


@jit
def start(means, covariances, row, measurements, k):  # type: ignore[no-untyped-def]
    """Begin a track at a measurement, at rest.

    Args:
        means (C, 8), covariances (C, 4, 3): written at `row`.
        measurements: (K, 4) x, y, a, h, of which the k-th.
    """
    height = measurements[k, 3]
    for i in range(4):
        position = ASPECT_STD if i == ASPECT else _std(2 * POSITION_WEIGHT, height, True)
        velocity = ASPECT_VELOCITY_STD if i == ASPECT else _std(10 * VELOCITY_WEIGHT, height, True)
        means[row, i] = measurements[k, i]
        means[row, i + 4] = 0.0
        covariances[row, i, 0] = position * position
        covariances[row, i, 1] = 0.0
        covariances[row, i, 2] = velocity * velocity


@jit
def _step(means, covariances, row, dt):  # type: ignore[no-untyped-def]
    """One predict step of at most one frame; `dt == 1` is DeepSORT's own arithmetic, to the bit."""
    height = means[row, 3]
    newborn = covariances[row, 3, 1] == 0.0
    for i in range(4):
        position = ASPECT_STD if i == ASPECT else _std(POSITION_WEIGHT, height, newborn)
        velocity = ASPECT_VELOCITY_STD if i == ASPECT else _std(VELOCITY_WEIGHT, height, newborn)
        p, c, v = covariances[row, i, 0], covariances[row, i, 1], covariances[row, i, 2]
        covariances[row, i, 0] = p + 2.0 * dt * c + dt * dt * v + dt * position * position
        covariances[row, i, 1] = c + dt * v
        covariances[row, i, 2] = v + dt * velocity * velocity
        means[row, i] += dt * means[row, i + 4]


@jit
def predict(means, covariances, row, dt, longest):  # type: ignore[no-untyped-def]
    """Move one track ahead by `dt` frames: whole frames one by one, then the fraction that is left.

    So `dt=3` is exactly what three frames without a detection do.

    Args:
        means (C, 8), covariances (C, 4, 3): changed at `row`.
        dt: frames, greater than 0.
        longest: steps after which the track is dead anyway, and moving it further is of no use.
    """
    whole = int(min(np.floor(dt), longest))
    for _ in range(whole):
        _step(means, covariances, row, 1.0)
    fraction = dt - np.floor(dt)
    if fraction > 0.0 and whole < longest:
        _step(means, covariances, row, fraction)


@jit
def innovation_variance(means, covariances, row, i):  # type: ignore[no-untyped-def]
    """Variance of measured minus predicted for coordinate i: state variance plus measurement noise."""
    noise = ASPECT_MEASUREMENT_STD if i == ASPECT else POSITION_WEIGHT * means[row, 3]
    return covariances[row, i, 0] + noise * noise


@jit
def correct_coordinate(means, covariances, row, i, measured, noise):  # type: ignore[no-untyped-def]
    """Kalman update of coordinate i alone, by a measurement with noise of this variance."""
    p, c, v = covariances[row, i, 0], covariances[row, i, 1], covariances[row, i, 2]
    variance = p + noise
    gain, velocity_gain = p / variance, c / variance
    innovation = measured - means[row, i]
    means[row, i] += gain * innovation
    means[row, i + 4] += velocity_gain * innovation
    covariances[row, i, 0] = p - gain * p
    covariances[row, i, 1] = c - gain * c
    covariances[row, i, 2] = v - velocity_gain * c


@jit
def update(means, covariances, row, measurements, k):  # type: ignore[no-untyped-def]
    """Correct one predicted track by its measurement.

    Args:
        means (C, 8), covariances (C, 4, 3): changed at `row`.
        measurements: (K, 4) x, y, a, h, of which the k-th.
    """
    noise = POSITION_WEIGHT * means[row, 3]  # of the predicted height, which the loop corrects
    for i in range(4):
        std = ASPECT_MEASUREMENT_STD if i == ASPECT else noise
        correct_coordinate(means, covariances, row, i, measurements[k, i], std * std)


@jit
def box(means, row):  # type: ignore[no-untyped-def]
    """Left, top, width, height of a state's mean, `row` of (C, 8).

    A height or aspect ratio that shrank past zero while there were no detections stays so in the state, as in
    deep-sort-realtime, but no box has a negative side.
    """
    height = max(means[row, 3], 0.0)
    width = max(means[row, 2], 0.0) * height
    return means[row, 0] - width / 2, means[row, 1] - height / 2, width, height


def dense(covariance: np.ndarray) -> np.ndarray:
    """The (8, 8) covariance that four (p, c, v) blocks (4, 3) stand for."""
    full = np.zeros((8, 8))
    k = np.arange(4)
    full[k, k] = covariance[:, 0]
    full[k, k + 4] = full[k + 4, k] = covariance[:, 1]
    full[k + 4, k + 4] = covariance[:, 2]
    return full


def blocks(covariance: np.ndarray) -> np.ndarray:
    """The four (p, c, v) blocks (4, 3) of an (8, 8) covariance.

    Raises:
        ValueError: the matrix has another shape, or mixes coordinates, which this filter cannot hold.
    """
    full = np.asarray(covariance, dtype=np.float64)
    if full.shape != (8, 8):
        raise ValueError(f"covariance must be (8, 8), not {full.shape}")
    k = np.arange(4)
    parts = np.stack([full[k, k], full[k, k + 4], full[k + 4, k + 4]], axis=1)
    if not np.array_equal(dense(parts), full):
        raise ValueError("covariance couples different coordinates; this filter keeps x, y, a and h independent")
    return parts


class KalmanFilter:
    """The same filter on one dense state, with deep-sort-realtime's methods.

    For `Track` subclasses that override `predict` or `update` and for anyone who wants (8,) means and (8, 8)
    covariances. The tracker itself runs the functions above.

    Attributes:
        dt: frames that one `predict` moves ahead.
    """

    dt = 1.0

    def initiate(self, measurement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (8,) and covariance (8, 8) of a new track at a measurement (4,) xyah."""
        means, covariances = np.empty((1, 8)), np.empty((1, 4, 3))
        start(means, covariances, 0, np.asarray(measurement, dtype=np.float64)[None], 0)
        return means[0], dense(covariances[0])

    def predict(self, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """State `dt` frames later.

        Raises:
            ValueError: the covariance couples coordinates.
        """
        means, covariances = _alone(mean, covariance)
        predict(means, covariances, 0, self.dt, 10_000)
        return means[0], dense(covariances[0])

    def project(self, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected measurement (4,) and its covariance (4, 4).

        Raises:
            ValueError: the covariance couples coordinates.
        """
        means, covariances = _alone(mean, covariance)
        return means[0, :4], np.diag([innovation_variance(means, covariances, 0, i) for i in range(4)])

    def update(
        self, mean: np.ndarray, covariance: np.ndarray, measurement: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """State corrected by a measurement (4,) xyah.

        Raises:
            ValueError: the covariance couples coordinates.
        """
        means, covariances = _alone(mean, covariance)
        update(means, covariances, 0, np.asarray(measurement, dtype=np.float64)[None], 0)
        return means[0], dense(covariances[0])

    def gating_distance(
        self, mean: np.ndarray, covariance: np.ndarray, measurements: np.ndarray, only_position: bool = False
    ) -> np.ndarray:
        """Squared Mahalanobis distance (M,) of measurements (M, 4) xyah, over (x, y) alone if `only_position`.

        Raises:
            ValueError: the covariance couples coordinates.
        """
        expected, variance = self.project(mean, covariance)
        used = slice(0, 2 if only_position else 4)
        residual = (np.asarray(measurements, dtype=np.float64) - expected)[:, used]
        return (residual**2 / np.diag(variance)[used]).sum(axis=1)


def _alone(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One dense state as arrays of one row."""
    return np.array(mean, dtype=np.float64).reshape(1, 8), blocks(covariance)[None]
