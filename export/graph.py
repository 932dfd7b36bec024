"""ONNX files: from a torch network, with preprocessing, in another precision, and their metadata."""

from __future__ import annotations

import io
import platform
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_tracker.errors import ModelError
from edge_tracker.inference.manifest import METADATA_KEY, ModelManifest
from edge_tracker.inference.onnx import onnxruntime

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT = "images", "features"
PLANES = "planes"  # the input of a network before preprocessing is put in front of it
PREPARE = "prepare/"  # prefix of the names of the nodes that do the preprocessing
FP16_LARGEST = 65504.0


def from_torch(network: nn.Module, size: tuple[int, int], opset: int) -> onnx.ModelProto:
    """Export a network as it is, without preprocessing.

    Args:
        network: in evaluation mode; from (B, 3, H, W) float32 to (B, D).
        size: height and width in pixels.
        opset: ONNX opset.

    Returns:
        A model from `planes` (B, 3, H, W) to `features` (B, D), both float32, with a dynamic batch.
    """
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter that torch now prefers cannot write opset 17 for networks with ReLU6.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Instance normalisation always uses each image's own statistics, which the exporter mistakes for training.
        warnings.filterwarnings("ignore", message="ONNX export mode is set to TrainingMode.EVAL, .*'instance_norm'")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, *size),),
            buffer,  # type: ignore[arg-type]  # its annotation names paths only
            dynamo=False,
            opset_version=opset,
            input_names=[PLANES],
            output_names=[OUTPUT],
            dynamic_axes={PLANES: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    return onnx.load_from_string(buffer.getvalue())


def with_preprocessing(
    model: onnx.ModelProto, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], color: str = "RGB"
) -> onnx.ModelProto:
    """Put the conversion from pixels to a network's input in front of it.

    Args:
        model: takes (B, 3, H, W) float32, normalised, as its only input, and has one output.
        size: height and width in pixels.
        mean, std: the normalisation, in `color` order on the 0..1 scale.
        color: "RGB" or "BGR", the order of the network's channels.

    Returns:
        A copy from `images` (B, H, W, 3) uint8 BGR to `features`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    taken, given = graph.input[0], graph.output[0]
    batch = taken.type.tensor_type.shape.dim[0]
    scale = [
        numpy_helper.from_array(np.array(values, np.float32).reshape(1, 3, 1, 1) * np.float32(255), PREPARE + name)
        for name, values in (("mean", mean), ("std", std))
    ]
    order = numpy_helper.from_array(np.array([2, 1, 0]), PREPARE + "order")

    # The cast comes first: TensorRT refuses to transpose uint8.
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        *([("Gather", [order.name], {"axis": 1})] if color == "RGB" else []),
        ("Sub", [scale[0].name], {}),
        ("Div", [scale[1].name], {}),
    ]
    nodes = []
    value = INPUT
    for i, (kind, constants, attributes) in enumerate(steps):
        result = taken.name if i == len(steps) - 1 else PREPARE + kind.lower()
        nodes.append(helper.make_node(kind, [value, *constants], [result], PREPARE + kind, **attributes))
        value = result
    _rename(graph.node, given.name, OUTPUT)
    graph.output[0].name = OUTPUT
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*scale, *([order] if color == "RGB" else [])])
    del graph.input[:]
    shape = [batch.dim_value or batch.dim_param or "batch", *size, 3]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape))
    return copy


def move_biases(model: onnx.ModelProto) -> int:
    """Remove a constant between two convolutions that FP16 could not represent.

    If a 1x1 convolution directly follows another, the first one's bias can be added after the second instead:
    W (V x + a) + b = W V x + (W a + b). In MobileNetV2 a nearly constant channel is carried with a bias of 6 and
    removed again by one of -1974, which FP16 holds only to the nearest whole number. After moving, the bias is below 5,
    and the FP16 file's error falls to a third. This is exact, so FP32 loses nothing.

    Args:
        model: changed in place.

    Returns:
        The number of biases moved.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    moved = 0
    for second in graph.node:
        first = maker.get(second.input[0]) if second.op_type == "Conv" else None
        if first is None or first.op_type != "Conv" or uses[second.input[0]] > 1:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in second.attribute}
        if any(attributes.get("pads", [])) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        biases = [node.input[2] if len(node.input) > 2 else "" for node in (first, second)]
        if any(name not in constants or uses[name] > 1 for name in (*biases, second.input[1])):
            continue
        weight = numpy_helper.to_array(constants[second.input[1]]).astype(np.float64)
        if weight.shape[2:] != (1, 1) or attributes.get("group", 1) != 1:
            continue
        old, added = (numpy_helper.to_array(constants[name]) for name in biases)
        new = (added + weight[:, :, 0, 0] @ old).astype(np.float32)
        if np.abs(new).max() < np.abs(added).max() / 10:
            constants[biases[0]].CopyFrom(numpy_helper.from_array(np.zeros_like(old), biases[0]))
            constants[biases[1]].CopyFrom(numpy_helper.from_array(new, biases[1]))
            moved += 1
    return moved


def _rename(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def opset_of(model: onnx.ModelProto) -> int:
    """The opset that a model declares."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def stamp(model: onnx.ModelProto, manifest: ModelManifest) -> None:
    """Write the manifest into the model's metadata, so that the file is self-describing."""
    kept = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**kept, METADATA_KEY: manifest.to_json()})


def tool_versions() -> dict[str, str]:
    """Versions of the packages that make the files."""
    packages = ("edge-tracker", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxconverter-common", "numpy")
    installed = {name: next(iter(metadata.Distribution.discover(name=name)), None) for name in packages}
    return {"python": platform.python_version(), **{name: d.version for name, d in installed.items() if d is not None}}


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with FP16 weights and arithmetic. Inputs, outputs and the preprocessing keep their types."""
    from onnxconverter_common import float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [node.name for node in copy.graph.node if node.name.startswith(PREPARE)]
    casts = {node.name for node in copy.graph.node if node.op_type == "Cast"}.difference(kept)
    with warnings.catch_warnings():
        # Weights too small for FP16 are rounded to the smallest it has; the comparison afterwards judges the result.
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated")
        half = float16.convert_float_to_float16(
            copy, keep_io_types=True, node_block_list=kept, max_finite_val=FP16_LARGEST
        )
    # The converter ignores casts that the model already has.
    for node in half.graph.node:
        if node.name in casts:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
    return half


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an FP16 model that gives real FP16 results on any machine.

    On a CPU, ONNX Runtime computes FP16 nodes in FP32 without the roundings between them, so a file whose values
    overflow in FP16 looks perfect there. This copy is FP32 throughout, and explicitly rounds to FP16 after every node
    whose output was FP16.
    """
    copy = onnx.shape_inference.infer_shapes(model)
    graph = copy.graph
    half = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}

    def widen(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))

    for tensor in graph.initializer:
        widen(tensor)
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in half and node.op_type != "Constant":
                node.output[i] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    return copy


def to_int8(model: onnx.ModelProto, batches: Iterable[npt.NDArray[np.uint8]]) -> onnx.ModelProto:
    """A copy whose convolutions and matrix products work on INT8, with Q/DQ nodes around them, symmetric throughout.

    TensorRT reads the scales from these nodes; since version 11 it has no calibrator of its own.

    Args:
        model: an FP32 model with the input `images`.
        batches: real images, as the model takes them, to determine the range of each tensor.
    """
    # TensorRT accepts no INT32 bias, and no zero point other than 0.
    return _quantized(model, batches, ("Conv", "MatMul", "Gemm"), "QInt8", symmetric=True, quantize_bias=False)


def to_int8_cpu(
    model: onnx.ModelProto, batches: Sequence[npt.NDArray[np.uint8]], float_nodes: Sequence[str] = ()
) -> onnx.ModelProto:
    """A copy that ONNX Runtime computes in INT8 on a CPU. TensorRT does not accept it.

    The activations are UINT8 with a zero point, since on x86 ONNX Runtime computes UINT8 by INT8 about twice as fast as
    INT8 by INT8. Nothing between two convolutions stays in FP32: converting there and back costs more than INT8 gains.

    Args:
        model: an FP32 model with the input `images`.
        batches: real images, as the model takes them, to determine the range of each tensor.
        float_nodes: prefixes of the names of nodes that stay in FP32.
    """
    kept = [node.name for node in model.graph.node if node.name.startswith(tuple(float_nodes))]
    corrected = _corrected(model, batches, kept)
    kinds = ("Conv", "MatMul", "Gemm", "Clip", "Relu", "Add")
    return _quantized(corrected, batches, kinds, "QUInt8", symmetric=False, quantize_bias=True, kept=kept)


def _corrected(
    model: onnx.ModelProto, batches: Iterable[npt.NDArray[np.uint8]], kept: Sequence[str]
) -> onnx.ModelProto:
    """A copy whose biases are corrected by the mean error that rounding the weights to INT8 adds to each channel.

    It is (rounded weights - weights) times the mean of each input channel (Nagel et al., arXiv 1906.04721, 4.2).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    biased = [
        node
        for node in graph.node
        if node.op_type == "Conv"
        and node.name not in kept
        and len(node.input) == 3
        and {*node.input[1:]} <= {*constants}
        and len(constants[node.input[1]].dims) == 4
        and uses[node.input[2]] == 1
    ]
    inputs = sorted({node.input[0] for node in biased})
    if not inputs:
        return copy
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in inputs:
        probe.graph.node.append(helper.make_node("GlobalAveragePool", [name], [f"{name}/mean"]))
        probe.graph.output.append(helper.make_tensor_value_info(f"{name}/mean", TensorProto.FLOAT, None))
    session = onnxruntime().InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    count = 0
    means: dict[str, npt.NDArray[np.float64]] = {}
    for batch in batches:
        count += len(batch)
        for name, pooled in zip(inputs, session.run(None, {INPUT: batch}), strict=True):
            before = means.get(name, np.float64(0))
            means[name] = before + (pooled[:, :, 0, 0].mean(axis=0) - before) * (len(batch) / count)
    for node in biased:
        weight, bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:3])
        step = np.maximum(np.abs(weight).max(axis=(1, 2, 3), keepdims=True), 1e-30) / 127
        error = (np.round(weight / step) * step - weight).sum(axis=(2, 3))
        groups = len(means[node.input[0]]) // weight.shape[1]
        mean = np.repeat(means[node.input[0]].reshape(groups, -1), len(weight) // groups, axis=0)
        new = (bias - (error * mean).sum(axis=1)).astype(np.float32)
        constants[node.input[2]].CopyFrom(numpy_helper.from_array(new, node.input[2]))
    return copy


def _quantized(
    model: onnx.ModelProto,
    batches: Iterable[npt.NDArray[np.uint8]],
    kinds: Sequence[str],
    activations: str,
    *,
    symmetric: bool,
    quantize_bias: bool,
    kept: Sequence[str] = (),
) -> onnx.ModelProto:
    """A copy with Q/DQ nodes around the nodes of some kinds; the preprocessing and `kept` stay as they are."""
    import tempfile

    onnxruntime()  # that module first turns usage reports off
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no annotations
        def __init__(self) -> None:
            self.rest = iter(batches)

        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            batch = next(self.rest, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        # It removes the weights from a model that it is given in memory, so it gets a file.
        plain = Path(folder, "plain.onnx")
        onnx.save(model, plain)
        # Its shape inference fails on graphs that onnx's own accepts.
        quant_pre_process(plain, source, skip_symbolic_shape=True)
        names = [node.name for node in onnx.load(source).graph.node if node.name.startswith(PREPARE)]
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(kinds),
            per_channel=True,
            activation_type=quantization.QuantType[activations],
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[*names, *kept],
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": quantize_bias,
            },
        )
        quantized = onnx.load(target)
    # The quantiser declares all operator sets that it knows.
    used = {node.domain for node in quantized.graph.node}
    for entry in [entry for entry in quantized.opset_import if entry.domain not in used]:
        quantized.opset_import.remove(entry)
    return quantized


def check(model: onnx.ModelProto, origin: str) -> None:
    """Refuse a model that is not valid ONNX.

    Raises:
        ModelError: it is not; names `origin`.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{origin}: not a valid ONNX model ({' '.join(str(error).split())})") from error
