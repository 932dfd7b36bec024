"""A model repository for NVIDIA Triton: `NAME/1/model.onnx` or `model.plan`, and `NAME/config.pbtxt`.

A model's metadata is in the configuration's `parameters`, where a client can read it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from edge_tracker.errors import ModelError
from edge_tracker.files import atomic_path
from edge_tracker.inference.manifest import METADATA_KEY, read_manifest

# Most rows that the server combines from simultaneous requests.
BATCH = 16
BATCH_OF_TASK = {"embedder": 64, "detector": 8}
# Time that the first of them waits for others; little compared with a network's run time.
QUEUE_DELAY_US = 500

_TYPES: dict[int, str] = {
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.DOUBLE: "TYPE_FP64",
}


def write_model(repository: Path, name: str, source: Path, plan: Path | None = None, batch: int | None = None) -> Path:
    """Put a model into a repository, in place of an older one of its name.

    A model of fixed batch size is served as it is (`max_batch_size` 0); others are batched by the server.

    Args:
        repository: its folder, created if it does not exist.
        name: the model's name on the server.
        source: the ONNX file.
        plan: an engine built from it, to be served instead.
        batch: most rows at once; the default depends on whether it is an embedder or a detector.

    Returns:
        The model's folder.

    Raises:
        ModelError: not an ONNX file, or a tensor of a type that Triton does not support.
        OSError: it cannot be written.
    """
    file = "model.onnx" if plan is None else "model.plan"
    text = configuration(name, source, file, batch)
    folder = repository / name
    # The configuration goes last: until then the server sees the old one.
    with atomic_path(folder / "config.pbtxt") as config, atomic_path(folder / "1" / file) as partial:
        config.write_text(text, encoding="utf-8")
        shutil.copyfile(plan or source, partial)
    return folder


def configuration(name: str, source: Path, file: str, batch: int | None = None) -> str:
    """The text of a model's config.pbtxt. Arguments and errors as for `write_model`; `file` is the served file."""
    try:
        model = onnx.load(source, load_external_data=False)
    except Exception as error:  # protobuf's own types
        raise ModelError(f"{source}: not an ONNX file ({error})") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    manifest = read_manifest(source, metadata)
    if manifest is not None:
        metadata[METADATA_KEY] = manifest.to_json()
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    batched = all(_is_batched(value) for value in (*inputs, *outputs))
    most = batch or BATCH_OF_TASK.get(manifest.task if manifest is not None else "", BATCH)
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted('tensorrt' if file.endswith('.plan') else 'onnxruntime')}",
        f"default_model_filename: {_quoted(file)}",
        f"max_batch_size: {most if batched else 0}",
        *_tensors("input", inputs, source, batched),
        *_tensors("output", outputs, source, batched),
        "instance_group [ { count: 1 kind: KIND_AUTO } ]",
    ]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}")
    lines += [
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in sorted(metadata.items())
    ]
    return "\n".join(lines) + "\n"


def _is_batched(value: onnx.ValueInfoProto) -> bool:
    """True if the first axis of a tensor is dynamic, and others follow it."""
    axes = value.type.tensor_type.shape.dim
    return len(axes) > 1 and not axes[0].HasField("dim_value")


def _tensors(kind: str, values: Sequence[onnx.ValueInfoProto], source: Path, batched: bool) -> list[str]:
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        if tensor.elem_type not in _TYPES:
            raise ModelError(f"{source}: {kind} {value.name} has an element type that Triton does not serve")
        sizes = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim]
        dims = ", ".join(map(str, sizes[1:] if batched else sizes))
        lines.append(
            f"{kind} [ {{ name: {_quoted(value.name)} data_type: {_TYPES[tensor.elem_type]} dims: [ {dims} ] }} ]"
        )
    return lines


def _quoted(text: str) -> str:
    """A string in protobuf's text format, with everything but plain ASCII as octal escapes."""
    escaped = text.replace("\\", r"\\").replace('"', r"\"").encode()
    return '"' + "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in escaped) + '"'
