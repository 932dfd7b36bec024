"""The gate: what passes, what fails, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

from edge_tracker.detection import Detections
from export import parity
from export.parity import ParityError, enforce
from export.samples import FrameBoxes

GOOD = {"min_cosine": 0.99999, "same_neighbour": 1.0, "same_ids": 0.99, "same_detections": 0.98}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-cpu"])
def test_figures_at_the_limit_pass(precision):
    enforce({**GOOD, "max_error": 3.0, "max_box_error": 0.01, "max_score_error": 1e-4}, precision, "net")


@pytest.mark.parametrize(
    ("precision", "key", "value", "limit"),
    [
        ("fp32", "min_cosine", 0.99998, "0.99999"),
        ("fp32", "same_neighbour", 0.99, "1"),
        ("fp32", "max_box_error", 0.02, "0.01"),
        ("fp32", "max_score_error", 2e-4, "0.0001"),
        ("fp16", "min_cosine", 0.998, "0.999"),
        ("fp16", "same_neighbour", 0.97, "0.98"),
        ("fp16", "same_ids", 0.98, "0.99"),
        ("fp16", "same_detections", 0.97, "0.98"),
        ("int8", "min_cosine", 0.98, "0.99"),
        ("int8", "same_ids", 0.98, "0.99"),
        ("fp32", "min_cosine", float("nan"), "0.99999"),
    ],
)
def test_a_failure_names_the_figure_and_what_it_must_be(precision, key, value, limit):
    with pytest.raises(ParityError) as raised:
        enforce({**GOOD, key: value}, precision, "net")
    message = str(raised.value)
    assert message.startswith(f"net {precision} does not match its source: {parity.WORDS[key]} is {value:.6g}, at ")
    assert f" {limit} is needed" in message
    assert message.endswith("Nothing was written")


def test_features_are_compared_by_cosine_and_neighbour():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(20, 8)).astype(np.float32)
    same = parity.compare_features(source, 2 * source, 16)
    assert same["min_cosine"] == pytest.approx(1)
    assert same["same_neighbour"] == 1
    assert same["max_error"] == pytest.approx(np.abs(source).max())
    # Crop 1 turns into crop 0: both then find each other, and whoever had 1 as its neighbour another.
    changed = source.copy()
    changed[1] = source[0]
    figures = parity.compare_features(source, changed, 16)
    assert figures["min_cosine"] < 0.9
    assert figures["same_neighbour"] < 1


def test_rows_of_noise_have_no_neighbours():
    source = np.eye(4, dtype=np.float32)
    source[1, 0] = source[2, 0] = 0.5
    changed = source.copy()
    changed[3] = source[0]
    assert parity.compare_features(source, changed, 3)["same_neighbour"] == 1
    assert parity.compare_features(source, changed, 4)["same_neighbour"] < 1


def test_neighbours_that_are_equally_near_may_change_places():
    source = np.array([[1, 0], [0.9, 0.1], [0.9, -0.1001]], np.float32)
    given = source.copy()
    given[1:] = source[1:] * [[1, 1.01], [1, 0.99]]
    assert parity.compare_features(source, given, 3)["same_neighbour"] == pytest.approx(2 / 3)
    assert parity.compare_features(source, given, 3, tie=1e-3)["same_neighbour"] == 1
    # One that is clearly farther is wrong all the same.
    far = source[[0, 2, 2]]
    assert parity.compare_features(source, far, 3, tie=1e-3)["same_neighbour"] == pytest.approx(1 / 3)


def test_features_of_another_length_fail():
    with pytest.raises(ParityError, match=r"\(4, 8\)"):
        parity.compare_features(np.ones((4, 6), np.float32), np.ones((4, 8), np.float32), 4)


def test_no_features_at_all_have_cosine_zero():
    source = np.ones((3, 4), np.float32)
    assert parity.compare_features(source, 0 * source, 3)["min_cosine"] == 0


def test_track_ids_are_the_same_up_to_renaming():
    one = {(frame, d): d for frame in range(10) for d in range(3)}
    renamed = {place: 7 - i for place, i in one.items()}
    assert parity.same_ids(one, renamed) == 1
    swapped = {**renamed, (9, 0): renamed[9, 1], (9, 1): renamed[9, 0]}
    assert parity.same_ids(one, swapped) == pytest.approx(28 / 30)
    merged = dict.fromkeys(one, 1)
    assert parity.same_ids(one, merged) == pytest.approx(10 / 30)
    assert parity.same_ids(one, {}) == 0


def test_people_are_followed_by_their_features():
    """Two people swap places within one frame: features alone can tell them apart."""
    rng = np.random.default_rng(0)
    looks = rng.normal(size=(2, 16)).astype(np.float32)
    frames, features = [], []
    for frame in range(12):
        left = np.array([[100 + frame, 50, 40, 100], [130 - frame, 50, 40, 100]], np.float32)
        frames.append(FrameBoxes(left, np.ones(2, np.float32), np.zeros(2, np.int64)))
        features.append(looks)
    ids = parity.track(frames, np.concatenate(features))
    assert {ids[11, 0], ids[11, 1]} == {ids[3, 0], ids[3, 1]}
    assert ids[11, 0] == ids[3, 0]
    assert (0, 0) not in ids  # not confirmed yet


def detections(*boxes: tuple[float, ...], classes: tuple[int, ...] | None = None) -> Detections:
    ltwh = np.array(boxes, np.float32).reshape(-1, 4)
    kinds = np.array(classes or [0] * len(ltwh), np.int64)
    return Detections(ltwh, np.ones(len(ltwh), np.float32), kinds, ("person", "car"))


def test_detections_are_matched_by_class_and_overlap():
    one = [detections((0, 0, 100, 100), (200, 0, 50, 50)), detections()]
    assert parity.same_detections(one, one) == 1
    assert parity.same_detections(one, [detections((0, 1, 100, 100), (200, 20, 50, 50)), detections()]) == 0.5
    other = [detections((0, 0, 100, 100), (200, 0, 50, 50), classes=(1, 0)), detections((5, 5, 5, 5))]
    assert parity.same_detections(one, other) == pytest.approx(1 / 3)


def test_raw_boxes_are_compared_by_pixels_and_scores():
    source = np.zeros((2, 5, 85), np.float32)
    given = source.copy()
    given[0, 1, 2], given[1, 3, 10] = 0.5, 0.25
    assert parity.compare_boxes(list(source), list(given)) == {"max_box_error": 0.5, "max_score_error": 0.25}
