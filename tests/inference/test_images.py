"""Pictures into image tensors: every way of resizing, colouring, normalising and laying out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_tracker.errors import InputError, ModelError
from edge_tracker.inference.images import ImageBatch, check_image
from edge_tracker.inference.manifest import ImageInput


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def put(image: np.ndarray, bgr: bool = True, **fields) -> tuple[np.ndarray, object]:
    batch = ImageBatch(ImageInput("x", **{"height": 20, "width": 30, **fields}), 2, bgr)
    fit = batch.put(1, image)
    assert not batch.tensor(2)[0].any()
    return batch.tensor(2)[1], fit


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("color", ["BGR", "RGB"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_layout_colour_and_type(layout, color, dtype, bgr):
    image = picture(20, 30)
    tensor, _ = put(image, bgr, layout=layout, color=color, dtype=dtype)
    expected = image if (color == "BGR") == bgr else image[..., ::-1]
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor, expected if layout == "NHWC" else expected.transpose(2, 0, 1))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_normalisation(layout):
    mean, std = (100.0, 50.0, 20.0), (2.0, 3.0, 4.0)
    image = picture(20, 30)
    tensor, _ = put(image, layout=layout, color="RGB", dtype="float32", mean=mean, std=std)
    expected = (image[..., ::-1] - np.array(mean)) / std
    np.testing.assert_allclose(tensor if layout == "NHWC" else tensor.transpose(1, 2, 0), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "flag"), [("linear", cv2.INTER_LINEAR), ("cubic", cv2.INTER_CUBIC)])
def test_stretch_is_opencvs_resize(name, flag):
    image = picture(47, 13)
    tensor, fit = put(image, interpolation=name)
    np.testing.assert_array_equal(tensor, cv2.resize(image, (30, 20), interpolation=flag))
    np.testing.assert_allclose(fit.to_image(np.array([[0, 0, 30, 20]])), [[0, 0, 13, 47]], rtol=1e-6)


@pytest.mark.parametrize(("mode", "border"), [("letterbox", 114), ("pad", 0), ("letterbox-corner", 114)])
def test_borders(mode, border):
    image = picture(40, 20)  # scaled by a half: 20 high, 10 wide
    tensor, fit = put(image, resize=mode)
    left = 0 if mode == "letterbox-corner" else 10
    np.testing.assert_array_equal(tensor[:, left : left + 10], cv2.resize(image, (10, 20)))
    assert (np.delete(tensor, np.s_[left : left + 10], axis=1) == border).all()
    np.testing.assert_allclose(fit.to_image(np.array([[left, 0, left + 10, 20]])), [[0, 0, 20, 40]], atol=1e-6)


def test_borders_are_drawn_anew_when_an_image_of_another_shape_comes():
    batch = ImageBatch(ImageInput("x", 20, 30, resize="letterbox"), 1)
    for image in (picture(40, 20), picture(20, 60), picture(40, 20)):
        batch.put(0, image)
        fresh = ImageBatch(ImageInput("x", 20, 30, resize="letterbox"), 1)
        fresh.put(0, image)
        np.testing.assert_array_equal(batch.tensor(1), fresh.tensor(1))


def test_center_crop_keeps_the_middle():
    image = picture(90, 30)
    tensor, fit = put(image, resize="center-crop")  # a window of 30 x 20 from row 35 on
    np.testing.assert_array_equal(tensor, image[35:55])
    np.testing.assert_allclose(fit.to_image(np.array([[0, 0, 30, 20]])), [[0, 35, 30, 55]], atol=1e-5)


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "letterbox-corner", "pad", "center-crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_no_shape_is_too_odd(mode, shape):
    tensor, fit = put(np.full((*shape, 3), 200, np.uint8), resize=mode)
    assert (tensor == 200).any()
    assert np.isfinite(fit.to_image(np.array([[0, 0, 1, 1]]))).all()


def test_images_are_written_in_place():
    batch = ImageBatch(ImageInput("x", 20, 30), 4)
    before = batch.tensor(4)
    batch.put(3, picture(40, 20))
    assert np.shares_memory(before, batch.tensor(2))


@pytest.mark.parametrize(
    "fields",
    [{"layout": "NHCW"}, {"color": "GBR"}, {"resize": "squeeze"}, {"interpolation": "area"}, {"dtype": "int8"}],
)
def test_what_a_manifest_may_not_ask_for(fields):
    with pytest.raises(ModelError, match=r"input x: .* not supported"):
        put(picture(2, 2), **fields)


def test_check_image():
    frame = picture(4, 6)
    assert check_image(frame, "frame") is frame
    assert check_image(frame[1:3, 2:5], "frame").base is frame
    turned = check_image(frame[..., ::-1], "frame")
    np.testing.assert_array_equal(turned, frame[..., ::-1])
    assert turned.flags.c_contiguous
    for bad in (None, "x", frame[..., 0], frame.astype(np.float32), np.zeros((4, 6, 4), np.uint8)):
        with pytest.raises(InputError, match="frame must be an array"):
            check_image(bad, "frame")
