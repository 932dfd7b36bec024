"""YOLOv3-tiny: read, built, and compared with a plain computation of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_tracker.errors import ModelError
from export import graph, yolov3_tiny
from export.yolov3_tiny import Convolution

FLOATS = 8_858_734


def weights_file(path: Path, floats: int, seen_bytes: int = 8) -> Path:
    """A file as Darknet writes it, with random weights under which activations stay in bounds."""
    random = np.random.default_rng(0)
    version = (0, 2, 0) if seen_bytes == 8 else (0, 1, 0)
    values = random.uniform(0.01, 0.1, floats).astype("<f4") * random.choice(np.float32([-1, 1]), floats)
    path.write_bytes(np.array(version, "<i4").tobytes() + bytes(seen_bytes) + values.tobytes())
    return path


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Convolution]:
    path = weights_file(tmp_path_factory.mktemp("yolo") / "yolov3-tiny.weights", FLOATS)
    read = yolov3_tiny.read_weights(path)
    # Variances aren't negative, and gains keep each layer's output near its input's size.
    random = np.random.default_rng(1)
    made = {}
    for name, layer in read.items():
        weight = random.normal(0, np.sqrt(2 / layer.weight[0].size), layer.weight.shape).astype(np.float32)
        if layer.scale is None:
            made[name] = Convolution(weight, layer.bias)
        else:
            variance = random.uniform(0.5, 2, layer.bias.shape).astype(np.float32)
            scale = random.uniform(0.8, 1.2, layer.bias.shape).astype(np.float32)
            made[name] = Convolution(weight, layer.bias, scale, layer.mean, variance)
    return made


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (yolov3_tiny.HEIGHT, yolov3_tiny.WIDTH, 3), np.uint8)


def run(model: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["detections"], {"images": picture[None]})[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [16, 17])
def test_the_graph_computes_what_the_layers_say(layers, picture, opset):
    model = yolov3_tiny.build(layers, opset)
    assert graph.opset_of(model) == opset
    given, wanted = run(model, picture), yolov3_tiny.reference(layers, picture)
    assert given.shape == wanted.shape == (1950, 85)
    assert np.abs(given[:, 4:] - wanted[:, 4:]).max() < 1e-4
    np.testing.assert_allclose(given[:, :4], wanted[:, :4], rtol=1e-4, atol=1e-2)
    assert given[:, 4:].min() >= 0
    assert given[:, 4:].max() <= 1


def test_the_fp16_graph_keeps_its_interface_and_agrees(layers, picture):
    half = yolov3_tiny.build(layers, half=True)
    types = [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)]
    assert types == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]
    weights = {t.name: t.data_type for t in half.graph.initializer if t.name.endswith(".weight")}
    assert set(weights.values()) == {onnx.TensorProto.FLOAT16}
    given, wanted = run(half, picture), yolov3_tiny.reference(layers, picture)
    assert np.abs(given[:, 4:] - wanted[:, 4:]).max() < 0.02
    assert np.abs(given[:, :2] - wanted[:, :2]).max() < 0.5


def test_all_zero_logits_give_cell_centres_and_the_right_anchors(layers, picture):
    zero = {
        name: layer if layer.scale is not None else Convolution(layer.weight * 0, layer.bias * 0)
        for name, layer in layers.items()
    }
    rows = run(yolov3_tiny.build(zero), picture)
    coarse, fine = rows[: 3 * 130].reshape(3, 10, 13, 85), rows[3 * 130 :].reshape(3, 20, 26, 85)
    for head, stride, numbers in ((coarse, 32, (3, 4, 5)), (fine, 16, (1, 2, 3))):
        for anchor, number in zip(head, numbers, strict=True):
            assert anchor[0, 0, :2].tolist() == [stride / 2, stride / 2]
            assert anchor[2, 5, :2].tolist() == [5.5 * stride, 2.5 * stride]
            assert np.allclose(anchor[..., 2:4], yolov3_tiny.ANCHORS[number])
    assert np.allclose(rows[:, 4:], 0.5)


@pytest.mark.parametrize("seen_bytes", [4, 8])
def test_both_header_versions_are_read_to_the_last_float(tmp_path, seen_bytes):
    layers = yolov3_tiny.read_weights(weights_file(tmp_path / "w", FLOATS, seen_bytes))
    data = np.frombuffer((tmp_path / "w").read_bytes()[12 + seen_bytes :], "<f4")
    assert layers["conv0"].bias[0] == data[0]
    assert layers["head22"].weight.flat[-1] == data[-1]


@pytest.mark.parametrize("floats", [0, 1000, FLOATS - 1, FLOATS + 1])
def test_weights_of_another_length_are_refused(tmp_path, floats):
    path = weights_file(tmp_path / "yolov3-tiny.weights", floats)
    with pytest.raises(ModelError, match="truncated, or the weights of another network"):
        yolov3_tiny.read_weights(path)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "yolov3-tiny.weights"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="not a Darknet weights file"):
        yolov3_tiny.read_weights(path)
