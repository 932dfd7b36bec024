"""Exactness: the same tracks as deep-sort-realtime on every frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracking.oracle import Parity
from tests.tracking.scenes import crowd, raw

SEQUENCES = (
    "ADL-Rundle-6",
    "ETH-Bahnhof",
    "ETH-Pedcross2",
    "ETH-Sunnyday",
    "KITTI-17",
    "PETS09-S2L1",
    "TUD-Stadtmitte",
)


def detections(folder: Path) -> list[np.ndarray]:
    """The rows of a MOT `det.txt`, frame by frame from the first."""
    rows = np.loadtxt(folder / "det" / "det.txt", delimiter=",", usecols=range(7))
    return [rows[rows[:, 0] == frame] for frame in range(1, int(rows[:, 0].max()) + 1)]


def wandering_features(frames: list[np.ndarray], dimension: int = 16) -> list[np.ndarray]:
    """Random but fixed features that change smoothly over the frame, so that neighbours have a similar appearance."""
    rng = np.random.default_rng(7)
    waves, phase = rng.normal(0, 1 / 150, (4, dimension)), rng.uniform(0, 2 * np.pi, dimension)
    return [
        (np.cos(rows[:, 2:6] @ waves + phase) * 3 + rng.normal(0, 1, (len(rows), dimension))).astype(np.float32)
        for rows in frames
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sequence", "budget"), [*((s, None) for s in SEQUENCES), ("TUD-Stadtmitte", 5), ("KITTI-17", 3)]
)
def test_same_tracks_on_real_detections(shared_data: Path, sequence: str, budget: int | None) -> None:
    frames = detections(shared_data / "mot15" / sequence)
    parity = Parity(nn_budget=budget, max_cosine_distance=0.3)
    for rows, features in zip(frames, wandering_features(frames), strict=True):
        parity.update([(row[2:6].tolist(), float(row[6]), "person") for row in rows], features)
    assert len(parity.ours_of) > 10


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"nn_budget": 3, "max_age": 5},
        {"gating_only_position": True, "max_iou_distance": 0.9},
        {"max_cosine_distance": 0.05, "n_init": 1},
        {"max_iou_distance": 0.99, "max_cosine_distance": 0.5},
    ],
)
def test_same_tracks_in_crowds_with_occlusions(arguments: dict) -> None:
    parity = Parity(**arguments)
    for ltwh, features, _ in crowd(25, 80, 16, seed=3, width=640, height=480, noise=0.5, occlusions=True, unit=False):
        parity.update(raw(ltwh), features)
    assert len(parity.ours_of) > 25


@pytest.mark.parametrize("max_overlap", [0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
def test_same_tracks_with_suppression_of_detections_in_crowds(max_overlap: float) -> None:
    parity, rng = Parity(nms_max_overlap=max_overlap), np.random.default_rng(0)
    for ltwh, features, _ in crowd(25, 80, 16, seed=4, width=320, height=240, noise=0.5, unit=False):
        scores = rng.permutation(len(ltwh)) / 100  # the reference's order of equal scores is arbitrary
        parity.update([(box, float(s), "a") for box, s in zip(ltwh.tolist(), scores, strict=True)], features)
    assert len(parity.ours_of) > 25


@pytest.mark.slow
@pytest.mark.parametrize("max_overlap", [0.5, 0.7])
@pytest.mark.parametrize("sequence", ["ETH-Bahnhof", "ADL-Rundle-6"])
def test_same_tracks_with_suppression_on_real_detections(shared_data: Path, sequence: str, max_overlap: float) -> None:
    """The boxes twice, the second time moved a little: much to suppress, and much of it close to the limit."""
    frames = detections(shared_data / "mot15" / sequence)[:400]
    parity, rng = Parity(nms_max_overlap=max_overlap, max_cosine_distance=0.3), np.random.default_rng(0)
    for rows, features in zip(frames, wandering_features(frames), strict=True):
        moved = rows.copy()
        moved[:, 2:6] += rng.normal(0, 0.12, (len(rows), 4)) * rows[:, [4, 5, 4, 5]]
        moved[:, 4:6] = np.maximum(moved[:, 4:6], 2.0)
        both, scores = np.concatenate([rows, moved]), rng.permutation(2 * len(rows)) / 100
        found = [(r[2:6].tolist(), float(s), "person") for r, s in zip(both, scores, strict=True)]
        other = (features + rng.normal(0, 1, features.shape)).astype(np.float32)
        parity.update(found, np.concatenate([features, other]))
    assert len(parity.ours_of) > 10


def test_same_tracks_when_the_scene_is_empty_for_a_while() -> None:
    parity = Parity(max_age=4)
    for frame, (ltwh, features, _) in enumerate(crowd(8, 60, 16, seed=5)):
        gone = frame % 20 in (7, 8, 9, 15, 16, 17, 18, 19)
        parity.update([] if gone else raw(ltwh), features[: 0 if gone else None])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    objects=st.integers(1, 12),
    frames=st.integers(2, 14),
    seen=st.floats(0.3, 1.0),
    noise=st.floats(0.0, 1.5),
    jitter=st.floats(0.0, 0.15),
    max_age=st.integers(1, 6),
    n_init=st.integers(1, 4),
    budget=st.one_of(st.none(), st.integers(1, 4)),
    max_iou_distance=st.floats(0.2, 0.99),
    max_cosine_distance=st.floats(0.01, 0.8),
    only_position=st.booleans(),
)
def test_same_tracks_on_random_sequences(
    seed, objects, frames, seen, noise, jitter, max_age, n_init, budget, max_iou_distance, max_cosine_distance,
    only_position,
) -> None:  # fmt: skip
    parity = Parity(
        max_age=max_age,
        n_init=n_init,
        nn_budget=budget,
        max_iou_distance=max_iou_distance,
        max_cosine_distance=max_cosine_distance,
        gating_only_position=only_position,
    )
    scene = crowd(
        objects, frames, 8, seed=seed, width=300, height=200, seen=seen, noise=noise, jitter=jitter, unit=False
    )
    for ltwh, features, _ in scene:
        parity.update(raw(ltwh), features)
