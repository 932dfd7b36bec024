"""One model for several cameras: answers go to who asked, calls that wait go together, errors reach all of them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edge_tracker.app.run.batching import Batcher, SharedDetector, SharedEmbedder
from edge_tracker.app.stats import Stats
from edge_tracker.detection.detector import Detector
from edge_tracker.embedding.embedder import Embedder
from tests.detection.exports import COLOUR, EXPORTS, FRAME
from tests.waiting import wait_for


def in_threads(count, work):
    """The results of `work(i)`, called in `count` threads at once."""
    answers = [None] * count

    def run(i):
        try:
            answers[i] = work(i)
        except Exception as error:
            answers[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_calls_that_wait_go_together_and_each_gets_its_own_answer():
    sizes, first, gathered = [], threading.Event(), threading.Event()

    def run(asked):
        if not first.is_set():  # the first call holds the model until all others wait
            first.set()
            assert gathered.wait(60)
        sizes.append(len(asked))
        return [2 * i for i in asked]

    ask = Batcher(run, most=4)

    def all_wait():
        wait_for(lambda: len(ask._waiting) >= 8)
        gathered.set()

    def work(i):
        if i == 0:
            return ask(0)
        assert first.wait(60)
        wait_for(lambda: len(ask._waiting) >= i - 1)  # one after the other, so that the order is known
        if i == 8:
            threading.Thread(target=all_wait).start()
        return ask(i)

    assert in_threads(9, work) == [2 * i for i in range(9)]
    assert sizes == [1, 4, 4]


def test_an_error_reaches_everybody_it_concerns_and_no_one_after():
    def run(asked):
        if "bad" in asked:
            raise ValueError("no")
        return asked

    ask = Batcher(run, most=1)
    with pytest.raises(ValueError, match="no"):
        ask("bad")
    assert ask("good") == "good"


def test_many_threads_lose_nothing():
    ask = Batcher(lambda asked: [-i for i in asked], most=3)
    answers = in_threads(8, lambda i: [ask(1000 * i + n) for n in range(200)])
    assert answers == [[-(1000 * i + n) for n in range(200)] for i in range(8)]


def test_frames_of_several_cameras_are_detected_as_each_alone(tmp_path):
    path = EXPORTS["yolov8"].save(tmp_path / "it.onnx")
    stats = Stats()
    shared = SharedDetector(Detector(path, device="cpu", batch=4), 4, stats)
    picture = np.full((*FRAME, 3), COLOUR, np.uint8)
    alone = Detector(path, device="cpu").detect(picture)
    assert len(alone)
    for found in in_threads(4, lambda i: shared.detect(picture)):
        assert np.array_equal(found.ltwh, alone.ltwh)
    assert stats.detector_frames == 4
    assert 1 <= stats.detector_calls <= 4


def test_frames_of_different_sizes_in_one_batch(engines, demo_video):
    import cv2

    capture = cv2.VideoCapture(str(demo_video))
    frames = [capture.read()[1] for _ in range(3)]
    frames[1] = np.ascontiguousarray(frames[1][:400, 100:])
    single = Detector(engines / "yolov3-tiny.onnx", device="cpu")
    together = Detector(engines / "yolov3-tiny.onnx", device="cpu", batch=3).detect_all(frames)
    for frame, found in zip(frames, together, strict=True):
        alone = single.detect(frame)
        assert len(alone)
        np.testing.assert_allclose(found.ltwh, alone.ltwh, atol=1e-2)
        np.testing.assert_allclose(found.confidence, alone.confidence, atol=1e-4)


def test_crops_of_several_cameras_are_embedded_as_each_alone(engines):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (120 + 10 * i, 160, 3), np.uint8) for i in range(3)]
    boxes = [np.array([[5.0, 6, 30, 60], [40, 20, 50, 90]]), np.zeros((0, 4)), np.array([[-10.0, 0, 40, 40]])]
    embedder = Embedder(engines / "mobilenetv2.onnx", device="cpu")
    alone = [embedder.embed(frame, own) for frame, own in zip(frames, boxes, strict=True)]
    for features, expected in zip(embedder.embed_all(frames, boxes), alone, strict=True):
        assert features.shape == expected.shape
        np.testing.assert_allclose(features, expected, atol=1e-4)
    stats = Stats()
    shared = SharedEmbedder(embedder, 3, stats)
    for features, expected in zip(in_threads(3, lambda i: shared.embed(frames[i], boxes[i])), alone, strict=True):
        np.testing.assert_allclose(features, expected, atol=1e-4)
    assert stats.embedder_cameras == 2, "who has no boxes asks nothing"
