"""Decoding the output tensors of detectors.

A layout describes the image input of a network and the way from its outputs to boxes. The known layouts, by the name
that `format` takes:

| name | outputs | boxes | scores | image |
| --- | --- | --- | --- | --- |
| `yolov5` | (N, 5 + C); YOLOv3 to v7 | cxcywh, pixels | objectness * class | RGB, /255, letterbox |
| `yolov8` | (4 + C, N); Ultralytics v5u, v8, v9, 11, 12, 26 | cxcywh, pixels | class | RGB, /255, letterbox |
| `yolov10` | (N, 6); v10, 26, or exported with NMS | ltrb, pixels | one, then class number | RGB, /255, letterbox |
| `yolox` | (N, 5 + C) as YOLOX exports it | offset in cell, log size | objectness * class | BGR, corner letterbox |
| `yolox-decoded` | the same, decoded in the graph | cxcywh, pixels | objectness * class | BGR, corner letterbox |
| `rtdetr` | (N, 4 + C); Ultralytics RT-DETR | cxcywh, 0..1 | class | RGB, /255, stretched |
| `detr` | `logits` (N, C), `pred_boxes` (N, 4) | cxcywh, 0..1 | class, logits | RGB, /255, stretched |
| `dfine` | `labels`, `boxes`, `scores` | ltrb, pixels | one | RGB, /255, stretched |
| `rfdetr` | `dets` (N, 4), `labels` (N, C) | cxcywh, 0..1 | class, logits | RGB, ImageNet's mean, stretched |

Hugging Face exports RT-DETR and D-FINE as `detr`; the authors of D-FINE, DEIM and RT-DETR export them as `dfine`.
Each object gets one class, the most likely one. C is the number of classes; a batch axis of one precedes each shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_tracker.errors import ModelError
from edge_tracker.inference.images import IMAGENET_MEAN, IMAGENET_STD

Array = npt.NDArray[Any]
NamedOutputs = Mapping[str, Array]

_UNIT: dict[str, Any] = {"color": "RGB", "mean": (0.0,) * 3, "std": (255.0,) * 3}
_YOLO = {**_UNIT, "resize": "letterbox"}
_YOLOX = {"color": "BGR", "resize": "letterbox-corner"}
_DETR = {**_UNIT, "resize": "stretch"}
_RFDETR = {"color": "RGB", "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "resize": "stretch"}

# A DETR's queries, and the rows of an end-to-end YOLO, number 300 or a little more; a YOLO's cells, thousands.
_MOST_QUERIES = 1000


@dataclass(frozen=True)
class Candidates:
    """Boxes in tensor pixels, before suppression.

    Attributes:
        ltrb: (K, 4) float32.
        score: (K,) float32.
        class_id: (K,) int64.
    """

    ltrb: Array
    score: Array
    class_id: Array


@dataclass(frozen=True)
class DecodeOptions:
    """The parameters of a decoder.

    Attributes:
        height, width: size of the image tensor.
        confidence: lowest score of a candidate.
        classes: number of classes; None if it is unknown.
    """

    height: int
    width: int
    confidence: float
    classes: int | None = None


@dataclass(frozen=True)
class Layout:
    """The image input and the outputs of one family of detectors.

    Attributes:
        decode: makes candidates from outputs by name, without their batch axis.
        nms: True if one object can appear several times.
        input: the preparation of the image, as fields of `ImageInput`.
    """

    decode: Callable[[NamedOutputs, DecodeOptions], Candidates]
    nms: bool
    input: dict[str, Any] = field(default_factory=dict)


def _first(outputs: NamedOutputs) -> Array:
    return next(iter(outputs.values()))


def _corners(cxcywh: Array, width: float = 1, height: float = 1) -> Array:
    """Convert centre and size to left, top, right, bottom, scaled by the given size."""
    half = cxcywh[:, 2:4] / 2
    corners = np.concatenate([cxcywh[:, :2] - half, cxcywh[:, :2] + half], axis=1)
    return corners * np.array([width, height] * 2, np.float32)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))


def _best(cxcywh: Array, scores: Array, confidence: float) -> tuple[Array, Array, Array]:
    """The rows of (N, 4) and (N, C) whose best class reaches the confidence: boxes (K, 4), score (K,), class (K,)."""
    best = scores.max(axis=1, initial=0)
    keep = np.flatnonzero(best >= confidence)
    return cxcywh[keep], best[keep], scores[keep].argmax(axis=1)


def _yolov5(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    rows = _first(outputs)
    rows = rows[rows[:, 4] >= options.confidence]
    end = 5 + options.classes if options.classes else None
    boxes, score, class_id = _best(rows[:, :4], rows[:, 4:5] * rows[:, 5:end], options.confidence)
    return Candidates(_corners(boxes), score, class_id)


def _yolov8(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    columns = _first(outputs)
    end = 4 + options.classes if options.classes else None
    keep = np.flatnonzero(columns[4:end].max(axis=0) >= options.confidence)
    rows = columns[:, keep].T
    boxes, score, class_id = _best(rows[:, :4], rows[:, 4:end], options.confidence)
    return Candidates(_corners(boxes), score, class_id)


def _yolov10(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    rows = _first(outputs)
    rows = rows[rows[:, 4] >= options.confidence]
    return Candidates(rows[:, :4], rows[:, 4], rows[:, 5])


def _yolox(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    rows = _first(outputs)
    corner, stride = _grid(len(rows), options.height, options.width)
    keep = rows[:, 4] >= options.confidence
    rows, corner, stride = rows[keep], corner[keep], stride[keep]
    centre = (rows[:, :2] + corner) * stride
    size = np.exp(np.minimum(rows[:, 2:4], 20)) * stride
    decoded = np.concatenate([centre, size, rows[:, 4:]], axis=1)
    return _yolov5({"decoded": decoded}, options)


def _rtdetr(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    rows = _first(outputs)
    boxes, score, class_id = _best(rows[:, :4], rows[:, 4:], options.confidence)
    return Candidates(_corners(boxes, options.width, options.height), score, class_id)


def _detr(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    boxes, score, class_id = _best(outputs["pred_boxes"], _sigmoid(outputs["logits"]), options.confidence)
    return Candidates(_corners(boxes, options.width, options.height), score, class_id)


def _dfine(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    keep = outputs["scores"] >= options.confidence
    return Candidates(outputs["boxes"][keep], outputs["scores"][keep], outputs["labels"][keep])


def _rfdetr(outputs: NamedOutputs, options: DecodeOptions) -> Candidates:
    boxes, score, class_id = _best(outputs["dets"], _sigmoid(outputs["labels"]), options.confidence)
    return Candidates(_corners(boxes, options.width, options.height), score, class_id)


LAYOUTS: dict[str, Layout] = {
    "yolov5": Layout(_yolov5, True, _YOLO),
    "yolov8": Layout(_yolov8, True, _YOLO),
    "yolov10": Layout(_yolov10, False, _YOLO),
    "yolox": Layout(_yolox, True, _YOLOX),
    "yolox-decoded": Layout(_yolov5, True, _YOLOX),
    "rtdetr": Layout(_rtdetr, False, _DETR),
    "detr": Layout(_detr, False, _DETR),
    "dfine": Layout(_dfine, False, _DETR),
    "rfdetr": Layout(_rfdetr, False, _RFDETR),
}


def choose(
    outputs: NamedOutputs, size: tuple[int, int], metadata: Mapping[str, str], classes: int | None
) -> str | None:
    """The layout of a model's outputs; None if they fit none.

    Args:
        outputs: the model's outputs for an empty image, with the batch axis.
        size: height and width of the image tensor.
        metadata: the texts in the model file; Ultralytics writes `task`, `end2end`, `description`, ...
        classes: number of classes, if the file contains it.
    """
    shapes = {name: array.shape[1:] for name, array in outputs.items()}
    if {"labels", "boxes", "scores"} <= set(shapes):
        return "dfine" if shapes["boxes"][1:] == (4,) else None
    if {"logits", "pred_boxes"} <= set(shapes):
        return "detr" if shapes["pred_boxes"][1:] == (4,) and len(shapes["logits"]) == 2 else None
    if {"dets", "labels"} <= set(shapes):
        return "rfdetr" if shapes["dets"][1:] == (4,) and len(shapes["labels"]) == 2 else None

    # All other layouts have everything in the first output. Ultralytics' tasks without upright boxes (oriented boxes,
    # classification) are not detection; masks and key points are columns after the classes.
    rows = _first(outputs)
    if rows.ndim != 3 or rows.dtype.kind != "f" or metadata.get("task", "detect") not in ("detect", "segment", "pose"):
        return None
    count, width = shapes[next(iter(shapes))]
    detr = "rtdetr" in metadata.get("description", "").lower().replace("-", "")
    final = width == 6 or (width > 6 and metadata.get("end2end") == "True")
    if final and count <= _MOST_QUERIES and not detr:
        return "yolov10"
    if classes is not None:
        if width == 4 + classes and (detr or count <= _MOST_QUERIES):
            return "rtdetr"
        if width == 5 + classes:
            return _objectness(rows[0], size, metadata, next(iter(shapes)))
        if count >= 4 + classes and count < width:
            return "yolov8"
        return None
    if 5 <= count < width and (width > _MOST_QUERIES or _levels(width, *size)):
        return "yolov8"
    if width < 6 or width > _MOST_QUERIES:
        return None
    if count <= _MOST_QUERIES and not _levels(count, *size):
        return "rtdetr"
    return _objectness(rows[0], size, metadata, next(iter(shapes)))


def _objectness(rows: Array, size: tuple[int, int], metadata: Mapping[str, str], name: str) -> str:
    """The layout of rows (N, 5 + C): YOLOX has one row for each cell, and no metadata."""
    if "stride" in metadata or not _levels(len(rows), *size):
        return "yolov5"
    if not _is_decoded(rows, *size):
        return "yolox"
    return "yolox-decoded" if name == "output" else "yolov5"


def _levels(count: int, height: int, width: int) -> list[tuple[int, int, int]] | None:
    """Rows, columns and stride of each level of the pyramid with `count` cells; None if there is no such pyramid."""
    for strides in ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32)):
        levels = [(height // stride, width // stride, stride) for stride in strides]
        if sum(h * w for h, w, _ in levels) == count:
            return levels
    return None


@lru_cache(maxsize=4)  # every frame asks for the same
def _grid(count: int, height: int, width: int) -> tuple[Array, Array]:
    """Column and row (N, 2) and stride in pixels (N, 1) of each prediction's cell. Read only."""
    levels = _levels(count, height, width)
    if levels is None:
        raise ModelError(f"{count} rows are not the cells of a {width}x{height} image; is it another format?")
    corners = [np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(-1, 2) for h, w, _ in levels]
    strides = [np.full((h * w, 1), stride) for h, w, stride in levels]
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _is_decoded(rows: Array, height: int, width: int) -> bool:
    """True if the first column is in pixels: pixels correlate with the positions of the cells, offsets do not."""
    corner, stride = _grid(len(rows), height, width)
    place = (corner * stride)[:, 0]
    x = rows[:, 0].astype(np.float64)
    spread = x.std() * place.std()
    return bool(spread > 0 and np.mean((x - x.mean()) * (place - place.mean())) / spread > 0.9)
