"""The detections of one frame, checked and converted once to what a method works on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.arrays import Floats, Ints, Record, Table, ascending
from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.gallery import feature_norm
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import NO_CLASS

# A detection.
#   measured: what the filter measures of it: xyah, rounded through float32 as in deep-sort-realtime, until a method
#   that measures something else replaces it.
#   confidence: NaN for unknown. norm: length of its feature, 0 for no appearance.
#   origin: its place in the caller's order.
#   by_x: not of this detection: the place of the one that is so many-th from the left.
DETECTION = np.dtype(
    [
        ("measured", "f8", 4),
        ("confidence", "f8"),
        ("norm", "f8"),
        ("origin", "i8"),
        ("class_id", "i8"),
        ("by_x", "i8"),
        ("ltwh", "f4", 4),
    ],
    align=True,
)

# What `prepare` found wrong with a detection.
OK, BAD_BOX, BAD_CONFIDENCE, BAD_FEATURE = 0, 1, 2, 3
_COMPLAINTS = {
    BAD_BOX: "box (ltwh) is not finite",
    BAD_CONFIDENCE: "confidence is not finite",
    BAD_FEATURE: "feature has a NaN or infinite value",
}

# What stands for "not given" in `Given`.
NO_FLOATS = np.empty(0)
NO_CLASSES = np.empty(0, dtype=np.int64)


class Given(NamedTuple):
    """The M detections of a frame as a caller gives them.

    Attributes:
        ltwh: (M, 4) float64, pixels.
        confidence: (M,) float64, or NO_FLOATS where unknown.
        class_ids: (M,) int64, or NO_CLASSES where unknown.
        features: (M, D) float32, or (0, D) where there are none.
    """

    ltwh: Floats
    confidence: Floats
    class_ids: Ints
    features: Floats


class Scene(NamedTuple):
    """The K detections of a frame that the method works on.

    Attributes:
        detections: (K,) DETECTION.
        features: (M, D) float32 in the caller's order, or (0, D) where there are none.
    """

    detections: Table
    features: Floats


class Checks(NamedTuple):
    """Which detections are left out.

    Attributes:
        max_overlap: share of a detection's area that one of higher confidence may cover; 1 for no suppression.
        whole_pixels: take the last pixel of a box as part of it when areas are compared, as deep-sort-realtime does.
        drop_invalid: leave out detections with NaN or infinite values, instead of refusing the frame.
    """

    max_overlap: float
    whole_pixels: bool
    drop_invalid: bool


@jit
def _covers(box: Floats, other: Floats, share: float, whole_pixels: bool) -> bool:
    """True if a box (4,) float32 ltwh covers more than a share of another one's area.

    With `whole_pixels` in deep-sort-realtime's arithmetic: single precision, and a pixel more in each direction.
    """
    right, bottom = box[0] + box[2], box[1] + box[3]
    other_right, other_bottom = other[0] + other[2], other[1] + other[3]
    width, height = min(right, other_right) - max(box[0], other[0]), min(bottom, other_bottom) - max(box[1], other[1])
    if not whole_pixels:
        return width > 0.0 and height > 0.0 and width * height > share * other[2] * other[3]
    one = np.float32(1.0)
    if not (width + one > 0.0 and height + one > 0.0):
        return False
    area = (other_right - other[0] + one) * (other_bottom - other[1] + one)
    return (width + one) * (height + one) / area > np.float32(share)


@jit
def suppress(detections: Table, max_overlap: float, whole_pixels: bool) -> int:
    """Non-maximum suppression as deep-sort-realtime does it; changes the order of no detections that stay.

    From the highest confidence down, a detection is kept and every other one is dropped of whose own area more than
    `max_overlap` is covered by it. Equal confidences: the later one wins.

    Args:
        detections: (M,) DETECTION; those that stay are moved to the front.
        max_overlap: share of a box's area, 0 to 1.
        whole_pixels: see `Checks`.

    Returns:
        The number of detections that stay.
    """
    m = detections.shape[0]
    scores, dropped = np.empty(m), np.zeros(m, dtype=np.bool_)
    for k in range(m):
        scores[k] = detections[k]["confidence"]
    order = ascending(scores)
    for a in range(m - 1, -1, -1):
        if dropped[order[a]]:
            continue
        box = detections[order[a]]["ltwh"]
        for b in range(a - 1, -1, -1):
            k = order[b]
            if not dropped[k] and _covers(box, detections[k]["ltwh"], max_overlap, whole_pixels):
                dropped[k] = True
    kept = 0
    for k in range(m):
        if not dropped[k]:
            detections[kept] = detections[k]
            kept += 1
    return kept


@jit(phase=True)
def prepare(detections: Table, given: Given, checks: Record) -> tuple[int, int, int]:
    """Check the detections of a frame, leave out boxes without area, suppress non-maxima, convert.

    Args:
        detections: (M,) DETECTION; the first K are written.
        given: the detections.
        checks: a record of `Checks`.

    Returns:
        K; OK or the complaint; and the detection that it is about.
    """
    complaint, blamed, k = OK, NONE, 0
    two = np.float32(2.0)
    for j in range(given.ltwh.shape[0]):
        wrong = OK
        detection = detections[k]
        box, measured = detection["ltwh"], detection["measured"]
        total = 0.0
        for c in range(4):
            box[c] = given.ltwh[j, c]
            total += given.ltwh[j, c]
        if (box[2] <= 0.0 or box[3] <= 0.0) and np.isfinite(total):
            continue
        measured[0] = box[0] + box[2] / two
        measured[1] = box[1] + box[3] / two
        measured[2] = box[2] / box[3]
        measured[3] = box[3]
        for c in range(4):
            if not (np.isfinite(box[c]) and np.isfinite(measured[c])):
                wrong = BAD_BOX
        detection["origin"] = j
        detection["confidence"] = np.nan
        detection["class_id"] = NO_CLASS
        detection["norm"] = 0.0
        if given.confidence.shape[0] > 0:
            detection["confidence"] = given.confidence[j]
            if not np.isfinite(given.confidence[j]):
                wrong = BAD_CONFIDENCE
        if given.class_ids.shape[0] > 0:
            detection["class_id"] = given.class_ids[j]
        if given.features.shape[0] > 0:
            norm = feature_norm(given.features[j])
            detection["norm"] = norm
            if not np.isfinite(norm):
                wrong = BAD_FEATURE
        if wrong != OK:
            if checks["drop_invalid"]:
                continue
            if complaint == OK:
                complaint, blamed = wrong, j
        k += 1
    if checks["max_overlap"] < 1.0 and k > 1:
        k = suppress(detections[:k], checks["max_overlap"], checks["whole_pixels"])
    return k, complaint, blamed


@jit
def measure(detections: Table, features: Floats) -> None:
    """Write the lengths of features (M, D) that came after `prepare` into detections (K,); inf for an invalid one."""
    for k in range(detections.shape[0]):
        detections[k]["norm"] = feature_norm(features[detections[k]["origin"]])


def complain(complaint: int, blamed: int) -> None:
    """Raise what `prepare` found as an InputError."""
    raise InputError(f"detection {blamed}: {_COMPLAINTS[complaint]} (drop_invalid=True leaves such detections out)")
