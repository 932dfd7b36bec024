"""Small videos of bright squares on the move, and a model that finds them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from onnx import helper

from tests.graphs import save_graph

SIDE, SQUARE, STEP = 64, 8, 4  # pixels: of the picture, of a square, between the places that the model looks at


def detector(path: Path) -> Path:
    """A model in YOLOv8's form: how bright it is around each place of a grid is the score there."""
    pool = helper.make_node("AveragePool", ["images"], ["bright"], kernel_shape=[SQUARE] * 2, strides=[STEP] * 2)
    nodes = [
        pool,
        helper.make_node("ReduceMean", ["bright"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Reshape", ["grey", "shape"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    middles = np.arange((SIDE - SQUARE) // STEP + 1) * STEP + SQUARE / 2
    y, x = (grid.ravel() for grid in np.meshgrid(middles, middles, indexing="ij"))
    size = np.full_like(x, 1.5 * SQUARE)
    constants = {
        "boxes": np.stack([x, y, size, size])[None].astype(np.float32),
        "shape": np.array([1, 1, len(x)]),
    }
    image = ("float32", [1, 3, SIDE, SIDE])
    return save_graph(path, nodes, {"images": image}, {"output0": ("float32", [1, 5, len(x)])}, constants)


def video(path: Path, frames: int, seed: int = 0, squares: int = 2) -> Path:
    """Squares that move to and fro, each in a row of its own."""
    random = np.random.default_rng(seed)
    starts, speeds = random.uniform(0, 80, squares), random.uniform(0.5, 1.5, squares)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (SIDE, SIDE))
    reach = SIDE - SQUARE
    for frame in range(frames):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        for k in range(squares):
            left = round(abs((starts[k] + frame * speeds[k]) % (2 * reach) - reach))
            top = 4 + k * (SIDE // squares)
            image[top : top + SQUARE, left : left + SQUARE] = 255
        writer.write(image)
    writer.release()
    return path


def configuration(folder: Path, more: str = "") -> Path:
    """A configuration that finds squares, and its model beside it."""
    detector(folder / "squares.onnx")
    path = folder / "cam.yaml"
    path.write_text(
        "device: cpu\ndetector: {model: squares.onnx, format: yolov8, confidence: 0.5}\nembedder: {model: null}\n"
        f"outputs: {{mot: tracks.txt, jsonl: tracks.jsonl}}\n{more}"
    )
    return path
