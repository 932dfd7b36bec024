"""Cutting detections out of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_tracker.errors import InputError
from edge_tracker.inference.images import IMAGENET_MEAN, Image

# Larger than any frame, and well within the range of OpenCV's fixed-point drawing.
_FAR = 1e6

WholeBoxes = npt.NDArray[np.int64]


# Masked pixels get ImageNet's mean colour, which normalises to about zero. The reference writes these numbers, in RGB
# order, into BGR frames as well; so do we, since another colour changes masked features by 0.01 in cosine distance.
BACKGROUND = np.array(IMAGENET_MEAN, np.uint8)


class CropCutter:
    """Cuts detections out of frames, and keeps the memory for masking between frames."""

    def __init__(self) -> None:
        self._pixels = np.empty((0, 0, 3), np.uint8)
        self._mask = np.empty((0, 0), np.uint8)

    def cut(
        self,
        frame: Image,
        boxes: WholeBoxes,
        masks: Sequence[npt.NDArray[Any]] | npt.NDArray[Any] | None = None,
        polygons: Sequence[Any] | None = None,
    ) -> Iterator[tuple[int, Image]]:
        """The crop of every detection that covers at least one pixel of the frame; see `regions`.

        Args:
            frame: (H, W, 3) uint8.
            boxes, masks, polygons: as in `regions`.

        Yields:
            Detection index and crop (h, w, 3), a view that is valid until the next one.
        """
        fill = self.fill(polygons is not None)
        for index, (l, t, r, b), kept in self.regions(frame.shape[:2], boxes, masks, polygons):  # noqa: E741
            crop = frame[t:b, l:r]
            if kept is None:
                yield index, crop
                continue
            pixels = self._room(b - t, r - l)[0]
            pixels[...] = fill
            cv2.copyTo(crop, kept, dst=pixels)
            yield index, pixels

    def fill(self, polygons: bool) -> Image:
        """The colour (3,) of pixels hidden by polygons (True) or masks (False), in the frame's channel order."""
        return np.zeros(3, np.uint8) if polygons else BACKGROUND

    def regions(
        self,
        size: tuple[int, ...],
        boxes: WholeBoxes,
        masks: Sequence[npt.NDArray[Any]] | npt.NDArray[Any] | None = None,
        polygons: Sequence[Any] | None = None,
    ) -> Iterator[tuple[int, tuple[int, int, int, int], Image | None]]:
        """The region of each detection that covers at least one pixel of the frame.

        As in the reference, boxes are truncated to whole pixels (see `whole_boxes`), then clipped to the frame. A box
        outside the frame, or narrower than a pixel, has no region and is left out. With polygons, the region is the
        polygon's bounding rectangle, with the pixels of the polygon kept, and only the number of `boxes` matters.

        Args:
            size: height and width of the frame.
            boxes: (M, 4) left, top, width, height in whole pixels.
            masks: per detection a mask (H, W); pixels where it is zero are not kept.
            polygons: per detection the corners x1, y1, x2, y2, ... in pixels, flat or as (K, 2).

        Yields:
            Detection index; left, top, right, bottom in whole pixels inside the frame; and the pixels of the region to
            keep, (h, w), zero for the others, a view that is valid until the next one, or None to keep all.

        Raises:
            InputError: wrong shapes or counts, or invalid polygons; before anything is yielded.
        """
        count = len(boxes)
        if masks is not None and polygons is not None:
            raise InputError("masks or polygons, not both: a polygon is a mask already")
        if masks is not None:
            _check_masks(masks, count, size)
        if polygons is not None:
            corners = _corners(polygons, count)
            # As in cv2.boundingRect, both ends belong to the rectangle.
            low, high = (np.array([f(c, axis=0) for c in corners]).reshape(-1, 2) for f in (np.min, np.max))
            rectangles = np.concatenate([low, high + 1], axis=1)
        else:
            rectangles = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        height, width = size
        rectangles[:, :2] = np.maximum(rectangles[:, :2], 0)
        rectangles[:, 2:] = np.minimum(rectangles[:, 2:], (width, height))

        for index, (l, t, r, b) in enumerate(rectangles.tolist()):  # noqa: E741
            if r <= l or b <= t:
                continue
            kept = None
            if polygons is not None:
                kept = self._room(b - t, r - l)[1]
                kept.fill(0)
                cv2.fillPoly(kept, [corners[index]], 255, offset=(-l, -t))
            elif masks is not None:
                kept = self._room(b - t, r - l)[1]
                np.not_equal(masks[index][t:b, l:r], 0, out=kept.view(np.bool_))
            yield index, (l, t, r, b), kept

    def _room(self, h: int, w: int) -> tuple[Image, Image]:
        """Arrays for the pixels (h, w, 3) and the mask (h, w) of a crop, reused for the next."""
        have_h, have_w = self._mask.shape
        if have_h < h or have_w < w:
            size = (max(have_h, h), max(have_w, w))
            self._pixels, self._mask = np.empty((*size, 3), np.uint8), np.empty(size, np.uint8)
        return self._pixels[:h, :w], self._mask[:h, :w]


def whole_boxes(ltwh: npt.ArrayLike) -> WholeBoxes:
    """Boxes (M, 4) ltwh with all four numbers truncated towards zero to whole pixels.

    Raises:
        InputError: not (M, 4), or a number that is not finite.
    """
    boxes = np.asarray(ltwh, np.float64)
    if boxes.size == 0:
        return np.zeros((0, 4), np.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes must be (M, 4): left, top, width, height; not {boxes.shape}")
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if bad.size:
        raise InputError(f"box {bad[0]} is not finite: {boxes[bad[0]].tolist()}")
    return np.clip(boxes, -_FAR, _FAR).astype(np.int64)


def _check_masks(masks: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], count: int, size: tuple[int, ...]) -> None:
    if len(masks) != count:
        raise InputError(f"{len(masks)} masks for {count} detections")
    for index, mask in enumerate(masks):
        if not isinstance(mask, np.ndarray) or mask.shape != size:
            given = mask.shape if isinstance(mask, np.ndarray) else type(mask).__name__
            raise InputError(f"mask {index} must be an array of the frame's size {size}, not {given}")


def _corners(polygons: Sequence[Any], count: int) -> list[npt.NDArray[np.int32]]:
    """The corners of each polygon, (K, 2) in whole pixels."""
    if len(polygons) != count:
        raise InputError(f"{len(polygons)} polygons for {count} detections")
    corners = []
    for index, polygon in enumerate(polygons):
        points = np.asarray(polygon, np.float64).reshape(-1)
        if not points.size or points.size % 2 or not np.isfinite(points).all():
            raise InputError(f"polygon {index} must be pairs of finite numbers x1, y1, x2, y2, ...")
        corners.append(np.clip(points, -_FAR, _FAR).astype(np.int32).reshape(-1, 2))
    return corners
