"""An exported network beside the torch network it came from."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from export import graph
from export.families import Embedder
from export.network import from_family
from export.networks.randomise import synthetic_images


def assert_matches(family: Embedder, operators: set[str], least_size: float) -> None:
    """A family with random weights, exported in FP32 and FP16, does on made-up pictures what it does in torch.

    Args:
        operators: the kinds of nodes that the FP32 file may have.
        least_size: which the root mean square of torch's features has to exceed.
    """
    network = from_family(family, None)
    prepare = network.prepare
    size = (prepare.height, prepare.width)
    model = network.to_embedder(17)
    graph.check(model, family.name)
    assert graph.opset_of(model) == 17

    grey = synthetic_images(*size, seed=1)[:3].permute(0, 2, 3, 1).numpy()
    images = np.clip(128 + 60 * grey, 0, 255).astype(np.uint8)
    planes = (images[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (prepare.mean, prepare.std))
    wanted = network.run((planes - mean) / std)

    session = _session(model)
    features = _run(session, images)
    alone = _run(session, images[:1])
    half = _run(_session(graph.to_fp16(model)), images[:1])
    assert {node.op_type for node in model.graph.node} <= operators
    assert features.shape == (len(images), family.known.dimension)
    assert np.abs(features - wanted).max() < 1e-4
    assert np.abs(features[:1] - alone).max() < 1e-4, "a picture alone and in a batch"
    assert _cosine(half[0], wanted[0]) > 0.999
    # The comparison means something: the features are neither vanishing nor alike.
    assert least_size < np.sqrt(np.square(wanted).mean()) < 10
    assert max(_cosine(wanted[i], wanted[j]) for i, j in ((0, 1), (0, 2), (1, 2))) < 0.95


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    return session.run([graph.OUTPUT], {graph.INPUT: images})[0]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
