"""OSNet, the re-identification network of Torchreid's model zoo, written from its papers.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification" (arXiv 1905.00953) and "Learning Generalisable
Omni-Scale Representations for Person Re-Identification" (arXiv 1910.06827). Parameters have the names of the published
weights, so that those load unchanged; the classifier, which only training needs, is omitted.

There are three kinds of network:
    osnet_*       batch normalisation everywhere.
    osnet_ibn_*   instance normalisation in the stem, and after the residual sum of the first stage's blocks.
    osnet_ain_*   instance normalisation in the stem, and inside the residual of the blocks where the papers' search
                  put it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_tracker.embedding.models import KNOWN
from edge_tracker.errors import ModelError
from export.checkpoints import fill, fits, load_checkpoint
from export.networks.randomise import calibrate, randomise

# All of them take the same and give the same.
HEIGHT, WIDTH, DIMENSION = KNOWN["osnet_x1_0"].height, KNOWN["osnet_x1_0"].width, KNOWN["osnet_x1_0"].dimension

# Number of lite 3x3 convolutions in each stream of a block; the receptive fields are 3, 5, 7 and 9 pixels wide.
STREAMS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Variant:
    """The properties in which OSNets differ.

    Attributes:
        channels: outputs of the stem and of the three stages.
        kind: "bn", "ibn" or "ain".
    """

    channels: tuple[int, int, int, int]
    kind: str = "bn"


_WIDTHS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}

VARIANTS = {
    **{f"osnet_{width}": Variant(channels) for width, channels in _WIDTHS.items()},
    "osnet_ibn_x1_0": Variant(_WIDTHS["x1_0"], "ibn"),
    **{f"osnet_ain_{width}": Variant(channels, "ain") for width, channels in _WIDTHS.items()},
}

# The place of a block's instance normalisation, by kind and stage: "", "sum" (after the residual sum) or "inside".
_NORMS = {
    "bn": (("", ""), ("", ""), ("", "")),
    "ibn": (("sum", "sum"), ("", ""), ("", "")),
    "ain": (("inside", "inside"), ("", "inside"), ("inside", "")),
}


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation without PyTorch's checks, which make tracing warn."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, False)


class Conv(nn.Module):
    """Convolution without bias, then `norm` (None: no normalisation), then a rectifier if `relu`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        # The published weights call this `bn` for every kind of normalisation.
        self.bn = nn.Identity() if norm is None else norm(outputs)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class LiteConv(nn.Module):
    """A 3x3 convolution factorised into a pointwise and a depthwise one (1905.00953, figure 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv2(self.conv1(x))))


class Stream(nn.Module):
    """Lite convolutions one after another, under the name `layers` that OSNet-AIN's weights use."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = _lite_convs(channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ChannelGate(nn.Module):
    """The aggregation gate: weighs each channel of a stream by the content of the whole image. All streams share it."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.pool(x)))))


class Block(nn.Module):
    """The omni-scale residual block: four streams of growing depth, gated and summed (1905.00953, figure 4).

    Args:
        inputs, outputs: channels.
        norm: the place of instance normalisation: "", "sum" or "inside".
        listed: keep the streams in a list, as OSNet-AIN's weights do, not as four attributes.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, listed: bool) -> None:
        super().__init__()
        middle = outputs // 4
        self.norm = norm
        self.listed = listed
        self.conv1 = Conv(inputs, middle)
        if listed:
            self.conv2 = nn.ModuleList(Stream(middle, depth) for depth in STREAMS)
        else:
            self.conv2a = LiteConv(middle)
            self.conv2b = _lite_convs(middle, STREAMS[1])
            self.conv2c = _lite_convs(middle, STREAMS[2])
            self.conv2d = _lite_convs(middle, STREAMS[3])
        self.gate = ChannelGate(middle)
        self.conv3 = Conv(middle, outputs, norm=None if norm == "inside" else nn.BatchNorm2d, relu=False)
        self.downsample = Conv(inputs, outputs, relu=False) if inputs != outputs else nn.Identity()
        if norm:
            self.IN = InstanceNorm(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        start = self.conv1(x)
        first, *rest = self.conv2 if self.listed else (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        mixed = self.gate(first(start))
        for stream in rest:
            mixed = mixed + self.gate(stream(start))
        residual = self.conv3(mixed)
        if self.norm == "inside":
            residual = self.IN(residual)
        total = residual + self.downsample(x)
        if self.norm == "sum":
            total = self.IN(total)
        return self.relu(total)


class OSNet(nn.Module):
    """An OSNet without its classifier.

    `forward` takes normalised RGB images, float (N, 3, 256, 128), and gives features, float (N, 512), which are not
    negative (they follow a rectifier) and not normalised to unit length.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        stem, *stages = variant.channels
        listed = variant.kind == "ain"
        self.conv1 = Conv(3, stem, 7, 2, norm=nn.BatchNorm2d if variant.kind == "bn" else InstanceNorm)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        # The part between two stages has a name of its own in OSNet-AIN's weights, and is a stage's last part in the
        # others.
        self.listed = listed
        inputs = stem
        for number, (outputs, norms) in enumerate(zip(stages, _NORMS[variant.kind], strict=True), start=2):
            blocks: list[nn.Module] = [
                Block(inputs, outputs, norms[0], listed),
                Block(outputs, outputs, norms[1], listed),
            ]
            if number < 4:
                shrink = nn.Sequential(Conv(outputs, outputs), nn.AvgPool2d(2, 2))
                if listed:
                    self.add_module(f"pool{number}", shrink)
                else:
                    blocks.append(shrink)
            self.add_module(f"conv{number}", nn.Sequential(*blocks))
            inputs = outputs
        self.conv5 = Conv(inputs, inputs)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.channels = inputs
        self.fc = nn.Sequential(nn.Linear(inputs, DIMENSION), nn.BatchNorm1d(DIMENSION), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        steps = ("conv2", "pool2", "conv3", "pool3", "conv4") if self.listed else ("conv2", "conv3", "conv4")
        for step in steps:
            x = self.get_submodule(step)(x)
        # A reshape to constant lengths, with a dynamic batch, keeps shape arithmetic out of the exported graph.
        return self.fc(self.pool(self.conv5(x)).reshape(-1, self.channels))


def create(name: str) -> OSNet:
    """The network of one of `VARIANTS` with random weights, in evaluation mode."""
    network = _empty(name)
    randomise(network)
    # Blocks that each add little, as trained ones do, keep a deep random network from being chaotic.
    for module in network.modules():
        if isinstance(module, Block):
            last = module.IN if module.norm == "inside" else module.conv3.bn
            last.get_parameter("weight").mul_(0.3)
    calibrate(network, network, HEIGHT, WIDTH)
    return network


def load(name: str, path: Path) -> OSNet:
    """The network of one of `VARIANTS` with the weights of a file, in evaluation mode.

    Takes the files that Torchreid publishes or saves in training: a state dict or a checkpoint with one, with or
    without `module.` before the names. The classifier is ignored, whatever classes it has.

    Raises:
        ModelError: the file cannot be read, or its weights are another network's, which it names if it is known.
    """
    weights = load_checkpoint(path).tensors
    network = _empty(name)
    try:
        fill(network, weights, str(path), ignore=("classifier.",))
    except ModelError as error:
        other = identify(weights)
        if other in (None, name):
            raise ModelError(f"{error} ({name})") from error
        raise ModelError(f"{path}: not the weights of {name} but of {other}") from error
    return network


def identify(weights: Mapping[str, Tensor]) -> str | None:
    """The network of `VARIANTS` that these weights belong to; None if it is none of them."""
    return next((name for name in VARIANTS if fits(_empty(name), weights)), None)


def _empty(name: str) -> OSNet:
    with torch.device("meta"):
        return OSNet(VARIANTS[name])


def _lite_convs(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(LiteConv(channels) for _ in range(depth)))
