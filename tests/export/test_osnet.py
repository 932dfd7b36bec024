"""OSNet against Torchreid's own definition, its published names, and its ONNX files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_tracker.errors import ModelError
from export.families import OSNETS, Embedder
from export.networks import osnet
from export.networks.randomise import randomise
from tests.export import oracles
from tests.export.matching import assert_matches
from tests.export.sizes import by_size

# Millions of parameters, as in Torchreid's model zoo.
PUBLISHED = {"x1_0": 2.2, "x0_75": 1.3, "x0_5": 0.6, "x0_25": 0.2}
# What the exported graphs are made of: no control flow, no shape arithmetic.
OPERATORS = {
    *("Cast", "Transpose", "Gather", "Sub", "Div"),  # preprocessing
    *("Conv", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Sigmoid", "Mul", "Add", "InstanceNormalization"),
    *("Constant", "Reshape", "Gemm", "BatchNormalization"),
}


def checkpoint(network: osnet.OSNet, classes: int = 7, prefix: str = "") -> dict[str, object]:
    """A checkpoint as Torchreid saves it in training."""
    weights = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    weights[f"{prefix}classifier.weight"] = torch.zeros(classes, osnet.DIMENSION)
    weights[f"{prefix}classifier.bias"] = torch.zeros(classes)
    return {"state_dict": weights, "epoch": 60, "rank1": 0.9, "optimizer": {"state": {}, "param_groups": []}}


@pytest.mark.parametrize("name", osnet.VARIANTS)
def test_has_the_published_number_of_parameters(name: str) -> None:
    count = sum(parameter.numel() for parameter in osnet.OSNet(osnet.VARIANTS[name]).parameters())
    width = name.removeprefix("osnet_").removeprefix("ibn_").removeprefix("ain_")
    assert round(count / 1e6, 1) == PUBLISHED[width]


@pytest.mark.parametrize("name", by_size(osnet.VARIANTS))
def test_equals_torchreids_network(name: str) -> None:
    definitions = oracles.torchreid("osnet_ain" if "_ain_" in name else "osnet")
    original = getattr(definitions, name)(num_classes=5, pretrained=False)
    network = osnet.create(name)
    left = original.load_state_dict(network.state_dict(), strict=False)
    assert left.unexpected_keys == []
    assert left.missing_keys == ["classifier.weight", "classifier.bias"]
    pictures = torch.randn(2, 3, osnet.HEIGHT, osnet.WIDTH, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(network(pictures), original.eval()(pictures), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x1_0"])
def test_loads_a_training_checkpoint(name: str, tmp_path: Path) -> None:
    network = osnet.OSNet(osnet.VARIANTS[name])
    randomise(network, seed=5)
    torch.save(checkpoint(network, prefix="module."), tmp_path / "model.pth.tar-60")
    loaded = osnet.load(name, tmp_path / "model.pth.tar-60")
    assert not loaded.training
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_loads_weights_of_the_time_before_batch_counters(tmp_path: Path) -> None:
    network = osnet.create("osnet_x0_25")
    old = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = osnet.load("osnet_x0_25", tmp_path / "old.pth")
    pictures = torch.zeros(1, 3, osnet.HEIGHT, osnet.WIDTH)
    with torch.no_grad():
        assert torch.equal(loaded(pictures), network(pictures))


@pytest.mark.parametrize(
    ("asked", "given"),
    [("osnet_x1_0", "osnet_x0_25"), ("osnet_ain_x1_0", "osnet_x1_0"), ("osnet_x1_0", "osnet_ibn_x1_0")],
)
def test_says_whose_weights_they_are(asked: str, given: str, tmp_path: Path) -> None:
    network = osnet.OSNet(osnet.VARIANTS[given])
    randomise(network)
    torch.save(checkpoint(network), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=f"w.pth: not the weights of {asked} but of {given}$"):
        osnet.load(asked, tmp_path / "w.pth")


def test_says_what_does_not_fit(tmp_path: Path) -> None:
    weights = osnet.create("osnet_x0_25").state_dict()
    del weights["fc.0.bias"]
    weights["head.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"1 missing \(fc.0.bias\); 1 left over \(head.weight\) \(osnet_x0_25\)"):
        osnet.load("osnet_x0_25", tmp_path / "w.pth")


@pytest.mark.slow
@pytest.mark.parametrize("family", by_size(OSNETS))
def test_onnx_matches_torch(family: Embedder) -> None:
    assert_matches(family, OPERATORS, 0.3)
