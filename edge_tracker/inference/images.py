"""Images into a model's image tensor: resized, normalised, with the channel order and layout that the model needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_tracker.errors import InputError, ModelError
from edge_tracker.inference.manifest import ImageInput
from edge_tracker.inference.model import TensorSpec

Image = npt.NDArray[np.uint8]

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)

_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
_BORDER = {"letterbox": 114, "letterbox-corner": 114, "pad": 0}
_RESIZE = ("stretch", "center-crop", *_BORDER)


@dataclass(frozen=True)
class Fit:
    """The position of an image in the tensor: tensor x = image x * scale_x + left; y likewise with scale_y and top."""

    scale_x: float
    scale_y: float
    left: float
    top: float

    def to_image(self, ltrb: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Boxes (M, 4) from tensor pixels to image pixels."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        return ((ltrb - offset) / scale).astype(np.float32)


class ImageBatch:
    """The image tensor of a model, allocated once and filled row by row.

    Args:
        spec: the model's image input.
        rows: images at a time.
        bgr: True if the images given are BGR (OpenCV's order), False for RGB.
    """

    def __init__(self, spec: ImageInput, rows: int, bgr: bool = True) -> None:
        if spec.layout not in ("NHWC", "NCHW") or spec.color not in ("RGB", "BGR"):
            raise ModelError(f"input {spec.name}: layout {spec.layout!r} with colours {spec.color!r} is not supported")
        if spec.resize not in _RESIZE or spec.interpolation not in _INTERPOLATION:
            raise ModelError(f"input {spec.name}: resize {spec.resize!r}, {spec.interpolation!r} is not supported")
        if spec.dtype not in ("uint8", "float32", "float16"):
            raise ModelError(f"input {spec.name}: element type {spec.dtype} is not supported")
        self.spec = spec
        size = (spec.height, spec.width)
        planar = spec.layout == "NCHW"
        self._dtype = np.dtype(spec.dtype)
        held = np.uint8 if spec.dtype == "uint8" else np.float32
        self._rows = np.zeros((rows, 3, *size) if planar else (rows, *size, 3), held)
        # Source channel of each tensor channel.
        self._order = (0, 1, 2) if (spec.color == "BGR") == bgr else (2, 1, 0)
        self._direct = not planar and held is np.uint8 and self._order == (0, 1, 2)
        self._canvas = np.zeros((*size, 3), np.uint8)
        self._planes = [np.zeros(size, np.uint8) for _ in range(3)]
        self._tables = None if held is np.uint8 else _tables(spec)
        # The part of each canvas that the last image covered. Outside it, the border is drawn already.
        self._covered: dict[int, tuple[int, int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, row: int, image: Image) -> Fit:
        """Write an image (h, w, 3), at least one pixel, into a row."""
        if self._direct:
            return self._resize(row, image, self._rows[row])
        fit = self._resize(-1, image, self._canvas)
        cv2.split(self._canvas, self._planes)
        planar = self.spec.layout == "NCHW"
        for channel, source in enumerate(self._order):
            target = self._rows[row, channel] if planar else self._rows[row, :, :, channel]
            plane = self._planes[source]
            if self._tables is None:
                target[...] = plane
            elif planar:
                cv2.LUT(plane, self._tables[channel], dst=target)
            else:
                target[...] = self._tables[channel][plane]
        return fit

    def tensor(self, count: int) -> npt.NDArray[Any]:
        """The first `count` rows, of the model's element type. Valid until the next `put`."""
        return self._rows[:count].astype(self._dtype, copy=False)

    def _resize(self, key: int, image: Image, canvas: Image) -> Fit:
        """Resize an image to the size of a canvas; `key` identifies the canvas."""
        mode, height, width = self.spec.resize, self.spec.height, self.spec.width
        h, w = image.shape[:2]
        interpolation = _INTERPOLATION[self.spec.interpolation]
        if mode == "stretch":
            cv2.resize(image, (width, height), dst=canvas, interpolation=interpolation)
            return Fit(width / w, height / h, 0, 0)
        if mode == "center-crop":
            # The window that would remain if the image were resized before cropping, to the nearest pixel.
            scale = max(height / h, width / w)
            cut_h, cut_w = max(1, min(h, round(height / scale))), max(1, min(w, round(width / scale)))
            top, left = (h - cut_h) // 2, (w - cut_w) // 2
            window = image[top : top + cut_h, left : left + cut_w]
            cv2.resize(window, (width, height), dst=canvas, interpolation=interpolation)
            x, y = width / cut_w, height / cut_h
            return Fit(x, y, -left * x, -top * y)
        scale = min(height / h, width / w)
        new_h, new_w = max(1, min(height, round(h * scale))), max(1, min(width, round(w * scale)))
        top, left = ((height - new_h) // 2, (width - new_w) // 2) if mode != "letterbox-corner" else (0, 0)
        covered = (top, left, new_h, new_w)
        if self._covered.get(key) != covered:
            canvas.fill(_BORDER[mode])
            self._covered[key] = covered
        inside = canvas[top : top + new_h, left : left + new_w]
        cv2.resize(image, (new_w, new_h), dst=inside, interpolation=interpolation)
        return Fit(new_w / w, new_h / h, left, top)


def check_image(image: object, what: str) -> Image:
    """An image as (H, W, 3) uint8 whose pixels are adjacent in memory; copied if necessary.

    Raises:
        InputError: not an image of that shape and type.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"{what} must be an array (height, width, 3) of uint8, not {given}")
    # OpenCV would copy a view like frame[..., ::-1] for every crop.
    return image if image.strides[1:] == (3, 1) and image.strides[0] > 0 else np.ascontiguousarray(image)


def infer_input(tensor: TensorSpec, size: tuple[int, int] | None, **defaults: Any) -> ImageInput | None:
    """The image input that a tensor's shape and type suggest; None if it is not an image tensor.

    Args:
        tensor: the tensor, (N, 3, H, W) or (N, H, W, 3).
        size: height and width, used where the tensor's are dynamic.
        defaults: the other fields of `ImageInput`.
    """
    shape = tensor.shape
    if len(shape) != 4 or tensor.dtype.name not in ("uint8", "float32", "float16"):
        return None
    if shape[1] == 3:
        layout, height, width = "NCHW", shape[2], shape[3]
    elif shape[3] == 3:
        layout, height, width = "NHWC", shape[1], shape[2]
    else:
        return None
    height, width = height or (size or (0, 0))[0], width or (size or (0, 0))[1]
    if not height or not width:
        return None
    return ImageInput(tensor.name, height, width, layout, tensor.dtype.name, **defaults)


def _tables(spec: ImageInput) -> list[npt.NDArray[np.float32]]:
    """Per tensor channel, the normalised value of each of the 256 levels."""
    levels = np.arange(256, dtype=np.float64)
    mean, std = spec.mean or (0.0, 0.0, 0.0), spec.std or (1.0, 1.0, 1.0)
    return [((levels - m) / s).astype(np.float32) for m, s in zip(mean, std, strict=True)]
