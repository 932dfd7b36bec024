"""The Kalman filter equals the dense one of deep-sort-realtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.deepsort.kalman import KalmanFilter, blocks, dense
from edge_tracker.tracking.tables import TRACK

reference = pytest.importorskip("deep_sort_realtime.deep_sort.kalman_filter")


def walk(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Measurements (steps, 4) float32 xyah of an object on its way."""
    start = np.array([rng.uniform(0, 2000), rng.uniform(0, 1000), rng.uniform(0.2, 3), rng.uniform(5, 500)])
    moves = rng.normal(0, [20, 20, 0.01, 3], (steps, 4)).cumsum(axis=0)
    return np.maximum(start + moves, [-1e9, -1e9, 0.05, 1]).astype(np.float32)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), seen=st.lists(st.booleans(), min_size=1, max_size=25))
def test_same_states_as_the_dense_filter(seed: int, seen: list[bool]) -> None:
    measurements = walk(np.random.default_rng(seed), len(seen) + 1)
    ours, theirs = KalmanFilter(), reference.KalmanFilter()
    state, expected = ours.initiate(measurements[0]), theirs.initiate(measurements[0])
    for measurement, matched in zip(measurements[1:], seen, strict=True):
        state, expected = ours.predict(*state), theirs.predict(*expected)
        for only_position in (False, True):
            np.testing.assert_allclose(
                ours.gating_distance(*state, measurements, only_position),
                theirs.gating_distance(*expected, measurements, only_position),
                rtol=1e-6,
            )
        for part, want in zip(ours.project(*state), theirs.project(*expected), strict=True):
            np.testing.assert_allclose(part, want, rtol=1e-6, atol=1e-9)
        if matched:
            state, expected = ours.update(*state, measurement), theirs.update(*expected, measurement)
        np.testing.assert_allclose(state[0], expected[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(state[1], expected[1], rtol=1e-6, atol=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_covariances_stay_symmetric_and_positive(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kf = KalmanFilter()
    measurements = walk(rng, 60)
    mean, covariance = kf.initiate(measurements[0])
    for measurement in measurements[1:]:
        mean, covariance = kf.predict(mean, covariance)
        if rng.random() < 0.7:
            mean, covariance = kf.update(mean, covariance, measurement)
        np.testing.assert_array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0


def test_blocks_and_dense_matrices_are_the_same_thing() -> None:
    parts = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_array_equal(blocks(dense(parts)), parts)
    full = dense(parts)
    assert full[0, 4] == full[4, 0] == parts[0, 1]
    assert np.count_nonzero(full) == 16


@pytest.mark.parametrize("entry", [(0, 1), (0, 5), (4, 6), (1, 0)])
def test_a_covariance_that_couples_coordinates_is_refused(entry: tuple[int, int]) -> None:
    full = np.eye(8)
    full[entry] = 0.5
    with pytest.raises(ValueError, match="couples"):
        KalmanFilter().predict(np.zeros(8), full)


def test_a_covariance_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        blocks(np.eye(4))


def state_after(*steps: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A moving track's state after some predict steps."""
    kf = KalmanFilter()
    measurements = walk(np.random.default_rng(seed), 5)
    mean, covariance = kf.initiate(measurements[0])
    for measurement in measurements[1:]:
        mean, covariance = kf.update(*kf.predict(mean, covariance), measurement)
    for dt in steps:
        kf.dt = dt
        mean, covariance = kf.predict(mean, covariance)
    return mean, covariance


@pytest.mark.parametrize(
    ("once", "in_steps"), [((3.0,), (1.0, 1.0, 1.0)), ((2.25,), (1.0, 1.0, 0.25)), ((7.5,), (4.0, 3.0, 0.5))]
)
def test_a_long_step_is_its_frames_one_by_one(once: tuple[float, ...], in_steps: tuple[float, ...]) -> None:
    for state, expected in zip(state_after(*once), state_after(*in_steps), strict=True):
        np.testing.assert_array_equal(state, expected)


def test_half_a_step_moves_half_the_way() -> None:
    mean, covariance = state_after()
    half, uncertain = state_after(0.5)
    np.testing.assert_allclose(half[:4], mean[:4] + mean[4:] / 2, rtol=1e-12)
    np.testing.assert_array_equal(half[4:], mean[4:])
    whole = state_after(1.0)[1]
    assert (np.diag(covariance) < np.diag(uncertain)).all()
    assert (np.diag(uncertain) < np.diag(whole)).all()
    twice, uncertain_twice = state_after(0.5, 0.5)
    np.testing.assert_allclose(twice, state_after(1.0)[0], rtol=1e-12)
    np.testing.assert_allclose(np.diag(uncertain_twice), np.diag(whole), rtol=0.05)


@pytest.mark.parametrize("dt", [1e6, 1e300])
def test_a_step_without_end_ends(dt: float) -> None:
    mean, covariance = state_after(dt)
    assert np.isfinite(mean).all()
    assert np.isfinite(covariance).all()


@given(st.tuples(*[st.floats(-1e6, 1e6)] * 2, st.floats(-10, 10), st.floats(-1e4, 1e4), *[st.floats(-1e3, 1e3)] * 4))
def test_no_box_has_a_negative_side(state: tuple[float, ...]) -> None:
    track = np.zeros(1, dtype=TRACK)[0]
    track["mean"] = state
    left, top, width, height = kalman.box(track)
    assert width >= 0
    assert height >= 0
    x, y, aspect, tall = state[:4]
    np.testing.assert_allclose([left + width / 2, top + height / 2], [x, y], rtol=1e-9, atol=1e-6)
    if aspect >= 0 and tall >= 0:
        np.testing.assert_allclose([width, height], [aspect * tall, tall], rtol=1e-12)
