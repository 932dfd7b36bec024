"""CLIP's image encoders against OpenAI's own definition, its file layouts, and their ONNX files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edge_tracker.errors import ModelError
from export.families import CLIPS, Embedder
from export.networks import clip
from tests.export import oracles
from tests.export.matching import assert_matches
from tests.export.sizes import by_size

# Of the same layout as the published ones, and quick.
SMALL = {
    "resnet": clip.ResNetConfig((1, 2, 1, 1), 16, 48, 64),
    "transformer": clip.TransformerConfig(3, 128, 16, 48, 64),
}
# What the exported graphs are made of: no control flow, no shape arithmetic.
OPERATORS = {
    *("Cast", "Transpose", "Gather", "Sub", "Div"),  # preprocessing
    *("Conv", "Relu", "AveragePool", "Sigmoid", "Mul", "Add", "LayerNormalization", "ReduceMean"),
    *("Constant", "Reshape", "Gemm", "MatMul", "Softmax", "Concat", "Slice", "Split"),
}
small = pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)


class Whole(torch.nn.Module):
    """The content of OpenAI's archives: the image encoder as `visual`, the text half, and a few numbers."""

    def __init__(self, visual: clip.ImageEncoder) -> None:
        super().__init__()
        self.visual = visual
        self.token_embedding = torch.nn.Embedding(20, 8)
        self.text_projection = torch.nn.Parameter(torch.randn(8, 8))
        self.logit_scale = torch.nn.Parameter(torch.ones([]))
        self.register_buffer("input_resolution", torch.tensor(visual.config.size))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.visual(pictures) * self.logit_scale


@pytest.fixture
def whole(config: clip.Config) -> Whole:
    return Whole(clip.create(config)).eval()


def pictures(config: clip.Config) -> torch.Tensor:
    return torch.randn(2, 3, config.size, config.size, generator=torch.Generator().manual_seed(3))


def assert_same_features(loaded: clip.ImageEncoder, source: clip.ImageEncoder) -> None:
    assert loaded.config == source.config
    assert not loaded.training
    assert {tensor.dtype for tensor in loaded.state_dict().values()} <= {torch.float32, torch.int64}
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(pictures(source.config)), source(pictures(source.config)), rtol=1e-5, atol=1e-5
        )


@small
def test_equals_openais_network(config: clip.Config) -> None:
    definitions = oracles.clip()
    if isinstance(config, clip.ResNetConfig):
        heads = config.width * 32 // clip.HEAD_WIDTH
        original = definitions.ModifiedResNet(config.layers, config.dimension, heads, config.size, config.width)
    else:
        heads = config.width // clip.HEAD_WIDTH
        original = definitions.VisionTransformer(
            config.size, config.patch, config.width, config.layers, heads, config.dimension
        )
    network = clip.create(config)
    original.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(network(pictures(config)), original.eval()(pictures(config)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", clip.CONFIGS)
def test_reads_the_size_from_the_shapes(name: str) -> None:
    with torch.device("meta"):
        config = clip.CONFIGS[name]
        network = (clip.ResNetEncoder if isinstance(config, clip.ResNetConfig) else clip.TransformerEncoder)(config)
    assert clip.config_of(network.state_dict(), "x") == config
    assert clip.name_of(config) == name


@small
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_loads_a_torchscript_archive_in_half_precision(whole: Whole, config: clip.Config, tmp_path: Path) -> None:
    traced = torch.jit.trace(whole.half().float(), pictures(config))
    traced.half().save(tmp_path / "archive.pt")
    assert_same_features(clip.load(tmp_path / "archive.pt"), whole.float().visual)


@small
@pytest.mark.parametrize("half_only", [False, True], ids=["whole", "image half"])
@pytest.mark.parametrize("layout", ["state dict", "safetensors"])
def test_loads_state_dicts_and_safetensors(whole: Whole, layout: str, half_only: bool, tmp_path: Path) -> None:
    weights = (whole.visual if half_only else whole).state_dict()
    path = tmp_path / "weights"
    if layout == "state dict":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    assert_same_features(clip.load(path), whole.visual)


def test_loads_hugging_faces_names(tmp_path: Path) -> None:
    network = clip.create(SMALL["transformer"])
    theirs: dict[str, torch.Tensor] = {
        "logit_scale": torch.ones([]),
        "text_model.final_layer_norm.bias": torch.zeros(8),
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    names = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    parts = [("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"), ("transformer.resblocks", "encoder.layers")]
    parts += [
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("c_fc", "fc1"),
        ("c_proj", "fc2"),
        ("attn", "self_attn"),
    ]
    for name, tensor in network.state_dict().items():
        long = names.get(name, name)
        for ours, other in parts:
            long = long.replace(ours, other)
        if name == "proj":
            theirs["visual_projection.weight"] = tensor.T.contiguous()
        elif match := re.search(r"in_proj_(\w+)$", long):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                theirs[f"vision_model.{long[: match.start()]}{letter}_proj.{match[1]}"] = part
        else:
            theirs[f"vision_model.{long}"] = tensor
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    assert_same_features(clip.load(tmp_path / "pytorch_model.bin"), network)


@small
def test_refuses_another_network_than_asked_for(whole: Whole, config: clip.Config, tmp_path: Path) -> None:
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w.pt: not the weights of CLIP RN50 but of \w+Config\("):
        clip.load(tmp_path / "w.pt", "RN50")


def test_refuses_weights_of_something_else(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(
        ModelError, match=r"w.pt: not the weights of a CLIP image encoder \(no 'layer1.0.conv1.weight'\)"
    ):
        clip.load(tmp_path / "w.pt")


def test_says_what_is_missing(tmp_path: Path) -> None:
    weights = clip.create(SMALL["resnet"]).state_dict()
    del weights["layer2.1.bn2.bias"]
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"1 missing \(layer2.1.bn2.bias\)"):
        clip.load(tmp_path / "w.pt")


@pytest.mark.slow
@pytest.mark.parametrize("family", by_size(CLIPS))
def test_onnx_matches_torch(family: Embedder) -> None:
    assert_matches(family, OPERATORS, 0.1)
