"""An exported network beside the torch network it came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from export import graph
from export.families import Embedder
from export.network import from_family
from export.networks.randomise import made_up_pictures


@dataclass(frozen=True)
class Match:
    """How two files of a network do against torch on made-up pictures.

    Attributes:
        operators: how many nodes of each kind the FP32 file has.
        dimension: length of the features.
        error: largest difference of the FP32 file's features from torch's.
        batch_error: largest difference between a picture's features alone and in a batch.
        size: root mean square of torch's features.
        likeness: largest cosine between the features of two different pictures.
        half_cosine: smallest cosine between the FP16 file's features and torch's.
    """

    operators: Counter[str]
    dimension: int
    error: float
    batch_error: float
    size: float
    likeness: float
    half_cosine: float


def match(family: Embedder) -> Match:
    """Export a family with random weights, FP32 and FP16, and run it beside torch."""
    network = from_family(family, None)
    prepare = network.prepare
    size = (prepare.height, prepare.width)
    model = network.to_embedder(17)
    graph.check(model, family.name)
    assert graph.opset_of(model) == 17

    grey = made_up_pictures(*size, seed=1)[:3].permute(0, 2, 3, 1).numpy()
    images = np.clip(128 + 60 * grey, 0, 255).astype(np.uint8)
    planes = (images[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (prepare.mean, prepare.std))
    wanted = network.run((planes - mean) / std)

    session = _session(model)
    features = _run(session, images)
    alone = _run(session, images[:1])
    half = _run(_session(graph.to_fp16(model)), images[:1])
    return Match(
        Counter(node.op_type for node in model.graph.node),
        features.shape[1],
        float(np.abs(features - wanted).max()),
        float(np.abs(features[:1] - alone).max()),
        float(np.sqrt(np.square(wanted).mean())),
        max(_cosine(wanted[i], wanted[j]) for i, j in ((0, 1), (0, 2), (1, 2))),
        _cosine(half[0], wanted[0]),
    )


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    return session.run([graph.OUTPUT], {graph.INPUT: images})[0]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
