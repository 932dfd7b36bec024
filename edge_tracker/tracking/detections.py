"""The detections of one frame, checked and converted to what the method works on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.assignment import NONE, suppress
from edge_tracker.tracking.gallery import feature_norm
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import NO_CLASS

# What `prepare` found wrong with a detection.
OK, BAD_BOX, BAD_CONFIDENCE, BAD_FEATURE = 0, 1, 2, 3
_COMPLAINTS = {
    BAD_BOX: "box (ltwh) is not finite",
    BAD_CONFIDENCE: "confidence is not finite",
    BAD_FEATURE: "feature has a NaN or infinite value",
}

# What stands for "not given" in `prepare`.
NO_FLOATS = np.empty(0)
NO_CLASSES = np.empty(0, dtype=np.int64)


class Frame(NamedTuple):
    """The detections of one frame that the method works on, K of the caller's M.

    Attributes:
        origin: (K,) int64, place in the caller's order.
        ltwh: (K, 4) float32.
        xyah: (K, 4) float64, rounded through float32 as in deep-sort-realtime.
        confidence: (K,) float64, NaN for unknown.
        class_id: (K,) int64.
        norm: (K,) float64, length of the feature, 0 for no appearance.
    """

    origin: np.ndarray
    ltwh: np.ndarray
    xyah: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    norm: np.ndarray


@jit
def prepare(ltwh, confidence, class_ids, features, settings):  # type: ignore[no-untyped-def]
    """Check the detections of a frame, leave out boxes without area, suppress non-maxima, convert.

    Args:
        ltwh: (M, 4) float64.
        confidence: (M,) float64, or (0,) where unknown.
        class_ids: (M,) int64, or (0,) where unknown.
        features: (M, D) float32, or (0, D) where there are none.

    Returns:
        A tuple of OK or the complaint, the detection it is about, and the `Frame`.
    """
    m = ltwh.shape[0]
    index = np.empty(m, dtype=np.int64)
    boxes = np.empty((m, 4), dtype=np.float32)
    xyah = np.empty((m, 4))
    scores = np.full(m, np.nan)
    classes = np.full(m, NO_CLASS)
    norms = np.zeros(m)
    complaint, blamed, k = OK, NONE, 0
    for j in range(m):
        wrong = OK
        for c in range(4):
            boxes[k, c] = ltwh[j, c]
        if (boxes[k, 2] <= 0.0 or boxes[k, 3] <= 0.0) and np.isfinite(ltwh[j].sum()):
            continue
        two = np.float32(2.0)
        xyah[k, 0] = boxes[k, 0] + boxes[k, 2] / two
        xyah[k, 1] = boxes[k, 1] + boxes[k, 3] / two
        xyah[k, 2] = boxes[k, 2] / boxes[k, 3]
        xyah[k, 3] = boxes[k, 3]
        for c in range(4):
            if not (np.isfinite(boxes[k, c]) and np.isfinite(xyah[k, c])):
                wrong = BAD_BOX
        if confidence.shape[0] > 0:
            scores[k] = confidence[j]
            if not np.isfinite(scores[k]):
                wrong = BAD_CONFIDENCE
        if class_ids.shape[0] > 0:
            classes[k] = class_ids[j]
        if features.shape[0] > 0:
            norms[k] = feature_norm(features, j)
            if not np.isfinite(norms[k]):
                wrong = BAD_FEATURE
        if wrong != OK:
            if settings.drop_invalid:
                continue
            if complaint == OK:
                complaint, blamed = wrong, j
        index[k] = j
        k += 1
    if settings.nms_max_overlap < 1.0 and k > 1:
        keep = suppress(boxes[:k], scores[:k], settings.nms_max_overlap)
        at = 0
        for j in range(k):
            if keep[j]:
                index[at], boxes[at], xyah[at] = index[j], boxes[j], xyah[j]
                scores[at], classes[at], norms[at] = scores[j], classes[j], norms[j]
                at += 1
        k = at
    return complaint, blamed, Frame(index[:k], boxes[:k], xyah[:k], scores[:k], classes[:k], norms[:k])


def complain(complaint: int, blamed: int) -> None:
    """Turn what `prepare` found into an InputError."""
    raise InputError(f"detection {blamed}: {_COMPLAINTS[complaint]} (drop_invalid=True leaves such detections out)")
