"""Constant-velocity Kalman filter of a track.

State (x, y, a, h) and velocities, in pixels and frames: box centre, aspect ratio w/h, height. The model is DeepSORT's
(Wojke, Bewley and Paulus, 2017, arXiv 1703.07402): process and measurement noise are diagonal and proportional to the
height. With a diagonal start the 8x8 covariance never mixes coordinates, so it is kept as four blocks
(p, c, v): position variance, position-velocity covariance, velocity variance. Predict, update and the Mahalanobis
distance are then exact with scalars alone: no matrix product, no factorisation.
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking import coordinate
from edge_tracker.tracking.arrays import Floats, Record
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import TRACK

POSITION_WEIGHT = 1.0 / 20  # standard deviation of a position, in heights
VELOCITY_WEIGHT = 1.0 / 160  # standard deviation of a velocity, in heights a frame
ASPECT = 2  # index of the aspect ratio: its noise does not scale with the height
ASPECT_STD, ASPECT_VELOCITY_STD, ASPECT_MEASUREMENT_STD = 1e-2, 1e-5, 1e-1

# 0.95 quantile of the chi-square distribution, by degrees of freedom: the squared Mahalanobis distance of a true pair
# stays below it 19 times in 20.
CHI2_95_2DOF = 5.9915
CHI2_95_4DOF = 9.4877


@jit
def _single(weight: float, height: float) -> float:
    """Standard deviation of noise that scales with the height, in single precision.

    deep-sort-realtime computes it so while the state is still a measurement itself, and tracks have to agree with its
    within 1e-6.
    """
    return float(np.float32(weight) * np.float32(height))


@jit
def start(track: Record, measured: Floats) -> None:
    """Set a track's motion to a measurement (4,) xyah, at rest."""
    mean, covariance, height = track["mean"], track["covariance"], measured[3]
    for i in range(4):
        position = ASPECT_STD if i == ASPECT else _single(2 * POSITION_WEIGHT, height)
        velocity = ASPECT_VELOCITY_STD if i == ASPECT else _single(10 * VELOCITY_WEIGHT, height)
        mean[i] = measured[i]
        mean[i + 4] = 0.0
        covariance[i, 0] = position * position
        covariance[i, 1] = 0.0
        covariance[i, 2] = velocity * velocity


@jit
def _step(track: Record, dt: float) -> None:
    """One predict step of at most one frame; `dt == 1` is DeepSORT's own arithmetic, to the bit."""
    mean, covariance = track["mean"], track["covariance"]
    height, single = mean[3], covariance[3, 1] == 0.0
    scaled_position = _single(POSITION_WEIGHT, height) if single else POSITION_WEIGHT * height
    scaled_velocity = _single(VELOCITY_WEIGHT, height) if single else VELOCITY_WEIGHT * height
    for i in range(4):
        position = ASPECT_STD if i == ASPECT else scaled_position
        velocity = ASPECT_VELOCITY_STD if i == ASPECT else scaled_velocity
        p, c, v = covariance[i, 0], covariance[i, 1], covariance[i, 2]
        covariance[i, 0] = p + 2.0 * dt * c + dt * dt * v + dt * position * position
        covariance[i, 1] = c + dt * v
        covariance[i, 2] = v + dt * velocity * velocity
        mean[i] += dt * mean[i + 4]


@jit
def predict(track: Record, dt: float, longest: float) -> None:
    """Move a track ahead by `dt` frames: whole frames one by one, then the fraction that is left.

    So `dt=3` is exactly the same as three frames without a detection.

    Args:
        track: its mean and covariance are changed.
        dt: frames, greater than 0.
        longest: frames after which the track is deleted in any case, so that it need not be moved further.
    """
    whole = int(min(np.floor(dt), longest))
    for _ in range(whole):
        _step(track, 1.0)
    fraction = dt - np.floor(dt)
    if fraction > 0.0 and whole < longest:
        _step(track, fraction)


@jit
def innovation_variance(track: Record, i: int) -> float:
    """Variance of measured minus predicted for coordinate i: state variance plus measurement noise."""
    noise = ASPECT_MEASUREMENT_STD if i == ASPECT else POSITION_WEIGHT * track["mean"][3]
    return track["covariance"][i, 0] + noise * noise


@jit
def update(track: Record, measured: Floats) -> None:
    """Correct a predicted track by its measurement (4,) xyah."""
    noise = POSITION_WEIGHT * track["mean"][3]  # of the predicted height, which the loop corrects
    for i in range(4):
        std = ASPECT_MEASUREMENT_STD if i == ASPECT else noise
        coordinate.correct(track, i, measured[i], std * std)


@jit
def box(track: Record) -> tuple[float, float, float, float]:
    """Left, top, width, height of a track's mean.

    A height or aspect ratio that shrank past zero while there were no detections stays so in the state, as in
    deep-sort-realtime, but no box has a negative side.
    """
    mean = track["mean"]
    height = max(mean[3], 0.0)
    width = max(mean[2], 0.0) * height
    return mean[0] - width / 2, mean[1] - height / 2, width, height


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
        track = np.zeros(1, dtype=TRACK)[0]
        start(track, _measured(measurement))
        return _state_of(track)

    def predict(self, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """State `dt` frames later.

        Raises:
            ValueError: the covariance couples coordinates.
        """
        track = _track_with(mean, covariance)
        predict(track, self.dt, 10_000)
        return _state_of(track)

    def project(self, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected measurement (4,) and its covariance (4, 4).

        Raises:
            ValueError: the covariance couples coordinates.
        """
        track = _track_with(mean, covariance)
        return track["mean"][:4].copy(), np.diag([innovation_variance(track, i) for i in range(4)])

    def update(
        self, mean: np.ndarray, covariance: np.ndarray, measurement: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """State corrected by a measurement (4,) xyah.

        Raises:
            ValueError: the covariance couples coordinates.
        """
        track = _track_with(mean, covariance)
        update(track, _measured(measurement))
        return _state_of(track)

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


def _measured(measurement: np.ndarray) -> np.ndarray:
    """A measurement (4,) as compiled functions take it."""
    return np.array(measurement, dtype=np.float64).reshape(4)


def _track_with(mean: np.ndarray, covariance: np.ndarray) -> Record:
    """A track in this state."""
    track = np.zeros(1, dtype=TRACK)[0]
    track["mean"] = np.asarray(mean, dtype=np.float64).reshape(8)
    track["covariance"] = blocks(covariance)
    return track


def _state_of(track: Record) -> tuple[np.ndarray, np.ndarray]:
    """Mean (8,) and dense covariance (8, 8) of a track."""
    return track["mean"].copy(), dense(track["covariance"])
