"""Tracks drawn onto a frame: boxes, identities, recent paths."""

from __future__ import annotations

import colorsys
from collections import OrderedDict, deque
from collections.abc import Sequence

import cv2
import numpy as np

TRAIL_LENGTH = 30
TRAILS_KEPT = 500


def color_of(track_id: int) -> tuple[int, int, int]:
    """A bright BGR colour, always the same for the same identity; neighbouring numbers get very different ones."""
    hue = (track_id * 0.61803398875) % 1.0  # golden ratio: every new hue falls into the widest gap
    saturation = (0.95, 0.55, 0.75)[track_id // 5 % 3]  # hues come close again after 5, 8, 13, 21, ... numbers
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return int(blue * 255), int(green * 255), int(red * 255)


def _ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is legible on a BGR colour."""
    blue, green, red = color
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 110 else (255, 255, 255)


class Annotator:
    """Draws tracks, and remembers the recent path of each."""

    def __init__(self) -> None:
        self._trails: OrderedDict[int, deque[tuple[int, int]]] = OrderedDict()

    def draw(self, image: np.ndarray, ids: np.ndarray, ltrb: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """A copy of the frame with the tracks on it.

        Args:
            image: (H, W, 3) uint8, BGR.
            ids: (K,) track identities.
            ltrb: (K, 4) boxes in pixels; they may extend beyond the frame.
            labels: K texts to write beside the boxes.
        """
        canvas = image.copy()
        height, width = image.shape[:2]
        scale = max(height, width) / 1000
        thickness = max(1, round(2 * scale))
        font_scale, font_thickness = max(0.35, 0.55 * scale), max(1, round(scale))
        # Far outside the frame nothing is visible, and OpenCV's integers would overflow.
        boxes = np.clip(np.nan_to_num(ltrb), -width - height, 2 * (width + height)).round().astype(int).tolist()
        tracks = [(int(i), box, label) for i, box, label in zip(ids, boxes, labels, strict=True)]

        for track_id, (left, _, right, bottom), _ in tracks:
            trail = self._trails.setdefault(track_id, deque(maxlen=TRAIL_LENGTH))
            self._trails.move_to_end(track_id)
            trail.append(((left + right) // 2, bottom))
            if len(trail) > 1:
                cv2.polylines(
                    canvas, [np.array(trail, np.int32)], False, color_of(track_id), thickness, lineType=cv2.LINE_AA
                )
        while len(self._trails) > TRAILS_KEPT:
            self._trails.popitem(last=False)

        for track_id, (left, top, right, bottom), _ in tracks:
            cv2.rectangle(canvas, (left, top), (right, bottom), color_of(track_id), thickness)
        for track_id, (left, top, _, _), label in tracks:
            (text_width, text_height), baseline = cv2.getTextSize(
                label, cv2.FONT_HERSHEY_SIMPLEX, font_scale, font_thickness
            )
            x = min(max(left, 0), max(0, width - text_width - 4))
            y = max(top, text_height + baseline + 2)  # inside the frame, even for a box that extends beyond its top
            color = color_of(track_id)
            cv2.rectangle(canvas, (x, y - text_height - baseline - 2), (x + text_width + 4, y), color, cv2.FILLED)
            cv2.putText(
                canvas,
                label,
                (x + 2, y - baseline),
                cv2.FONT_HERSHEY_SIMPLEX,
                font_scale,
                _ink_on(color),
                font_thickness,
                cv2.LINE_AA,
            )
        return canvas
