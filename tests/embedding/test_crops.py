"""Crops: as the reference cuts them, and where it fails."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_tracker.embedding.crops import CropCutter, whole_boxes
from edge_tracker.errors import InputError

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def cut(boxes, frame=FRAME, **arguments) -> dict[int, np.ndarray]:
    return {index: crop.copy() for index, crop in CropCutter().cut(frame, whole_boxes(boxes), **arguments)}


def test_boxes_are_truncated_and_clipped_as_in_the_reference():
    crops = cut([[10.9, 5.9, 20.9, 30.9], [-5.5, -3, 20, 20], [50, 40, 100, 100], [-0.9, 0, 5.99, 3]])
    np.testing.assert_array_equal(crops[0], FRAME[5:35, 10:30])
    np.testing.assert_array_equal(crops[1], FRAME[0:17, 0:15])
    np.testing.assert_array_equal(crops[2], FRAME[40:48, 50:64])
    np.testing.assert_array_equal(crops[3], FRAME[0:3, 0:5])


@pytest.mark.parametrize(
    "box",
    [
        *([-50, 10, 20, 20], [10, -50, 20, 20], [64, 10, 5, 5], [10, 48, 5, 5], [-20, 10, 20, 5]),
        *([5, 5, 0.9, 20], [5, 5, 20, 0], [5, 5, -3, 20], [1e300, 0, 5, 5], [0, -1e300, 5, 5], [-1e30, 0, 5e29, 5]),
    ],
)
def test_a_box_without_a_pixel_has_no_crop(box):
    """For these boxes the reference's slice wraps round to a wrong region, or is empty and crashes the resize."""
    assert list(cut([[1, 1, 5, 5], box, [2, 2, 5, 5]])) == [0, 2]


def test_a_crop_is_a_view():
    ((_, crop),) = CropCutter().cut(FRAME, whole_boxes([[1, 1, 5, 5]]))
    assert np.shares_memory(crop, FRAME)


def test_masks_blank_the_background():
    mask = np.zeros(FRAME.shape[:2], bool)
    mask[10:20, 12:18] = True
    for kept in (mask, mask.astype(np.uint8) * 255, mask.astype(np.float32)):
        crops = cut([[10, 5, 20, 30], [0, 0, 4, 4]], masks=[kept, kept])
        assert (crops[0][5:15, 2:8] == FRAME[10:20, 12:18]).all()
        assert (crops[0][0, 0] == (123, 116, 103)).all()
        assert (crops[1] == (123, 116, 103)).all()


def test_masks_may_come_as_one_array_and_off_frame_boxes_have_masks_too():
    masks = np.ones((3, *FRAME.shape[:2]), bool)
    crops = cut([[0, 0, 9, 9], [-90, 0, 9, 9], [50, 40, 30, 30]], masks=masks)
    assert list(crops) == [0, 2]
    np.testing.assert_array_equal(crops[2], FRAME[40:, 50:])


corner = st.integers(-30, 90)
polygon = st.lists(st.tuples(corner, corner), min_size=1, max_size=6).map(lambda points: [v for p in points for v in p])


@given(polygons=st.lists(polygon, min_size=1, max_size=3))
def test_polygons_are_cut_as_in_the_reference(polygons):
    crops = cut(np.zeros((len(polygons), 4)), polygons=polygons)
    for index, flat in enumerate(polygons):
        points = np.array(flat).reshape(1, -1, 2)
        x, y, w, h = cv2.boundingRect(points)
        whole = np.zeros_like(FRAME)
        cv2.fillPoly(whole, points, (255, 255, 255))
        expected = (FRAME & whole)[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
        assert (index in crops) == bool(expected.size)
        if expected.size:
            np.testing.assert_array_equal(crops[index], expected)


def test_polygons_may_be_floats_or_pairs():
    crops = cut(np.zeros((2, 4)), polygons=[[1.9, 1.9, 20.2, 1, 20, 30.5], np.array([[1, 1], [20, 1], [20, 30]])])
    np.testing.assert_array_equal(crops[0], crops[1])


@pytest.mark.parametrize(
    ("boxes", "arguments", "message"),
    [
        ([[0, 0, 1]], {}, r"boxes must be \(M, 4\)"),
        ([[0, 0, 1, 1], [0, np.nan, 1, 1]], {}, "box 1 is not finite"),
        ([[0, 0, np.inf, 1]], {}, "box 0 is not finite"),
        ([[0, 0, 1, 1]], {"masks": []}, "0 masks for 1 detections"),
        ([[0, 0, 1, 1]], {"masks": [np.ones((9, 9), bool)]}, r"mask 0 .* \(48, 64\), not \(9, 9\)"),
        ([[0, 0, 1, 1]], {"masks": [None]}, "mask 0 .* NoneType"),
        ([[0, 0, 1, 1]], {"polygons": []}, "0 polygons for 1 detections"),
        ([[0, 0, 1, 1]], {"polygons": [[1, 2, 3]]}, "polygon 0 must be pairs"),
        ([[0, 0, 1, 1]], {"polygons": [[]]}, "polygon 0 must be pairs"),
        ([[0, 0, 1, 1]], {"polygons": [[1, np.inf]]}, "polygon 0 must be pairs"),
        ([[0, 0, 1, 1]], {"polygons": [[1, 2]], "masks": [np.ones((48, 64))]}, "not both"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_index(boxes, arguments, message):
    with pytest.raises(InputError, match=message):
        cut(boxes, **arguments)


def test_no_detections():
    assert cut([]) == cut(np.zeros((0, 4)), masks=[]) == cut(np.zeros((0, 4)), polygons=[]) == {}
