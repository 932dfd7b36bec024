"""Tracks and detections against ground truth, by TrackEval's own implementation of the metrics."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

Rows = dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]


def read_mot(path: Path, ground_truth: bool = False) -> Rows:
    """Per frame: ids (K,), boxes ltwh (K, 4), confidence (K,). Of ground truth, the rows that are to be ignored are."""
    rows = defaultdict(list)
    for line in path.read_text().splitlines():
        values = [float(cell) for cell in line.split(",")]
        if ground_truth and values[6] == 0:
            continue
        rows[int(values[0])].append(values)
    return {
        frame: (array[:, 1].astype(int), array[:, 2:6], array[:, 6])
        for frame, found in rows.items()
        for array in [np.array(found)]
    }


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, K) overlaps of boxes ltwh (M, 4) and (K, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(axis=2)
    return inner / (a[:, None, 2:].prod(axis=2) + b[None, :, 2:].prod(axis=2) - inner)


def score_tracks(tracks: Rows, truth: Rows, frames: int) -> dict[str, float]:
    """MOTA, IDF1 and HOTA at IoU 0.5 (HOTA: over all thresholds)."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    none = (np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    numbers: dict[str, dict[int, int]] = {"gt": {}, "tracker": {}}
    data: dict = {"gt_ids": [], "tracker_ids": [], "similarity_scores": [], "num_timesteps": frames}
    for frame in range(1, frames + 1):
        true_ids, true_boxes, _ = truth.get(frame, none)
        ids, boxes, _ = tracks.get(frame, none)
        assert len(set(ids)) == len(ids), f"frame {frame} has an identity twice"
        for kind, found in (("gt", true_ids), ("tracker", ids)):
            known = numbers[kind]
            data[f"{kind}_ids"].append(np.array([known.setdefault(int(i), len(known)) for i in found], int))
        data["similarity_scores"].append(iou(true_boxes, boxes))
    for kind in ("gt", "tracker"):
        data[f"num_{kind}_ids"] = len(numbers[kind])
        data[f"num_{kind}_dets"] = sum(map(len, data[f"{kind}_ids"]))
    quiet = {"PRINT_CONFIG": False}
    return {
        "MOTA": float(CLEAR(quiet).eval_sequence(data)["MOTA"]),
        "IDF1": float(Identity(quiet).eval_sequence(data)["IDF1"]),
        "HOTA": float(np.mean(HOTA().eval_sequence(data)["HOTA"])),
        "IDSW": float(CLEAR(quiet).eval_sequence(data)["IDSW"]),
    }


def average_precision(detections: Rows, truth: Rows) -> float:
    """AP at IoU 0.5, as in PASCAL VOC from 2010 on: the area under the precision envelope."""
    total = sum(len(ids) for ids, _, _ in truth.values())
    hits = []
    for frame, (_, boxes, confidence) in detections.items():
        true_boxes = truth[frame][1] if frame in truth else np.zeros((0, 4))
        overlaps, free = iou(boxes, true_boxes), np.ones(len(true_boxes), bool)
        for j in np.argsort(-confidence):
            best = np.where(free, overlaps[j], 0).argmax() if len(true_boxes) else -1
            hit = best >= 0 and free[best] and overlaps[j, best] >= 0.5
            if hit:
                free[best] = False
            hits.append((confidence[j], hit))
    hits.sort(key=lambda pair: -pair[0])
    found = np.cumsum([hit for _, hit in hits])
    precision, recall = found / np.arange(1, len(found) + 1), found / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * envelope))
