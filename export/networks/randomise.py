"""Random weights with which a network's features still mean something, for tests and for trying out a pipeline.

With the usual initialisations, deep networks give nearly the same feature for every image, or values that grow or
vanish from layer to layer, so that comparing two features shows nothing. Here every layer preserves the scale of its
input, and normalisation layers get the statistics that they would have gathered in training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Draw all parameters at random; a network on the meta device is moved to the CPU. Sets evaluation mode.

    Normalisation starts as identity with unit gain; biases and embeddings are small compared with their input.
    """
    generator = torch.Generator().manual_seed(seed)
    network.to_empty(device="cpu")
    network.requires_grad_(False).eval()
    for module in network.modules():
        norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.LayerNorm))
        for name, parameter in module.named_parameters(recurse=False):
            if norm:
                parameter.uniform_(*((0.8, 1.2) if name == "weight" else (-0.1, 0.1)), generator=generator)
            elif parameter.dim() == 1:
                parameter.uniform_(-0.1, 0.1, generator=generator)
            elif name == "positional_embedding":
                parameter.normal_(0, 0.1, generator=generator)
            else:
                inputs = parameter.shape[0] if name == "proj" else parameter[0].numel()
                parameter.normal_(0, (2 / inputs) ** 0.5, generator=generator)
        for name, buffer in module.named_buffers(recurse=False):
            buffer.fill_(1 if name == "running_var" else 0)


def calibrate(network: nn.Module, run: Callable[[Tensor], object], height: int, width: int, seed: int = 0) -> None:
    """Set batch normalisation's statistics to those of synthetic images, by running them through the network.

    Args:
        network: set to evaluation mode afterwards.
        run: called once with images, float (8, 3, height, width); runs the layers that need statistics.
        height, width: pixels; may be smaller than the real input.
    """
    images = synthetic_images(height, width, seed)
    layers = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momentum = [layer.momentum for layer in layers]
    network.train()
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        run(images)
    for layer, before in zip(layers, momentum, strict=True):
        layer.momentum = before
    network.eval()


def synthetic_images(height: int, width: int, seed: int) -> Tensor:
    """Normalised images, float (8, 3, height, width): blobs of every size, of many contrasts and colours."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(8, 3, height, width)
    cells = 2
    while cells <= max(height, width) // 8:
        noise = torch.randn(8, 3, cells, cells, generator=generator)
        noise *= torch.rand(8, 1, 1, 1, generator=generator) * 1.5
        images += nn.functional.interpolate(noise, (height, width), mode="bilinear")
        cells *= 2
    return (images + torch.randn(8, 3, 1, 1, generator=generator)).clamp(-2, 2.5)
