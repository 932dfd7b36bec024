"""Networks to be exported as embedders: those of the known families, and users' own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import pooch

from edge_tracker.embedding.models import Three, unit_scale
from edge_tracker.errors import ModelError
from edge_tracker.inference import load_model
from edge_tracker.inference.manifest import ImageInput
from edge_tracker.inference.model import signature
from export import graph
from export.families import IMAGENET_MEAN, IMAGENET_STD, Embedder
from export.weights import source_of

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preparation:
    """The preparation of an image for a network.

    Attributes:
        height, width: pixels.
        mean, std: normalisation on the 0..1 scale, in the order of `color`.
        color: "RGB" or "BGR", the order of the network's channels.
        resize, interpolation: see `edge_tracker.inference.manifest.ImageInput`.
    """

    height: int
    width: int
    mean: Three = IMAGENET_MEAN
    std: Three = IMAGENET_STD
    color: str = "RGB"
    resize: str = "stretch"
    interpolation: str = "linear"

    @property
    def image(self) -> ImageInput:
        """The exported model's input: the graph does all but the resizing."""
        return ImageInput(graph.INPUT, self.height, self.width, resize=self.resize, interpolation=self.interpolation)

    @property
    def planes(self) -> ImageInput:
        """The network's own input, for which the caller does everything."""
        return ImageInput(
            graph.PLANES,
            self.height,
            self.width,
            layout="NCHW",
            dtype="float32",
            color=self.color,
            mean=_bytes(self.mean),
            std=_bytes(self.std),
            resize=self.resize,
            interpolation=self.interpolation,
        )

    def words(self) -> str:
        """The preprocessing in the graph, for the manifest."""
        order = "uint8 BGR to float RGB" if self.color == "RGB" else "uint8 to float"
        return f"{order}, NHWC to NCHW, (pixel / 255 - {list(self.mean)}) / {list(self.std)}"


def _bytes(values: Three) -> Three:
    """From the 0..1 scale to 0..255."""
    return (255 * values[0], 255 * values[1], 255 * values[2])


@dataclass(frozen=True)
class Network:
    """A network that is ready to be exported and compared.

    Attributes:
        name: stem of the files.
        words: architecture, for the manifest.
        prepare: the preparation of images.
        to_onnx: the network as ONNX for an opset, without preprocessing.
        run: computes features (B, D) from prepared images (B, 3, H, W) with the network itself.
        source: its origin, for the manifest.
        float_nodes: see `export.families.Embedder`.
    """

    name: str
    words: str
    prepare: Preparation
    to_onnx: Callable[[int], onnx.ModelProto]
    run: Callable[[Array], Array]
    source: dict[str, str] = field(default_factory=dict)
    float_nodes: tuple[str, ...] = ()

    def to_embedder(self, opset: int) -> onnx.ModelProto:
        """The FP32 model from which the other precisions are made, with preprocessing, and biases moved for FP16."""
        prepare = self.prepare
        size = (prepare.height, prepare.width)
        model = graph.with_preprocessing(self.to_onnx(opset), size, prepare.mean, prepare.std, prepare.color)
        graph.move_biases(model)
        return model


def from_family(family: Embedder, weights: Path | None, resize: str | None = None) -> Network:
    """One of the known networks.

    Args:
        family: the family.
        weights: its weights; None for random ones.
        resize: another method of resizing crops than the family's own.

    Raises:
        ModelError: the file does not hold this network's weights.
    """
    prepare = Preparation(
        family.known.height,
        family.known.width,
        unit_scale(family.known.mean),
        unit_scale(family.known.std),
        resize=resize or family.resize,
        interpolation=family.interpolation,
    )
    module = family.create() if weights is None else family.load(weights)
    source = {"weights": "random: for tests and timings only"} if weights is None else source_of(family, weights)
    network = _of_torch(family.name, family.network, prepare, module, source)
    return replace(network, float_nodes=family.float_nodes)


def from_function(where: str, name: str, prepare: Preparation) -> Network:
    """A user's own torch network.

    Args:
        where: "module:function"; the function takes no arguments and returns the network with its weights. The current
            folder is also searched for the module.
        name: the network's name.
        prepare: the preparation of images.

    Raises:
        ModelError: there is no such function, it fails, or it does not return a torch network.
    """
    import torch

    module_name, _, function_name = where.partition(":")
    sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"{where}: no such function ({error})") from error
    finally:
        sys.path.remove("")
    module = function()
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{where}: returns a {type(module).__name__}, not a torch.nn.Module")
    return _of_torch(name, type(module).__name__, prepare, module.eval(), {"function": where})


def from_onnx(path: Path, name: str, prepare: Preparation) -> Network:
    """A user's own network as an ONNX file with one input (B, 3, H, W) float32 and one output (B, D).

    Raises:
        ModelError: it cannot be read, or has other inputs or outputs.
    """
    model = load_model(path, device="cpu")
    takes, gives = model.inputs, model.outputs
    height, width = prepare.height, prepare.width
    fits = len(takes) == 1 and len(gives) == 1 and takes[0].dtype == np.float32 and len(gives[0].shape) == 2
    if not fits or len(takes[0].shape) != 4 or takes[0].shape[1] != 3:
        raise ModelError(
            f"{path}: an embedder has one input (batch, 3, height, width) float32 and one output (batch, dimension); "
            f"this file has {signature(takes, gives)}"
        )
    if any(is_ not in (None, wanted) for is_, wanted in zip(takes[0].shape[2:], (height, width), strict=True)):
        raise ModelError(f"{path}: takes images of another size than {height}x{width}: {signature(takes, gives)}")
    batch = takes[0].shape[0]

    def run(planes: Array) -> Array:
        step = batch or len(planes)
        rows = np.concatenate([planes, np.zeros((-len(planes) % step, *planes.shape[1:]), np.float32)])
        parts = [model.run({takes[0].name: rows[i : i + step]})[0] for i in range(0, len(rows), step)]
        return np.concatenate(parts)[: len(planes)]

    source = {"file": path.name, "sha256": pooch.file_hash(str(path))}
    return Network(name, f"from {path.name}", prepare, lambda _: onnx.load(path), run, source)


def _of_torch(name: str, words: str, prepare: Preparation, module: nn.Module, source: dict[str, str]) -> Network:
    import torch

    def run(planes: Array) -> Array:
        with torch.inference_mode():
            features = module(torch.from_numpy(planes))
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(planes):
            given = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise ModelError(f"{name}: an embedder gives features (batch, dimension), this network {given}")
        return features.numpy()

    size = (prepare.height, prepare.width)
    return Network(name, words, prepare, lambda opset: graph.from_torch(module, size, opset), run, source)
