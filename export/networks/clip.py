"""CLIP's image encoders (Radford et al., arXiv 2103.00020), with OpenAI's parameter names, sized by the weights.

There are two kinds: a ResNet with a three-convolution stem, antialiased strides and attention instead of average
pooling (RN50, RN101, RN50x4, RN50x16), and a vision transformer (ViT-B/32, ViT-B/16). CLIP's text encoder is not here.

Attention is written as plain matrix products over constant lengths, with only the batch dynamic. So the exported graph
has no `If`, `Mod` or shape arithmetic, which older TensorRT cannot parse.

Resizing of crops: CLIP's own preprocessing fits the shorter side and cuts a square from the middle. Of a person's box,
which is two to three times as tall as wide, it keeps the torso and discards head and feet. Here crops are stretched:
the whole box fills the whole input, as in every re-identification network, and the distortion is the same in all crops
that are compared. "pad" keeps the aspect ratio, but spends most of the input on black borders, whose width changes with
posture and occlusion and becomes part of the feature. "center-crop" is CLIP's own, and gives deep-sort-realtime's
features. Both are available. Measured with MobileNetV2 on the people of PETS09-S2L1 and TUD-Stadtmitte, the area under
the ROC curve for telling the same person from others, 12 and 4 frames later, is: stretch 0.92 and 0.98, pad 0.89 and
0.96, centre crop 0.88 and 0.95.

Weights from other training code load if they have these names and shapes, but their activation may differ: OpenAI's is
x * sigmoid(1.702 x), and a state dict does not record it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_tracker.embedding.models import CHOICES, KNOWN
from edge_tracker.errors import ModelError
from export.checkpoints import fill, load_checkpoint
from export.networks.randomise import calibrate, randomise

HEAD_WIDTH = 64
PREFIX = "visual."
# Prefix of the names of a vision transformer in Hugging Face's files.
FACE = "vision_model."


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet encoder: blocks per stage, width of the stem, feature length, input side in pixels."""

    layers: tuple[int, int, int, int]
    width: int
    dimension: int
    size: int


@dataclass(frozen=True)
class TransformerConfig:
    """A vision transformer: blocks, width, patch side in pixels, feature length, input side in pixels."""

    layers: int
    width: int
    patch: int
    dimension: int
    size: int


Config = ResNetConfig | TransformerConfig


def _ends(network: str) -> tuple[int, int]:
    """Feature length and input side of a published encoder."""
    known = KNOWN[CHOICES[f"clip_{network}"]]
    return known.dimension, known.height


CONFIGS: dict[str, Config] = {
    "RN50": ResNetConfig((3, 4, 6, 3), 64, *_ends("RN50")),
    "RN101": ResNetConfig((3, 4, 23, 3), 64, *_ends("RN101")),
    "RN50x4": ResNetConfig((4, 6, 10, 6), 80, *_ends("RN50x4")),
    "RN50x16": ResNetConfig((6, 8, 18, 8), 96, *_ends("RN50x16")),
    "ViT-B/32": TransformerConfig(12, 768, 32, *_ends("ViT-B/32")),
    "ViT-B/16": TransformerConfig(12, 768, 16, *_ends("ViT-B/16")),
}


class Bottleneck(nn.Module):
    """A residual block whose stride is an average pool, in the block and in its shortcut."""

    expansion = 4

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = middle * self.expansion
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        if stride > 1 or inputs != outputs:
            # The pool, which has no weights, is before this and not in it: the published names count from the
            # convolution.
            self.downsample: nn.Module = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.pool(self.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(self.pool(x)))


class AttentionPool(nn.Module):
    """Pools a feature map by attention: the mean over positions is the query, the mean and all positions are the keys.

    Only this one query is computed, since only its result is used.
    """

    def __init__(self, side: int, width: int, dimension: int) -> None:
        super().__init__()
        self.places = side * side
        self.width = width
        self.heads = width // HEAD_WIDTH
        self.positional_embedding = nn.Parameter(torch.zeros(self.places + 1, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, dimension)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, self.width, self.places).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        query = self._split(self.q_proj(x[:, :1]), 1)
        key = self._split(self.k_proj(x), self.places + 1)
        value = self._split(self.v_proj(x), self.places + 1)
        answer = attend(query, key, value)
        return self.c_proj(answer.reshape(-1, self.width))

    def _split(self, x: Tensor, length: int) -> Tensor:
        return x.reshape(-1, length, self.heads, HEAD_WIDTH).transpose(1, 2)


class ResNetEncoder(nn.Module):
    """CLIP's ResNet. `forward` takes normalised RGB, float (N, 3, size, size), to features, float (N, dimension)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AvgPool2d(2)
        inputs = width
        stages = []
        for number, blocks in enumerate(config.layers):
            middle = width << number
            stage = []
            for block in range(blocks):
                stage.append(Bottleneck(inputs, middle, 2 if number and not block else 1))
                inputs = middle * Bottleneck.expansion
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.attnpool = AttentionPool(config.size // 32, inputs, config.dimension)

    def forward(self, x: Tensor) -> Tensor:
        return self.attnpool(self.feature_map(x))

    def feature_map(self, x: Tensor) -> Tensor:
        """The feature map (N, channels, H / 32, W / 32) of images (N, 3, H, W) of any size."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(self.relu(self.bn3(self.conv3(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class SelfAttention(nn.Module):
    """Multi-head self-attention over a constant number of tokens."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.width, self.tokens, self.heads = width, tokens, width // HEAD_WIDTH
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # Heads of query, key and value side by side: one transpose for all three.
        x = x.reshape(-1, self.tokens, 3 * self.heads, HEAD_WIDTH).transpose(1, 2)
        query, key, value = torch.split(x, self.heads, 1)
        return self.out_proj(attend(query, key, value).transpose(1, 2).reshape(-1, self.tokens, self.width))


class QuickGELU(nn.Module):
    """The activation that OpenAI trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    """Two linear layers, the inner one four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = QuickGELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each on normalised input and added to it."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, tokens)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The blocks, under the name that the published weights use."""

    def __init__(self, width: int, tokens: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(TransformerBlock(width, tokens) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class TransformerEncoder(nn.Module):
    """CLIP's ViT. `forward` takes normalised RGB, float (N, 3, size, size), to features, float (N, dimension)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = (config.size // config.patch) ** 2
        self.conv1 = nn.Conv2d(3, width, config.patch, config.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(self.patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, self.patches + 1, config.layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, config.dimension))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).reshape(-1, self.config.width, self.patches).transpose(1, 2)
        # The class token is the same for every image: a row of zeros stands for it (a slice times zero, since
        # expanding it to the batch would put shape arithmetic into the graph) and the embedding is added with the
        # positions'.
        x = torch.cat([x[:, :1] * 0, x], 1)
        embedding = torch.cat(
            [self.class_embedding[None] + self.positional_embedding[:1], self.positional_embedding[1:]]
        )
        x = self.transformer(self.ln_pre(x + embedding))
        return self.ln_post(x[:, 0]) @ self.proj


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention: (N, heads, Lq, d), (N, heads, L, d) twice, to (N, heads, Lq, d)."""
    return torch.softmax((query * HEAD_WIDTH**-0.5) @ key.transpose(-2, -1), -1) @ value


ImageEncoder = ResNetEncoder | TransformerEncoder


def create(config: Config) -> ImageEncoder:
    """An encoder of that size with random weights, in evaluation mode."""
    network = _empty(config)
    randomise(network)
    if isinstance(network, ResNetEncoder):
        # Blocks that each add little, as trained ones do, keep a deep random network from being chaotic.
        blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
        for block in blocks:
            block.bn3.weight.mul_(len(blocks) ** -0.5)
        network.attnpool.c_proj.weight.mul_(0.3)
        calibrate(network, network.feature_map, 128, 128)
    return network


def load(path: Path, name: str | None = None) -> ImageEncoder:
    """The image encoder in a file, in evaluation mode.

    Takes OpenAI's archives, whose text encoder is ignored, and the same weights as a state dict or safetensors (see
    `visual` for the names they may have).

    Args:
        path: the file.
        name: the one of `CONFIGS` that the file should contain; None for any.

    Raises:
        ModelError: the file cannot be read, or does not contain a CLIP image encoder, or not this one.
    """
    weights = visual(load_checkpoint(path).tensors)
    config = config_of(weights, str(path))
    if name is not None and config != CONFIGS[name]:
        raise ModelError(f"{path}: not the weights of CLIP {name} but of {name_of(config) or config}")
    network = _empty(config)
    fill(network, weights, str(path))
    return network


def visual(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder's part of a CLIP state dict under OpenAI's names, without the prefix `visual.`.

    Takes whole state dicts of OpenAI's layout, only their image part, and vision transformers under Hugging Face's
    names. Any other state dict is returned unchanged.
    """
    half = {name[len(PREFIX) :]: tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    if not half and f"{FACE}embeddings.class_embedding" in state:
        return _from_hugging_face(state)
    return half or dict(state)


def config_of(state: Mapping[str, Tensor], origin: str) -> Config:
    """Read an encoder's size from the shapes of its weights.

    Args:
        state: the image part of a CLIP state dict (see `visual`).
        origin: its origin, for the error.

    Raises:
        ModelError: these are not weights of a CLIP image encoder.
    """
    try:
        if "proj" in state:
            width, _, patch, _ = state["conv1.weight"].shape
            side = _side(len(state["positional_embedding"]))
            return TransformerConfig(
                _count(state, r"transformer\.resblocks\.(\d+)\."), width, patch, state["proj"].shape[1], side * patch
            )
        width, _, _, _ = state["layer1.0.conv1.weight"].shape
        first, second, third, fourth = (_count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        return ResNetConfig(
            (first, second, third, fourth),
            width,
            len(state["attnpool.c_proj.weight"]),
            32 * _side(len(state["attnpool.positional_embedding"])),
        )
    except (KeyError, ValueError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ModelError(f"{origin}: not the weights of a CLIP image encoder ({reason})") from error


def name_of(config: Config) -> str | None:
    """The published network of this size; None if there is none."""
    return next((name for name, known in CONFIGS.items() if known == config), None)


def _empty(config: Config) -> ImageEncoder:
    with torch.device("meta"):
        return ResNetEncoder(config) if isinstance(config, ResNetConfig) else TransformerEncoder(config)


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    parts = {
        "pre_layrnorm": "ln_pre",
        "post_layernorm": "ln_post",
        "encoder.layers": "transformer.resblocks",
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(FACE) or name.endswith("position_ids"):
            continue
        short = name[len(FACE) :]
        for theirs, ours in parts.items():
            short = short.replace(theirs, ours)
        renamed[names.get(short, short)] = tensor
    # Query, key and value are one matrix in OpenAI's files, three in Hugging Face's.
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        three = [renamed.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        block, _, kind = name.partition(".self_attn.q_proj.")
        renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
    if "visual_projection.weight" in state:
        renamed["proj"] = state["visual_projection.weight"].T.contiguous()
    return renamed


def _side(tokens: int) -> int:
    side = round((tokens - 1) ** 0.5)
    if side * side + 1 != tokens:
        raise ValueError(f"{tokens} positions are not a square and one")
    return side


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})
