"""The detector around its layouts: thresholds, classes, frames of all kinds, and files that are no detectors."""

from __future__ import annotations

import numpy as np
import pytest

from edge_tracker.detection import Detections, Detector
from edge_tracker.errors import ConfigError, InputError, ModelError
from edge_tracker.inference.manifest import METADATA_KEY, ImageInput, ModelManifest
from edge_tracker.inference.onnx import OnnxModel
from tests.detection.exports import BOXES, COLOUR, EXPORTS, FRAME
from tests.graphs import mean_colour, relu

PICTURE = np.full((*FRAME, 3), COLOUR, np.uint8)


@pytest.fixture
def path(tmp_path):
    """YOLOv8 with objects of class 0 (0.8), 2 (0.7), 0 upon the first (0.15) and 0 (0.1)."""
    return EXPORTS["yolov8"].save(tmp_path / "it.onnx")


def test_confidence(path):
    assert len(Detector(path, device="cpu").detect(PICTURE)) == 2
    assert len(Detector(path, confidence=0.75, device="cpu").detect(PICTURE)) == 1
    assert len(Detector(path, confidence=0.95, device="cpu").detect(PICTURE)) == 0
    assert len(Detector(path, confidence=0.05, device="cpu").detect(PICTURE)) == 3


def test_nms_is_per_class_and_can_be_set(path, tmp_path):
    def count(iou: float) -> int:
        return len(Detector(path, confidence=0.12, nms_iou=iou, device="cpu").detect(PICTURE))

    overlap = (196 * 298) / (200 * 300 + 196 * 300 - 196 * 298)
    assert (count(overlap - 0.01), count(overlap + 0.01)) == (2, 3)


@pytest.mark.parametrize(
    ("classes", "found"),
    [(["thing 0"], [0]), ([2], [2]), (["Thing 2", 0], [0, 2]), ("thing 2", [2]), ([5], []), (None, [0, 2]), ([], [])],
)
def test_classes_by_name_or_number(path, classes, found):
    assert Detector(path, classes=classes, device="cpu").detect(PICTURE).class_id.tolist() == found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("thing  7", "no class 'thing  7'; did you mean thing 7 or"),
        ("zebra", "no class 'zebra'; it has thing 0, thing 1, "),
        (80, "no class 80"),
        (-1, "no class -1"),
    ],
)
def test_a_class_that_is_not_there_names_near_ones(path, wanted, message):
    with pytest.raises(ConfigError, match=message):
        Detector(path, classes=[wanted], device="cpu")


@pytest.mark.parametrize(
    "arguments", [{"confidence": 1.1}, {"confidence": -0.1}, {"nms_iou": 2}, {"confidence": float("nan")}]
)
def test_numbers_out_of_range(path, arguments):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Detector(path, device="cpu", **arguments)


def test_an_unknown_format(path):
    with pytest.raises(ConfigError, match="unknown detector format 'yolo9000'; one of yolov5, yolov8,"):
        Detector(path, format="yolo9000", device="cpu")


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (640, 640), (100, 900), (31, 17), (1, 1)])
def test_boxes_stay_in_the_frame_whatever_its_shape(path, shape):
    found = Detector(path, confidence=0.05, device="cpu").detect(np.full((*shape, 3), COLOUR, np.uint8))
    assert (found.ltwh >= 0).all()
    assert (found.ltwh[:, 0] + found.ltwh[:, 2] <= shape[1] + 1e-3).all()
    assert (found.ltwh[:, 1] + found.ltwh[:, 3] <= shape[0] + 1e-3).all()
    assert (found.ltwh[:, 2:] > 0).all()


def test_a_box_over_the_edge_ends_there_and_one_beyond_it_is_none(path):
    """In a frame 20 high, with wide borders, two objects reach over both edges, and one lies in the border."""
    found = Detector(path, confidence=0.09, device="cpu").detect(np.full((20, 768, 3), COLOUR, np.uint8))
    np.testing.assert_allclose(found.ltwh, [[100, 0, 200, 20], [600, 0, 100, 20]], atol=1e-3)


def test_frames_come_as_views_and_read_only(path):
    detector = Detector(path, device="cpu")
    expected = detector.detect(PICTURE).ltwh
    wide = np.zeros((FRAME[0], FRAME[1] * 2, 3), np.uint8)
    wide[:, ::2] = PICTURE
    frozen = PICTURE.copy()
    frozen.setflags(write=False)
    for frame in (wide[:, ::2], frozen, np.asfortranarray(PICTURE)):
        np.testing.assert_array_equal(detector.detect(frame).ltwh, expected)


@pytest.mark.parametrize("frame", [None, PICTURE[..., 0], PICTURE / 255, np.zeros((4, 4, 4), np.uint8)])
def test_frames_that_are_none(path, frame):
    with pytest.raises(InputError, match="frame must be an array"):
        Detector(path, device="cpu").detect(frame)


def test_no_detections_work_everywhere(path):
    detector = Detector(path, confidence=1.0, device="cpu")
    for found in (detector.detect(PICTURE), detector.detect(PICTURE[:0]), Detections.none(("a",))):
        assert len(found) == 0
        assert found.ltwh.shape == (0, 4)
        assert found.confidence.shape == found.class_id.shape == (0,)
        assert len(found.select(np.zeros(0, bool))) == 0
    for name in ("yolov10", "yolox", "rf-detr", "d-fine"):
        model = EXPORTS[name].save(path.with_name("other.onnx"))
        assert len(Detector(model, confidence=1.0, device="cpu").detect(PICTURE)) == 0


def test_select(path):
    found = Detector(path, device="cpu").detect(PICTURE)
    second = found.select(found.class_id == 2)
    assert len(second) == 1
    np.testing.assert_allclose(second.ltwh[0], [*BOXES[1, :2], *(BOXES[1, 2:] - BOXES[1, :2])], atol=1e-3)
    assert second.names is found.names
    np.testing.assert_array_equal(found.select([1, 0]).class_id, [2, 0])


def test_a_class_beyond_the_names_gets_its_number_as_name(path):
    found = Detector(EXPORTS["yolov10"].save(path), names=["person"], device="cpu").detect(PICTURE)
    assert [found.names[number] for number in found.class_id] == ["person", "2"]


def test_a_manifest_says_how(tmp_path):
    export = EXPORTS["yolox decoded"]
    spec = ImageInput("images", 640, 640, "NCHW", "float32", "RGB", (0.0,) * 3, (255.0,) * 3, resize="letterbox-corner")
    manifest = ModelManifest("it", "detector", "it", spec, "output", detector_format="yolov5", classes=("a",) * 80)
    path = export.save(tmp_path / "it.onnx")
    (tmp_path / "it.json").write_text(manifest.to_json())
    detector = Detector(path, device="cpu")
    assert detector.format == "yolov5"
    assert detector.names == ("a",) * 80
    np.testing.assert_allclose(detector.detect(PICTURE).ltwh[0, :2], BOXES[1, :2], atol=1e-3)


def test_files_that_are_no_detectors(tmp_path):
    with pytest.raises(ModelError, match="not a detector with one image"):
        Detector(relu(tmp_path / "relu.onnx"), device="cpu")
    with pytest.raises(
        ModelError, match=r"mean.onnx: fits no detector format \(inputs: images \(\?, 3, 8, 4\) float32"
    ):
        Detector(mean_colour(tmp_path / "mean.onnx"), device="cpu")
    embedder = ModelManifest("mean", "embedder", "mean", ImageInput("images", 8, 4), "features")
    path = mean_colour(tmp_path / "mean.onnx", metadata={METADATA_KEY: embedder.to_json()})
    with pytest.raises(ModelError, match="an embedder, not a detector"):
        Detector(path, device="cpu")


def test_a_model_that_was_handed_in_stays_open(path):
    model = OnnxModel(path, "cpu")
    Detector(model).close()
    assert len(Detector(model).detect(PICTURE)) == 2
    own = Detector(path, device="cpu")
    own.close()
    with pytest.raises(ModelError, match="closed"):
        own.detect(PICTURE)
