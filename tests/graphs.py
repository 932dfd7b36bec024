"""Small real ONNX files for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Mapping[str, tuple[str, Shape]],
    constants: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a model. Inputs and outputs are element type and shape by name."""
    values = [
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, (kind, shape) in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), path.stem, *values, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def relu(path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """x (n, 3) float32 to y (n, 3)."""
    node = helper.make_node("Relu", ["x"], ["y"])
    return save_graph(path, [node], {"x": ("float32", ["n", 3])}, {"y": ("float32", ["n", 3])}, metadata=metadata)


def mean_colour(
    path: Path,
    *,
    layout: str = "NCHW",
    dtype: str = "float32",
    batch: int | str = "batch",
    size: tuple[int | str, int | str] = (8, 4),
    outputs: Shape = (3,),
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """An "embedder" whose feature is the mean of each channel of its input.

    Args:
        outputs: shape of a feature; (3,), or (3, 1, 1).
    """
    planar = layout == "NCHW"
    shape = [batch, 3, *size] if planar else [batch, *size, 3]
    axes = [2, 3] if planar else [1, 2]
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["features"]),
    ]
    constants = {"shape": np.array([-1, *outputs])}
    return save_graph(
        path, nodes, {"images": (dtype, shape)}, {"features": ("float32", [batch, *outputs])}, constants, metadata
    )
