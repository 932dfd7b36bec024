"""ONNX files: from a torch network, to another precision, and what is written into them."""

from __future__ import annotations

import io
import platform
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from edge_tracker.inference.manifest import METADATA_KEY, ModelManifest

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT = "images", "features"
FP16_LARGEST = 65504.0


def from_torch(
    network: nn.Module, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], opset: int
) -> onnx.ModelProto:
    """Export a network together with its preprocessing.

    Args:
        network: takes (B, 3, H, W) float32, RGB, normalised; gives (B, D).
        size: height and width in pixels.
        mean, std: what the graph shall normalise with, RGB on the 0..1 scale.
        opset: ONNX opset.

    Returns:
        A model from `images` (B, H, W, 3) uint8 BGR to `features` (B, D) float32, with a dynamic batch.
    """
    import torch

    class WithPreprocessing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.mean = 255 * torch.tensor(mean).view(1, 3, 1, 1)
            self.std = 255 * torch.tensor(std).view(1, 3, 1, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            # The cast comes first: TensorRT refuses to transpose uint8.
            planes = images.float().permute(0, 3, 1, 2)[:, [2, 1, 0]]
            return self.network((planes - self.mean) / self.std)

    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter that torch prefers now can't write opset 17 for networks with ReLU6.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            WithPreprocessing().eval(),
            (example,),
            buffer,  # type: ignore[arg-type]  # its annotation names paths only
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(model, full_check=True)
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """The opset a model says it is written in."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def stamp(model: onnx.ModelProto, manifest: ModelManifest) -> None:
    """Write the manifest into the model's metadata, so that the file speaks for itself."""
    kept = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**kept, METADATA_KEY: manifest.to_json()})


def tool_versions() -> dict[str, str]:
    """Versions of what makes the files."""
    packages = ("edge-tracker", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxconverter-common", "numpy")
    installed = {name: next(iter(metadata.Distribution.discover(name=name)), None) for name in packages}
    return {"python": platform.python_version(), **{name: d.version for name, d in installed.items() if d is not None}}


def to_fp16(model: onnx.ModelProto, keep: Callable[[str], bool]) -> onnx.ModelProto:
    """A copy with FP16 weights and arithmetic; inputs and outputs keep their types.

    Args:
        model: an FP32 model.
        keep: by a node's name, whether it stays FP32.
    """
    from onnxconverter_common import float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [node.name for node in copy.graph.node if keep(node.name)]
    casts = {node.name for node in copy.graph.node if node.op_type == "Cast"}.difference(kept)
    with warnings.catch_warnings():
        # Weights too small for FP16 are rounded to the smallest it has; the comparison afterwards judges the result.
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated")
        half = float16.convert_float_to_float16(
            copy, keep_io_types=True, node_block_list=kept, max_finite_val=FP16_LARGEST
        )
    # The converter passes over casts that the model brings along.
    for node in half.graph.node:
        if node.name in casts:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                    attribute.i = onnx.TensorProto.FLOAT16
    onnx.checker.check_model(half, full_check=True)
    return half


def outside_network(name: str) -> bool:
    """Whether a node of a model that `from_torch` made belongs to its preprocessing, which stays FP32 always."""
    return not name.startswith("/network/")


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the model to `path`, which is to be a temporary name: the caller moves it into place."""
    onnx.save(model, path)
