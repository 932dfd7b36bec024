"""ONNX surgery: preprocessing, biases, precision, metadata."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edge_tracker.errors import ModelError
from edge_tracker.inference.manifest import METADATA_KEY, ImageInput, ModelManifest
from export import graph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (24, 16)


class Small(nn.Module):
    """Two linear convolutions in a row, an activation, a pool."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 6, 1)
        self.third = nn.Conv2d(6, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(torch.clamp(self.second(self.first(x)), 0, 6)).mean((2, 3))


@pytest.fixture
def network() -> Small:
    return Small().eval()


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["features"], {"images": images})[0]


def wanted(network: nn.Module, images: np.ndarray, color: str = "RGB") -> np.ndarray:
    order = images[..., ::-1] if color == "RGB" else images
    planes = (order.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    with torch.no_grad():
        return network(torch.from_numpy(planes.transpose(0, 3, 1, 2).copy())).numpy()


@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_preprocessing_in_the_graph(network, opset, color):
    model = graph.with_preprocessing(graph.from_torch(network, SIZE, opset), SIZE, MEAN, STD, color)
    graph.check(model, "small")
    assert graph.opset_of(model) == opset
    assert model.ir_version <= 8
    for count in (1, 3):
        images = pictures(count)
        assert np.abs(run(model, images) - wanted(network, images, color)).max() < 1e-5


def test_the_cast_comes_before_the_transpose(network):
    model = graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD)
    assert [node.op_type for node in model.graph.node[:2]] == ["Cast", "Transpose"]


def test_a_bias_that_cancels_is_moved_and_fp16_gains_by_it(network):
    with torch.no_grad():
        network.first.bias[:] = 50
        network.second.weight[:] = network.second.weight.abs() * 40
        network.second.bias[:] = -50 * network.second.weight.sum((1, 2, 3)) + 1
    images = pictures()
    source = wanted(network, images)
    model = graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD)
    before = np.abs(run(graph.to_fp16(model), images) - source).max()
    assert graph.move_biases(model) == 1
    graph.check(model, "small")
    assert np.abs(run(model, images) - source).max() < 1e-3
    assert np.abs(run(graph.to_fp16(model), images) - source).max() < before / 5
    assert graph.move_biases(model) == 0


def test_ordinary_biases_stay(network):
    model = graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD)
    assert graph.move_biases(model) == 0


def test_fp16_keeps_the_interface_and_the_preprocessing(network):
    model = graph.to_fp16(graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD))
    graph.check(model, "small")
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert types == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["prepare/mean"] == onnx.TensorProto.FLOAT
    assert kinds["first.weight"] == onnx.TensorProto.FLOAT16
    images = pictures()
    source = wanted(network, images)
    assert np.abs(run(model, images) - source).max() < 0.01 * np.abs(source).max()


def test_rounding_as_fp16_hardware_does_shows_what_a_cpu_hides(network):
    images = pictures()
    half = graph.to_fp16(graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD))
    rounded = graph.rounded(half)
    graph.check(rounded, "small")
    steps = rounded.graph.node
    assert sum(node.op_type == "Cast" for node in steps) > sum(node.op_type == "Cast" for node in half.graph.node)
    source = wanted(network, images)
    assert 0 < np.abs(run(rounded, images) - source).max() < 0.01 * np.abs(source).max()

    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x) * 1e4 * 1e4 / 1e4 / 1e4

    half = graph.to_fp16(graph.with_preprocessing(graph.from_torch(Overflowing(), SIZE, 17), SIZE, MEAN, STD))
    assert not np.isfinite(run(graph.rounded(half), images)).all()


def test_fp16_follows_casts_that_the_network_brings(network):
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x) * (x.mean((1, 2, 3)) > 0).float()[:, None]

    model = graph.to_fp16(graph.with_preprocessing(graph.from_torch(Casting(), SIZE, 17), SIZE, MEAN, STD))
    graph.check(model, "casting")
    assert np.isfinite(run(model, pictures())).all()


def test_int8_is_symmetric_and_leaves_biases_and_preprocessing_alone(network):
    model = graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD)
    images = pictures(16)
    before = model.SerializeToString()
    small = graph.to_int8(model, [images[:8], images[8:]])
    assert model.SerializeToString() == before
    graph.check(small, "small")
    assert [entry.domain for entry in small.opset_import] == [""]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("QuantizeLinear") >= 3
    for node in small.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
    source = wanted(network, images)
    likeness = (run(small, images) * source).sum(1)
    likeness /= np.linalg.norm(run(small, images), axis=1) * np.linalg.norm(source, axis=1)
    assert likeness.min() > 0.98


def test_int8_for_the_cpu_leaves_nodes_in_fp32_and_stays_near_them(network):
    model = graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD)
    images = pictures(16)
    before = model.SerializeToString()
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    small = graph.to_int8_cpu(model, [images[:8], images[8:]], (first,))
    assert model.SerializeToString() == before
    graph.check(small, "small")
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    maker = {name: node for node in small.graph.node for name in node.output}
    activations = {constants[node.input[2]].dtype for node in small.graph.node if node.op_type == "QuantizeLinear"}
    assert activations == {np.dtype(np.uint8)}
    for node in small.graph.node:
        if node.op_type == "Conv":
            weight = maker.get(node.input[1])
            assert (weight is None) == (node.name == first)
            assert weight is None or constants[weight.input[0]].dtype == np.int8
    source, given = wanted(network, images), run(small, images)
    likeness = (given * source).sum(1) / np.linalg.norm(given, axis=1) / np.linalg.norm(source, axis=1)
    assert likeness.min() > 0.98


@pytest.mark.parametrize("groups", [1, 3])
def test_corrected_biases_keep_the_mean_that_rounded_weights_would_move(groups):
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 6, 1, groups=groups)
    with torch.no_grad():
        convolution.weight[:, 0] += 40 * (torch.arange(6) % 2)[:, None, None]  # coarse steps for the other weights
        if groups == 1:
            convolution.weight[:, 1:] = 0.1

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(x).mean((2, 3))

    model = graph.with_preprocessing(graph.from_torch(Mean().eval(), SIZE, 17), SIZE, MEAN, STD)
    images = pictures(8) // 2
    source = run(model, images).mean(axis=0)

    def rounded(one: onnx.ModelProto) -> np.ndarray:
        copy = onnx.ModelProto()
        copy.CopyFrom(one)
        node = next(node for node in copy.graph.node if node.op_type == "Conv")
        tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == node.input[1])
        weight = onnx.numpy_helper.to_array(tensor)
        step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(weight / step) * step, tensor.name))
        return run(copy, images).mean(axis=0)

    corrected = graph._corrected(model, [images[:3], images[3:]], [])
    assert np.abs(rounded(corrected) - source).max() < 1e-4
    if groups == 1:
        assert np.abs(rounded(model) - source).max() > 0.1


def test_the_manifest_travels_in_the_metadata(network):
    model = graph.with_preprocessing(graph.from_torch(network, SIZE, 17), SIZE, MEAN, STD)
    manifest = ModelManifest("small", "embedder", "small", ImageInput("images", *SIZE), "features", dimension=12)
    graph.stamp(model, manifest)
    graph.stamp(model, manifest)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert ModelManifest.from_json(session.get_modelmeta().custom_metadata_map[METADATA_KEY], "here") == manifest


def test_what_is_no_valid_model_is_refused():
    node = onnx.helper.make_node("Relu", ["nowhere"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output]))
    with pytest.raises(ModelError, match="mine: not a valid ONNX model"):
        graph.check(model, "mine")
