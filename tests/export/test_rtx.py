"""Every exported file, of every family and precision, compiles with TensorRT-RTX: on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from export import graph, samples, yolov3_tiny
from export.families import MODELS, Embedder
from export.network import from_family
from tests.export.rtx import compile_onnx
from tests.export.sizes import by_size

EMBEDDERS = [model for model in MODELS if isinstance(model, Embedder)]


@pytest.fixture(autouse=True, scope="module")
def _rtx() -> None:
    """Skip before anything is exported."""
    compile_onnx(_identity())


def _identity() -> bytes:
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("images", "features")
    ]
    node = onnx.helper.make_node("Relu", ["images"], ["features"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", value[:1], value[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return model.SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize("family", by_size(EMBEDDERS))
def test_an_embedder_compiles_at_every_precision(family):
    network = from_family(family, None)
    full = network.to_embedder(17)
    pictures = np.stack(samples.noise(2, family.known.height, family.known.width))
    for model in (full, graph.to_fp16(full), graph.to_int8(full, [pictures])):
        kinds = {tensor.data_type for tensor in model.graph.initializer}
        engine = compile_onnx(model.SerializeToString(), batch=2)
        assert len(engine) > 1000, kinds


@pytest.mark.slow
def test_opset_16_compiles_for_one_of_each_kind():
    for name in ("mobilenetv2", "osnet_x0_25"):
        network = from_family(next(family for family in EMBEDDERS if family.name == name), None)
        full = network.to_embedder(16)
        assert graph.opset_of(full) == 16
        compile_onnx(full.SerializeToString())


@pytest.mark.parametrize("half", [False, True])
def test_the_detector_compiles(half):
    layers = {
        name: yolov3_tiny.Convolution(
            np.full((out, channels, kernel, kernel), 0.01, np.float32),
            np.zeros(out, np.float32),
            *([np.ones(out, np.float32)] * 3 if norm else []),
        )
        for name, channels, out, kernel, norm in yolov3_tiny.LAYERS
    }
    compile_onnx(yolov3_tiny.build(layers, half=half).SerializeToString())


def test_the_files_that_make_export_wrote_compile(engines: Path):
    for path in sorted(engines.glob("*.onnx")):
        if path.stat().st_size < 100e6:
            compile_onnx(path.read_bytes())


def test_a_file_that_tensorrt_cannot_take_is_an_error():
    with pytest.raises(AssertionError):
        compile_onnx(b"no model")
