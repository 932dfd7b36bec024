"""Assignment, overlap and suppression against their definitions and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from edge_tracker.tracking.assignment import NONE, iou, match_pairs, solve
from edge_tracker.tracking.detections import DETECTION, suppress

SEED = st.integers(0, 2**32 - 1)


def costs_of(rng: np.random.Generator, rows: int, columns: int, kind: str) -> np.ndarray:
    """Random costs: all different, or with many ties, or all the same, or over many magnitudes."""
    if kind == "different":
        return rng.random((rows, columns))
    if kind == "ties":
        return rng.integers(0, 4, (rows, columns)).astype(np.float64)
    if kind == "equal":
        return np.full((rows, columns), 0.5)
    return 10.0 ** rng.uniform(-6, 6, (rows, columns)) * rng.choice([-1, 1], (rows, columns))


KINDS = st.sampled_from(["different", "ties", "equal", "magnitudes"])


@settings(max_examples=150)
@given(SEED, st.integers(0, 12), st.integers(0, 12), KINDS)
def test_solve_is_as_cheap_as_scipy(seed: int, rows: int, more: int, kind: str) -> None:
    cost = costs_of(np.random.default_rng(seed), rows, rows + more, kind)
    columns = solve(cost)
    assert len(set(columns.tolist())) == rows
    expected = linear_sum_assignment(cost)
    np.testing.assert_allclose(cost[np.arange(rows), columns].sum(), cost[expected].sum(), rtol=1e-9, atol=1e-9)
    if kind == "different":
        np.testing.assert_array_equal(columns, expected[1])


@pytest.mark.parametrize("kind", ["different", "ties"])
def test_solve_of_a_large_problem(kind: str) -> None:
    cost = costs_of(np.random.default_rng(0), 150, 200, kind)
    columns = solve(cost)
    assert len(set(columns.tolist())) == 150
    np.testing.assert_allclose(cost[np.arange(150), columns].sum(), cost[linear_sum_assignment(cost)].sum())


def sparse(allowed: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The allowed pairs of a matrix as `match_pairs` takes them."""
    starts = np.concatenate([[0], allowed.sum(axis=1).cumsum()]).astype(np.int64)
    return starts, np.nonzero(allowed)[1].astype(np.int64), cost[allowed]


@settings(max_examples=200)
@given(SEED, st.integers(0, 14), st.integers(0, 14), st.floats(0, 1), KINDS)
def test_match_pairs_is_the_dense_assignment(seed: int, rows: int, columns: int, density: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    cost = costs_of(rng, rows, columns, kind)
    if kind == "magnitudes":
        cost = np.abs(cost) % 1.2
    allowed = rng.random((rows, columns)) < density
    forbidden = 0.7 + 1e-5 if kind != "ties" else 3.0  # some allowed pairs are too dear, too
    matched = match_pairs(*sparse(allowed, cost), columns, forbidden)

    priced = np.where(allowed & (cost < forbidden), cost, forbidden)
    best = linear_sum_assignment(priced)
    pairs = np.flatnonzero(matched != NONE)
    assert len(set(matched[pairs].tolist())) == len(pairs)
    assert allowed[pairs, matched[pairs]].all()
    assert (cost[pairs, matched[pairs]] < forbidden).all()
    total = cost[pairs, matched[pairs]].sum() + forbidden * (min(rows, columns) - len(pairs))
    np.testing.assert_allclose(total, priced[best].sum(), rtol=1e-9, atol=1e-12)
    if kind == "different":
        expected = np.full(rows, NONE)
        expected[best[0]] = best[1]
        expected[best[0][priced[best] >= forbidden]] = NONE
        np.testing.assert_array_equal(matched, expected)


def test_match_pairs_without_anything() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert match_pairs(np.zeros(1, dtype=np.int64), nothing, np.empty(0), 0, 0.7).shape == (0,)
    assert match_pairs(np.zeros(4, dtype=np.int64), nothing, np.empty(0), 2, 0.7).tolist() == [NONE] * 3


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 0, 10, 10), 1 / 3),
        ((2, 2, 5, 5), 0.25),
        ((10, 0, 10, 10), 0.0),  # they touch
        ((30, 30, 1, 1), 0.0),
        ((0, 0, 0, 10), 0.0),
    ],
)
def test_iou(box: tuple[float, ...], expected: float) -> None:
    others = np.array([(50, 50, 3, 3), box], dtype=np.float32)
    assert iou((0.0, 0.0, 10.0, 10.0), others[1]) == pytest.approx(expected)


def stay(boxes: np.ndarray, scores: np.ndarray, max_overlap: float, whole_pixels: bool) -> np.ndarray:
    """Which boxes (M,) bool stay after the suppression, in their order."""
    detections = np.zeros(len(boxes), dtype=DETECTION)
    detections["ltwh"], detections["confidence"], detections["origin"] = boxes, scores, np.arange(len(boxes))
    origin = detections["origin"][: suppress(detections, max_overlap, whole_pixels)]
    assert (np.diff(origin) > 0).all()
    return np.isin(np.arange(len(boxes)), origin)


def suppressed_by_definition(boxes: np.ndarray, scores: np.ndarray, max_overlap: float) -> np.ndarray:
    """From the highest score down: a box goes if a kept one covers too large a share of it."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (scores[i], i), reverse=True):
        left, top, width, height = boxes[i]
        for j in kept:
            w = min(left + width, boxes[j, 0] + boxes[j, 2]) - max(left, boxes[j, 0])
            h = min(top + height, boxes[j, 1] + boxes[j, 3]) - max(top, boxes[j, 1])
            if w > 0 and h > 0 and w * h > max_overlap * width * height:
                break
        else:
            kept.append(i)
    return np.isin(np.arange(len(boxes)), kept)


@settings(max_examples=100)
@given(
    SEED,
    st.integers(0, 25),
    st.floats(0, 1),
    st.sampled_from([1.0, 1e-3, 1e4]),
    st.booleans(),
)
def test_suppress_keeps_what_its_definition_keeps(
    seed: int, count: int, max_overlap: float, scale: float, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers, so that areas are exact at any of the scales' powers of two.
    boxes = np.concatenate([rng.integers(0, 40, (count, 2)), rng.integers(1, 30, (count, 2))], axis=1)
    scores = rng.integers(0, 3, count).astype(np.float64) if ties else rng.random(count)
    exact = 2.0 ** np.round(np.log2(scale))
    kept = stay(boxes * exact, scores, max_overlap, False)
    np.testing.assert_array_equal(kept, suppressed_by_definition(boxes, scores, max_overlap))


def test_of_equal_scores_the_later_box_stays() -> None:
    boxes = np.array([(0, 0, 10, 10)] * 3)
    for whole_pixels in (False, True):
        assert stay(boxes, np.full(3, 0.5), 0.5, whole_pixels).tolist() == [False, False, True]


@settings(max_examples=100)
@given(SEED, st.integers(0, 25), st.floats(0.05, 0.95))
def test_suppress_with_whole_pixels_keeps_what_the_reference_keeps(seed: int, count: int, max_overlap: float) -> None:
    """Its arithmetic is single precision, with a pixel more in each direction; equal scores are left out."""
    nms = pytest.importorskip("deep_sort_realtime.utils.nms")
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, 30, (count, 2)), rng.uniform(0.5, 25, (count, 2))], axis=1)
    scores = rng.permutation(count) / 100.0
    kept = nms.non_max_suppression(boxes.astype(np.float32), max_overlap, scores)
    np.testing.assert_array_equal(stay(boxes, scores, max_overlap, True), np.isin(np.arange(count), kept))
