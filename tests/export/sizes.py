"""Of each kind of network one size is always tested, and the default of all; the others by `make test-sizes`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

ALWAYS = {
    "mobilenetv2",
    "osnet_x0_25",
    "osnet_ibn_x1_0",
    "osnet_ain_x1_0",
    "clip_RN50",
    "clip_ViT-B-32",
}


def by_size(networks: Iterable[Any]) -> list[Any]:
    """Parameters of a test from names or families, the sizes that are not always tested marked."""
    named = ((getattr(network, "name", network), network) for network in networks)
    return [
        pytest.param(network, id=name, marks=() if name in ALWAYS else pytest.mark.sizes) for name, network in named
    ]
