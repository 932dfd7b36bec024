"""The gate: an exported model is compared with its source, and is written only if it agrees.

Every file is compared with the network itself (in torch, or for the detector in NumPy), and the tracks of FP16 and INT8
files also with those of the FP32 file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_tracker import EdgeDeepSort
from edge_tracker.detection import Detections
from edge_tracker.errors import EdgeTrackerError
from export.samples import Array, FrameBoxes

Figures = dict[str, float]

# The limits of the figures. Other figures are only recorded.
LEAST: dict[str, dict[str, float]] = {
    "fp32": {"min_cosine": 0.99999, "same_neighbour": 1.0},
    "fp16": {"min_cosine": 0.999, "same_neighbour": 0.98, "same_ids": 0.99, "same_detections": 0.98},
    "int8": {"min_cosine": 0.99, "same_neighbour": 0.98, "same_ids": 0.99},
    "int8-cpu": {"min_cosine": 0.9, "same_neighbour": 0.98},
}
# The largest difference at which the cosines of two neighbours count as equal. Two crops of one standing person are as
# near to a third as each other; which of the two comes first means nothing to a tracker that matches within 0.2.
TIE = {"fp32": 1e-5, "fp16": 1e-3, "int8": 1e-3, "int8-cpu": 1e-2}
MOST: dict[str, dict[str, float]] = {
    "fp32": {"max_box_error": 0.01, "max_score_error": 1e-4},
    "fp16": {},
    "int8": {},
    "int8-cpu": {},
}

WORDS = {
    "min_cosine": "least cosine of the features",
    "same_neighbour": "share of crops with the same nearest neighbour",
    "same_ids": "share of boxes with the same track ids as FP32",
    "same_detections": "share of detections that FP32 also makes",
    "max_box_error": "largest error of a box in pixels",
    "max_score_error": "largest error of a score",
}


class ParityError(EdgeTrackerError):
    """An exported model does not agree with its source. Nothing was written."""


def enforce(figures: Figures, precision: str, name: str) -> None:
    """Refuse a model whose figures fall short.

    Raises:
        ParityError: names each such figure, with its value and its limit.
    """
    short = [
        f"{WORDS[key]} is {figures[key]:.6g}, at {sign} {limit:.6g} is needed"
        for limits, sign, worse in ((LEAST, "least", -1), (MOST, "most", 1))
        for key, limit in limits[precision].items()
        # A figure that is not a number has failed.
        if key in figures and not (figures[key] - limit) * worse <= 0
    ]
    if short:
        raise ParityError(f"{name} {precision} does not match its source: {'; '.join(short)}. Nothing was written")


def compare_features(source: Array, given: Array, crops: int, tie: float = 0.0) -> Figures:
    """Figures of an embedder.

    Args:
        source: (M, D), from the network.
        given: (M, D), from the file.
        crops: number of rows, from the first on, that are real crops; neighbours are sought among these.
        tie: the file's nearest neighbour is right if, by the source's features, no other is nearer by more than this.
    """
    if source.shape != given.shape:
        raise ParityError(f"the file gives features {given.shape}, its source {source.shape}")
    unit, other = _unit(source), _unit(given)
    likeness, found = _likeness(unit[:crops]), _likeness(other[:crops]).argmax(axis=1)
    right = likeness[np.arange(crops), found] >= likeness.max(axis=1) - tie
    return {
        "min_cosine": float((unit * other).sum(axis=1).min()),
        "max_error": float(np.abs(source - given).max()),
        "same_neighbour": float(right.mean()),
    }


def _unit(rows: Array) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _likeness(unit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cosines between all rows; no row is its own neighbour."""
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    return likeness


def track(frames: Sequence[FrameBoxes], features: Array) -> dict[tuple[int, int], int]:
    """Follow the objects of a video by their features.

    Returns:
        The track id of each detection matched to a confirmed track, by frame and number in the frame.
    """
    tracker = EdgeDeepSort(embedder=None)
    ids = {}
    start = 0
    for number, boxes in enumerate(frames):
        end = start + len(boxes.ltwh)
        found = tracker.update(boxes.ltwh, boxes.confidence, boxes.class_id, features[start:end])
        start = end
        here = found.confirmed & (found.detection >= 0)
        ids.update({(number, int(d)): int(i) for d, i in zip(found.detection[here], found.ids[here], strict=True)})
    return ids


def same_ids(one: dict[tuple[int, int], int], other: dict[tuple[int, int], int]) -> float:
    """Share of detections that have the same track in both, up to one renaming of the tracks."""
    pairs = Counter((track, other[place]) for place, track in one.items() if place in other)
    left: set[int] = set()
    right: set[int] = set()
    agreed = 0
    for (a, b), count in pairs.most_common():
        if a not in left and b not in right:
            left.add(a)
            right.add(b)
            agreed += count
    return agreed / max(len(one), len(other), 1)


def same_detections(one: Sequence[Detections], other: Sequence[Detections], iou: float = 0.9) -> float:
    """Share of detections, frame by frame, that both have: the same class, and an IoU of at least `iou`."""
    agreed = total = 0
    for a, b in zip(one, other, strict=True):
        total += max(len(a), len(b))
        free = list(range(len(b)))
        for i in range(len(a)):
            for j in free:
                if a.class_id[i] == b.class_id[j] and _iou(a.ltwh[i], b.ltwh[j]) >= iou:
                    free.remove(j)
                    agreed += 1
                    break
    return agreed / max(total, 1)


def _iou(a: Array, b: Array) -> float:
    size = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(size, 0)))
    return shared / (float(np.prod(a[2:]) + np.prod(b[2:])) - shared)


def compare_boxes(source: Sequence[Array], given: Sequence[Array]) -> Figures:
    """Figures of a detector, from its raw outputs (N, 85) per image."""
    errors = np.abs(np.stack(source) - np.stack(given))
    return {"max_box_error": float(errors[..., :4].max()), "max_score_error": float(errors[..., 4:].max())}
