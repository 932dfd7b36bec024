"""Synthetic crowds for the tests and benchmarks: objects in smooth motion, seen by an imperfect detector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def crowd(
    objects: int,
    frames: int,
    dimension: int,
    *,
    seed: int = 0,
    width: int = 1920,
    height: int = 1080,
    seen: float = 0.95,
    jitter: float = 0.02,
    noise: float = 0.25,
    occlusions: bool = False,
    unit: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ltwh (M, 4), features (M, D) float32 and the true object (M,) of every frame.

    Args:
        objects: the number that move through the frame; they bounce at its edges.
        frames: how many frames.
        dimension: D.
        seed: of everything random.
        width, height: pixels.
        seen: share of the objects that are detected in a frame.
        jitter: standard deviation of box errors, in box sizes.
        noise: length of the random part of a feature, the object's own part being 1.
        occlusions: hide an object while another, nearer to the bottom edge, covers more than half of it.
        unit: features of length 1; otherwise of lengths between 0.1 and 30.
    """
    rng = np.random.default_rng(seed)
    size = np.stack([rng.uniform(20, 40, objects), rng.uniform(40, 100, objects)], axis=1)
    centre = rng.uniform([0, 0], [width, height], (objects, 2))
    velocity = rng.normal(0, 3, (objects, 2))
    identity = rng.normal(size=(objects, dimension))
    identity /= np.linalg.norm(identity, axis=1, keepdims=True)
    for _ in range(frames):
        velocity += rng.normal(0, 0.1, velocity.shape)
        centre += velocity
        for axis, limit in enumerate((width, height)):
            out = (centre[:, axis] < 0) | (centre[:, axis] > limit)
            velocity[out, axis] *= -1
            centre[:, axis] = np.clip(centre[:, axis], 0, limit)
        visible = rng.random(objects) < seen
        if occlusions:
            lt, rb = centre - size / 2, centre + size / 2
            both = (
                np.clip(np.minimum(rb[:, None], rb[None]) - np.maximum(lt[:, None], lt[None]), 0, None).prod(axis=2)
                / size.prod(axis=1)[:, None]
            )
            nearer = rb[None, :, 1] > rb[:, None, 1]
            visible &= ~((both > 0.5) & nearer).any(axis=1)
        who = np.flatnonzero(visible)
        box = np.concatenate([centre - size / 2, size], axis=1)[who]
        box += rng.normal(0, jitter, box.shape) * np.tile(size[who], 2)
        box[:, 2:] = np.maximum(box[:, 2:], 2)
        feature = identity[who] + rng.normal(0, noise / np.sqrt(dimension), (len(who), dimension))
        feature /= np.linalg.norm(feature, axis=1, keepdims=True)
        if not unit:
            feature *= rng.uniform(0.1, 30, (len(who), 1))
        yield box, feature.astype(np.float32), who


def raw(ltwh: np.ndarray, confidence: float = 0.9, det_class: str = "person") -> list[tuple[list[float], float, str]]:
    """Boxes (M, 4) as `update_tracks` takes them."""
    return [(box, confidence, det_class) for box in ltwh.tolist()]
