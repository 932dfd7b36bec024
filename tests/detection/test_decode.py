"""Detectors as users export them: recognised, fed and read right, through real ONNX Runtime sessions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from edge_tracker.detection import Detector
from edge_tracker.detection.coco import COCO_CATEGORIES, COCO_NAMES
from edge_tracker.errors import ModelError
from tests.detection.exports import BOXES, COLOUR, CONFIDENCE, EXPORTS, FRAME, Export
from tests.graphs import save_graph

PICTURE = np.full((*FRAME, 3), COLOUR, np.uint8)


def check(detector: Detector, export: Export) -> None:
    """The first two objects are found, each once and as what it is."""
    found = detector.detect(PICTURE)
    assert detector.format == export.format
    order = np.argsort(-np.array([export.expected, 0.7]))
    expected = BOXES[order]
    half = export.dtype == "float16"
    np.testing.assert_allclose(found.confidence, np.array([export.expected, 0.7])[order], rtol=2e-3 if half else 1e-5)
    np.testing.assert_array_equal(found.class_id, export.class_ids[order])
    np.testing.assert_allclose(found.ltwh[:, :2], expected[:, :2], atol=0.5 if half else 1e-3)
    np.testing.assert_allclose(found.ltwh[:, 2:], expected[:, 2:] - expected[:, :2], atol=0.5 if half else 1e-3)
    assert found.ltwh.dtype == found.confidence.dtype == np.float32
    assert found.class_id.dtype == np.int64


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_recognised_and_read_right(tmp_path, name):
    export = EXPORTS[name]
    check(Detector(export.save(tmp_path / "it.onnx"), confidence=CONFIDENCE, device="cpu"), export)


@pytest.mark.parametrize("name", ["yolox", "yolox decoded", "yolov6", "yolo11 plain", "yolo26 plain", "d-fine"])
def test_names_given_do_not_change_what_a_file_is(tmp_path, name):
    export = EXPORTS[name]
    path = export.save(tmp_path / "it.onnx")
    names = [f"thing {i}" for i in range(80)]
    check(Detector(path, confidence=CONFIDENCE, names=names, device="cpu"), export)


@pytest.mark.parametrize("name", ["yolov8", "d-fine", "yolox"])
def test_fixed_batches(tmp_path, name):
    export = EXPORTS[name]
    check(Detector(export.save(tmp_path / "it.onnx", batch=3), confidence=CONFIDENCE, device="cpu"), export)


def test_an_open_picture_size_is_read_from_the_metadata_or_given(tmp_path):
    export = EXPORTS["yolov8"]
    path = export.save(tmp_path / "it.onnx", open_size=True)
    check(Detector(path, confidence=CONFIDENCE, device="cpu"), export)
    export = EXPORTS["yolo11 plain"]
    path = export.save(tmp_path / "it.onnx", open_size=True)
    with pytest.raises(ModelError, match=r"no fixed size.*give `size`"):
        Detector(path, device="cpu")
    check(Detector(path, confidence=CONFIDENCE, size=(640, 640), device="cpu"), export)


def test_the_format_can_be_given(tmp_path):
    export = EXPORTS["yolox decoded"]
    path = export.save(tmp_path / "it.onnx")
    detector = Detector(path, confidence=CONFIDENCE, format="yolov5", device="cpu")
    assert detector.format == "yolov5"
    # Other colours and another scale: the first object's score is half of 0.008, so that the third one shows.
    np.testing.assert_allclose(detector.detect(PICTURE).confidence, [0.7, 0.15], rtol=1e-5)


def test_names(tmp_path):
    def names(name: str, **arguments: object) -> tuple[str, ...]:
        return tuple(Detector(EXPORTS[name].save(tmp_path / "it.onnx"), device="cpu", **arguments).names)

    assert names("yolov8")[:2] == ("thing 0", "thing 1")
    assert names("yolov5 of one class") == ("person",)
    assert names("yolo11 plain") == names("yolov5 plain") == names("d-fine") == names("yolox") == COCO_NAMES
    assert names("rf-detr") == ("a", "", "c")
    assert names("yolo11 of one class, plain") == ("0",)
    assert names("d-fine", names=["cat", "dog", "cow"]) == ("cat", "dog", "cow")


def test_coco_numbers():
    assert len(COCO_NAMES) == 80
    assert len(COCO_CATEGORIES) == 91
    numbers = {1: "person", 13: "stop sign", 44: "bottle", 62: "chair", 70: "toilet", 90: "toothbrush"}
    assert {number: COCO_CATEGORIES[number] for number in numbers} == numbers


@pytest.mark.parametrize(
    "names",
    ["__import__('os').system('touch pwned')", "{0: open('pwned', 'w')}", "[" * 5000, "{1, 2}", "{-1: 'a'}", "3"],
)
def test_metadata_is_never_run(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    export = EXPORTS["yolo11 plain"]
    path = Export(**{**vars(export), "metadata": {"names": names, "imgsz": names}}).save(tmp_path / "it.onnx")
    assert tuple(Detector(path, device="cpu").names) == COCO_NAMES
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("features", [1, 1280]), ("output0", [1, 4, 8400]), ("output0", [1, 300, 5]), ("map", [1, 3, 20, 20])],
)
def test_a_model_that_fits_no_layout_is_refused_with_its_tensors(tmp_path, name, shape):
    constants = {"fixed": np.zeros(shape, np.float32)}
    nodes = [helper.make_node("Identity", ["fixed"], [name])]
    image, output = ("float32", [1, 3, 64, 64]), ("float32", shape)
    path = save_graph(tmp_path / "it.onnx", nodes, {"images": image}, {name: output}, constants)
    with pytest.raises(
        ModelError, match=r"fits no detector format \(inputs: images \(1, 3, 64, 64\) float32; outputs:"
    ):
        Detector(path, device="cpu")


@pytest.mark.parametrize("task", ["classify", "obb"])
def test_other_tasks_of_ultralytics_are_refused(tmp_path, task):
    export = EXPORTS["yolov8"]
    path = Export(**{**vars(export), "metadata": {**export.metadata, "task": task}}).save(tmp_path / "it.onnx")
    with pytest.raises(ModelError, match="fits no detector format"):
        Detector(path, device="cpu")


def test_a_format_that_the_file_does_not_have_is_refused(tmp_path):
    path = EXPORTS["yolov8"].save(tmp_path / "it.onnx")
    for name in ("detr", "dfine", "rfdetr", "yolox"):
        with pytest.raises(ModelError, match=f"its outputs do not fit format {name}"):
            Detector(path, format=name, device="cpu")
