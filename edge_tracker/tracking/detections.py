"""The detections of one frame, checked and converted once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.arrays import NONE, Floats, Ints, Table, ascending
from edge_tracker.tracking.gallery import feature_norm
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import NO_CLASS

# A detection.
#   measured: its box as the filter takes it: xyah, rounded through float32 as in deep-sort-realtime; a method with
#   another measurement space replaces it.
#   confidence: NaN for unknown. norm: length of its feature, 0 for no appearance.
#   origin: its place in the caller's order.
#   taken: it is matched to a track. by_x: in the k-th row, the place of the detection that is k-th from the left.
DETECTION = np.dtype(
    [
        ("measured", "f8", 4),
        ("confidence", "f8"),
        ("norm", "f8"),
        ("origin", "i8"),
        ("class_id", "i8"),
        ("by_x", "i8"),
        ("ltwh", "f4", 4),
        ("taken", "?"),
    ],
    align=True,
)

# Complaints of `prepare` about a detection.
OK, BAD_BOX, BAD_CONFIDENCE, BAD_FEATURE = 0, 1, 2, 3
_COMPLAINTS = {
    BAD_BOX: "box (ltwh) is not finite",
    BAD_CONFIDENCE: "confidence is not finite",
    BAD_FEATURE: "feature has a NaN or infinite value",
}

# Stand for "not given" in `Given`.
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


@jit
def _covers(box: Floats, other: Floats, share: float, whole_pixels: bool) -> bool:
    """True if a box (4,) float32 ltwh covers more than a share of the area of another one.

    With `whole_pixels` this is deep-sort-realtime's arithmetic: single precision, and 1 added to widths and heights.
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


@jit(phase=True)
def suppress(detections: Table, max_overlap: float, whole_pixels: bool) -> int:
    """Non-maximum suppression as in deep-sort-realtime; the detections that stay keep their order.

    From the highest confidence down, a detection is kept, and every other one is dropped if more than `max_overlap` of
    its area is covered by the one kept. Of equal confidences the later one wins.

    Args:
        detections: (M,) DETECTION; those that stay are moved to the front.
        max_overlap: share of a box's area, 0 to 1.
        whole_pixels: add 1 to widths and heights when areas are compared, as deep-sort-realtime does.

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
def prepare(detections: Table, given: Given, drop_invalid: bool) -> tuple[int, int, int]:
    """Check the detections of a frame, leave out boxes without area, convert.

    Args:
        detections: (M,) DETECTION; the first K are written.
        given: the detections.
        drop_invalid: leave out detections with NaN or infinite values, instead of refusing the frame.

    Returns:
        K; OK or the complaint; and the detection that it is about.
    """
    ltwh, confidence, class_ids, features = given
    complaint, blamed, k = OK, NONE, 0
    two = np.float32(2.0)
    for j in range(ltwh.shape[0]):
        wrong = OK
        detection = detections[k]
        box, measured = detection["ltwh"], detection["measured"]
        total = 0.0
        for c in range(4):
            box[c] = ltwh[j, c]
            total += ltwh[j, c]
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
        detection["taken"] = False
        if confidence.shape[0] > 0:
            detection["confidence"] = confidence[j]
            if not np.isfinite(confidence[j]):
                wrong = BAD_CONFIDENCE
        if class_ids.shape[0] > 0:
            detection["class_id"] = class_ids[j]
        if features.shape[0] > 0:
            norm = feature_norm(features, j)
            detection["norm"] = norm
            if not np.isfinite(norm):
                wrong = BAD_FEATURE
        if wrong != OK:
            if drop_invalid:
                continue
            if complaint == OK:
                complaint, blamed = wrong, j
        k += 1
    return k, complaint, blamed


@jit
def sort_by_x(detections: Table) -> None:
    """Write the order of the detections (K,) DETECTION from left to right into their field `by_x`."""
    x = np.empty(detections.shape[0])
    for k in range(x.shape[0]):
        x[k] = detections[k]["measured"][0]
    order = ascending(x)
    for k in range(x.shape[0]):
        detections[k]["by_x"] = order[k]


@jit
def sorted_by_x(detections: Table) -> Floats:
    """The centres' x (K,) of the detections in ascending order; their order must be known."""
    x = np.empty(detections.shape[0])
    for at in range(x.shape[0]):
        x[at] = detections[detections[at]["by_x"]]["measured"][0]
    return x


@jit
def measure(detections: Table, features: Floats) -> None:
    """Write the lengths of features (M, D) that came after `prepare` into detections (K,); inf for an invalid one."""
    for k in range(detections.shape[0]):
        detections[k]["norm"] = feature_norm(features, detections[k]["origin"])


def complain(complaint: int, blamed: int) -> None:
    """Raise a complaint of `prepare` as an InputError."""
    raise InputError(f"detection {blamed}: {_COMPLAINTS[complaint]} (drop_invalid=True leaves such detections out)")
