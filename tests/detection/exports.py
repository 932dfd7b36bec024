"""Detectors that find always the same boxes, laid out as each exporter lays them out.

The first object's score is read from the picture's middle pixel, so that what comes back also tells how the picture
was prepared: it is COLOUR's red (blue for YOLOX) after the normalisation that the network expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.graphs import save_graph

Outputs = dict[str, np.ndarray]

FRAME = (576, 768)
COLOUR = (51, 102, 204)  # BGR: red is 0.8 of white, blue 0.2
BOXES = np.array([[100, 50, 300, 350], [400, 300, 460, 500], [104, 52, 300, 352], [600, 100, 700, 300]], np.float32)
SCORES = np.array([np.nan, 0.7, 0.15, 0.1])  # the third lies on the first; the last is too low to count
CONFIDENCE = 0.12

ROWS = [5, 70, 900, 1200]  # where the objects are among a YOLO's predictions
QUERIES = [1, 0, 3]  # what a network without need of NMS finds, and in which order


@dataclass(frozen=True)
class Export:
    """One exporter's file.

    Attributes:
        format: the layout that it is to be recognised as.
        outputs: makes its outputs, with NaN where the first object's score belongs.
        expected: the score of the first object that must come back.
        score: what the middle pixel's first channel becomes in the outputs: gain and offset.
        size: height and width of the picture.
        classes: how many.
        rows: predictions of a YOLO.
        input, dtype: of the picture tensor.
        metadata: as the exporter writes it.
        nms: whether its outputs still hold the third object.
        deployed: boxes are multiplied by an input `orig_target_sizes` in the graph.
    """

    format: str
    outputs: Callable[[Export], Outputs]
    expected: float = 0.8
    score: tuple[float, float] = (1.0, 0.0)
    size: tuple[int, int] = (640, 640)
    classes: int = 80
    rows: int = 8400
    input: str = "images"
    dtype: str = "float32"
    metadata: Mapping[str, str] = field(default_factory=dict)
    nms: bool = True
    deployed: bool = False

    @property
    def class_ids(self) -> np.ndarray:
        """Of the four objects."""
        return np.array([0, min(2, self.classes - 1), 0, 0])

    def save(self, path: Path, *, open_size: bool = False, batch: int = 1) -> Path:
        """Write the file."""
        height, width = self.size
        middle = np.array([height // 2, width // 2])
        nodes = [
            helper.make_node("Cast", [self.input], ["picture"], to=TensorProto.FLOAT),
            helper.make_node("Slice", ["picture", "start", "end"], ["pixel"]),
            helper.make_node("Reshape", ["pixel", "scalar"], ["value"]),
            helper.make_node("Mul", ["value", "gain"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["score"]),
        ]
        constants = {
            "start": np.array([0, 0, *middle]),
            "end": np.array([1, 1, *(middle + 1)]),
            "scalar": np.array([1]),
            "gain": np.float32(self.score[0]),
            "offset": np.float32(self.score[1]),
        }
        inputs = {self.input: (self.dtype, [batch, 3, *(("height", "width") if open_size else self.size)])}
        if self.deployed:
            inputs["orig_target_sizes"] = ("int64", [batch, 2])
            constants["middle"] = np.array([1])
            nodes += [
                helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=TensorProto.FLOAT),
                helper.make_node("Concat", ["sizes", "sizes"], ["edges"], axis=1),
                helper.make_node("Unsqueeze", ["edges", "middle"], ["factor"]),
            ]
        outputs = {}
        for name, array in self.outputs(self).items():
            array = np.repeat(array[None], batch, axis=0)
            if array.dtype.kind == "i":
                constants[f"{name}/fixed"] = array
                nodes.append(helper.make_node("Identity", [f"{name}/fixed"], [name]))
                outputs[name] = ("int64", list(array.shape))
                continue
            constants[f"{name}/fixed"] = np.nan_to_num(array).astype(np.float32)
            constants[f"{name}/here"] = np.isnan(array).astype(np.float32)
            factor = "factor" if self.deployed and name == "boxes" else "one"
            constants["one"] = np.float32(1)
            nodes += [
                helper.make_node("Mul", [f"{name}/here", "score"], [f"{name}/score"]),
                helper.make_node("Add", [f"{name}/fixed", f"{name}/score"], [f"{name}/sum"]),
                helper.make_node("Mul", [f"{name}/sum", factor], [f"{name}/product"]),
                helper.make_node("Cast", [f"{name}/product"], [name], to=getattr(TensorProto, _ONNX[self.dtype])),
            ]
            outputs[name] = (self.dtype, list(array.shape))
        return save_graph(path, nodes, inputs, outputs, constants, self.metadata)


_ONNX = {"float32": "FLOAT", "float16": "FLOAT16"}


def _cxcywh(ltrb: np.ndarray) -> np.ndarray:
    return np.concatenate([(ltrb[:, :2] + ltrb[:, 2:]) / 2, ltrb[:, 2:] - ltrb[:, :2]], axis=1)


def _letterbox(export: Export, corner: bool = False) -> np.ndarray:
    """The boxes in the pixels of the picture tensor, aspect kept."""
    scale = min(export.size[0] / FRAME[0], export.size[1] / FRAME[1])
    inside = np.array([FRAME[1], FRAME[0]]) * scale
    offset = np.zeros(2) if corner else (np.array(export.size[::-1]) - inside) / 2
    return BOXES * scale + np.tile(offset, 2)


def _unit() -> np.ndarray:
    """The boxes as parts of the frame."""
    return BOXES / np.tile(FRAME[::-1], 2)


def _scores(export: Export, ground: float = 0.0) -> np.ndarray:
    """(4, C) scores of the objects. The second one has a next best class."""
    scores = np.full((4, export.classes), ground)
    scores[1, 0] = 0.6
    scores[np.arange(4), export.class_ids] = SCORES
    return scores


def _logit(p: np.ndarray | float) -> np.ndarray:
    return np.log(p) - np.log1p(-np.asarray(p))


def _yolov5(export: Export, corner: bool = False) -> np.ndarray:
    rows = np.zeros((export.rows, 5 + export.classes))
    rows[ROWS, :4] = _cxcywh(_letterbox(export, corner))
    rows[ROWS, 4] = [0.5, 1, 1, 1]
    rows[ROWS, 5:] = _scores(export)
    return rows


def _yolov8(export: Export, more: int = 0) -> np.ndarray:
    """With `more` columns that are no scores: mask coefficients, key points."""
    rows = np.full((export.rows, 4 + export.classes + more), 3.0)
    rows[:, : 4 + export.classes] = 0
    rows[ROWS, :4] = _cxcywh(_letterbox(export))
    rows[ROWS, 4 : 4 + export.classes] = _scores(export)
    return rows.T


def _final(export: Export, more: int = 0) -> np.ndarray:
    rows = np.zeros((300, 6 + more))
    rows[:3, :4] = _letterbox(export)[QUERIES]
    rows[:3, 4] = SCORES[QUERIES]
    rows[:3, 5] = export.class_ids[QUERIES]
    return rows


def _cells(export: Export) -> list[tuple[int, int, int]]:
    """Column, row and stride of each of an anchor-free YOLO's predictions."""
    height, width = export.size
    return [(x, y, s) for s in (8, 16, 32) for y in range(height // s) for x in range(width // s)]


def _yolox(export: Export) -> np.ndarray:
    rows, cells = _yolov5(export, corner=True), _cells(export)
    assert len(cells) == len(rows)
    rows[:, :2] += np.random.default_rng(0).normal(size=(len(rows), 2)) * (rows[:, 4:5] == 0)
    for row in ROWS:
        (cx, cy, w, h), (x, y, s) = rows[row, :4], cells[row]
        rows[row, :4] = cx / s - x, cy / s - y, np.log(w / s), np.log(h / s)
    return rows


def _decoded(export: Export, corner: bool) -> np.ndarray:
    """A box for every cell, near the cell."""
    rows = _yolov5(export, corner)
    for row, (x, y, s) in enumerate(_cells(export)):
        if row not in ROWS:
            rows[row, :2] = x * s, y * s
    return rows


def _rtdetr(export: Export) -> np.ndarray:
    rows = np.zeros((300, 4 + export.classes))
    rows[:3, :4] = _cxcywh(_unit())[QUERIES]
    rows[:3, 4:] = _scores(export)[QUERIES]
    return rows


def _queries(export: Export) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (300, 4) and logits (300, C)."""
    boxes, logits = np.zeros((300, 4)), np.full((300, export.classes), -9.0)
    boxes[:3] = _cxcywh(_unit())[QUERIES]
    logits[:3] = _logit(_scores(export, 1e-4)[QUERIES])
    return boxes, logits


def _deployed(export: Export) -> Outputs:
    labels, boxes, scores = np.zeros(300, np.int64), np.zeros((300, 4)), np.zeros(300)
    labels[:3], boxes[:3], scores[:3] = export.class_ids[QUERIES], _unit()[QUERIES], SCORES[QUERIES]
    return {"labels": labels, "boxes": boxes, "scores": scores}


def _one(name: str, make: Callable[..., np.ndarray], *arguments: object) -> Callable[[Export], Outputs]:
    return lambda export: {name: make(export, *arguments)}


def _pair(boxes: str, logits: str) -> Callable[[Export], Outputs]:
    return lambda export: dict(zip((boxes, logits), _queries(export), strict=True))


def _ultralytics(names: str = str({i: f"thing {i}" for i in range(80)}), **more: str) -> dict[str, str]:
    return {"task": "detect", "stride": "32", "batch": "1", "imgsz": "[640, 640]", "names": names, **more}


ABC = "{0: 'a', 1: 'b', 2: 'c'}"
# The picture's value becomes the logit of 0.8.
AS_LOGIT = (1.0, float(_logit(0.8)) - 0.8)
AS_LOGIT_IMAGENET = (1.0, float(_logit(0.8)) - (204 - 123.675) / 58.395)
# YOLOX sees 51 of 255 where the others see 0.8.
FROM_255 = {"expected": 0.51 / 2, "score": (0.01, 0.0)}

EXPORTS = {
    "yolov5": Export(
        "yolov5", _one("output0", _yolov5), 0.4, rows=25200, metadata={"stride": "32", "names": _ultralytics()["names"]}
    ),
    "yolov5 plain": Export("yolov5", _one("output", _yolov5), 0.4, rows=25200),
    "yolov5 of one class": Export(
        "yolov5", _one("output0", _yolov5), 0.4, rows=25200, classes=1, metadata={"names": "['person']"}
    ),
    "yolov5 of one class, plain": Export("yolov5", _one("output", _yolov5), 0.4, rows=25200, classes=1),
    "yolov7, wide": Export("yolov5", _one("output", _yolov5), 0.4, size=(384, 640), rows=15120),
    "yolov3-tiny": Export("yolov5", _one("detections", _yolov5), 0.4, size=(320, 416), rows=1950),
    "yolov6": Export("yolov5", _one("outputs", _decoded, False), 0.4),
    "yolov8": Export("yolov8", _one("output0", _yolov8), metadata=_ultralytics()),
    "yolo11 plain": Export("yolov8", _one("output0", _yolov8)),
    "yolo11 of three classes": Export("yolov8", _one("output0", _yolov8), classes=3, metadata=_ultralytics(ABC)),
    "yolo11 of one class, plain": Export("yolov8", _one("output0", _yolov8), classes=1),
    "yolov8 half": Export("yolov8", _one("output0", _yolov8), dtype="float16", metadata=_ultralytics()),
    "yolov8-seg": Export("yolov8", _one("output0", _yolov8, 32), metadata=_ultralytics(task="segment")),
    "yolov8-pose": Export("yolov8", _one("output0", _yolov8, 51), classes=3, metadata=_ultralytics(ABC, task="pose")),
    "yolov10": Export("yolov10", _one("output0", _final), nms=False, metadata=_ultralytics()),
    "yolo26": Export("yolov10", _one("output0", _final), nms=False, metadata=_ultralytics(end2end="True")),
    "yolo26-seg": Export(
        "yolov10", _one("output0", _final, 32), nms=False, metadata=_ultralytics(end2end="True", task="segment")
    ),
    "yolo26 plain": Export("yolov10", _one("output0", _final), nms=False),
    "yolo26 not end to end": Export("yolov8", _one("output0", _yolov8), metadata=_ultralytics(end2end="False")),
    "yolox": Export("yolox", _one("output", _yolox), **FROM_255),
    "yolox, small and wide": Export("yolox", _one("output", _yolox), **FROM_255, size=(320, 416), rows=2730),
    "yolox decoded": Export("yolox-decoded", _one("output", _decoded, True), **FROM_255),
    "rt-detr of ultralytics": Export(
        "rtdetr", _one("output0", _rtdetr), nms=False, metadata=_ultralytics(description="Ultralytics RT-DETR-l model")
    ),
    "rt-detr of two classes": Export(
        "rtdetr",
        _one("output0", _rtdetr),
        classes=2,
        nms=False,
        metadata=_ultralytics("['a', 'b']", description="Ultralytics rtdetr-l model"),
    ),
    "rt-detr of ultralytics, plain": Export("rtdetr", _one("output0", _rtdetr), nms=False),
    "rt-detr of hugging face": Export(
        "detr", _pair("pred_boxes", "logits"), score=AS_LOGIT, input="pixel_values", nms=False
    ),
    "rf-detr": Export(
        "rfdetr",
        _pair("dets", "labels"),
        score=AS_LOGIT_IMAGENET,
        size=(560, 560),
        classes=91,
        input="input",
        nms=False,
        metadata={"rfdetr_inference": '{"class_id_to_name": {"0": "a", "2": "c"}}'},
    ),
    "d-fine": Export("dfine", _deployed, deployed=True, nms=False),
}
