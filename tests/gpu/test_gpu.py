"""Engines, kernels and buffers on a real GPU give what the CPU gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.detection import Detector
from edge_tracker.embedding.embedder import Embedder
from edge_tracker.embedding.gpu_crops import _SOURCE
from edge_tracker.inference.cuda import Cuda, compile_kernel

Report = Callable[[str, str], None]
GPU_DEVICES = ["tensorrt", "cuda"]


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def boxes() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.column_stack([rng.uniform(-50, 1850, 50), rng.uniform(-50, 950, 50), rng.uniform(20, 200, (50, 2))])


@pytest.fixture(params=GPU_DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue("tensorrt" if request.param == "tensorrt" else "cuda_provider")
    return str(request.param)


@pytest.fixture
def embedder(engines: Path, device: str) -> Iterator[Embedder]:
    opened = Embedder(engines / "mobilenetv2.onnx", device=device)
    yield opened
    opened.close()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The least cosine of two lists of features, row by row; rows of zeros (boxes off the frame) must be so in both."""
    seen = b.any(axis=1)
    assert (a.any(axis=1) == seen).all()
    a, b = a[seen], b[seen]
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())


def milliseconds(call: Callable[[], Any], repeats: int = 50) -> float:
    for _ in range(5):
        call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1000 * (time.perf_counter() - start) / repeats


def test_memory_and_streams(cuda: Cuda, report: Report) -> None:
    report("GPU", f"{cuda.gpu.name}, compute capability {cuda.gpu.capability}, through {cuda.library}")
    size = 64 << 20
    with cuda.current():
        address, there, back = cuda.alloc(size), cuda.pinned(size), cuda.pinned(size)
        stream, event = cuda.stream(), cuda.event()
        there[:] = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        back[:] = 0
        start = time.perf_counter()
        cuda.upload(address, there, stream)
        cuda.record(event, stream)
        cuda.synchronize(event)
        report("upload", f"{size / (time.perf_counter() - start) / 1e9:.1f} GB/s")
        cuda.download(back, address, stream)
        cuda.synchronize(stream)
        assert (there == back).all()
        cuda.free_pinned(there)
        cuda.free_pinned(back)
        cuda.free(address)
        cuda.free_event(event)
        cuda.free_stream(stream)


def test_the_crop_kernel_against_opencv(cuda: Cuda, frame: np.ndarray, tmp_path: Path, report: Report) -> None:
    height, width, count = 224, 224, 100
    rng = np.random.default_rng(2)
    corners = np.column_stack([rng.integers(0, 1600, count), rng.integers(0, 800, count)])
    rectangles = np.hstack([corners, corners + rng.integers(1, 280, (count, 2))]).astype(np.int32)
    cubin = compile_kernel(_SOURCE.read_text(), cuda.gpu.capability, tmp_path)
    out_bytes = count * height * width * 3
    with cuda.current():
        stream, kernel = cuda.stream(), cuda.load_kernel(cubin, "crop_resize")
        held: list[tuple[int, np.ndarray]] = []

        def put(array: np.ndarray) -> np.uint64:
            staged, address = cuda.pinned(array.nbytes), cuda.alloc(array.nbytes)
            staged[:] = array.reshape(-1).view(np.uint8)
            cuda.upload(address, staged, stream)
            held.append((address, staged))
            return np.uint64(address)

        frame_at, boxes_at, no_masks = put(frame), put(rectangles), put(np.full(count, -1, np.int64))
        out = put(np.zeros(out_bytes, np.uint8))
        sizes = [np.int32(value) for value in (height, width, 0, 0, 0)]
        levels = [np.float32(value) for value in (0, 0, 0, 1, 1, 1)]

        def crop() -> None:
            arguments = (frame_at, np.int32(frame.strides[0]), boxes_at, np.uint64(0), no_masks, np.uint32(0), out)
            cuda.launch(kernel, (7, 28, count), (32, 8, 1), stream, *arguments, *sizes, *levels)
            cuda.synchronize(stream)

        report("100 crops of 224x224 by the kernel", f"{milliseconds(crop):.3f} ms")
        staged = held[-1][1]
        cuda.download(staged, int(out), stream)
        cuda.synchronize(stream)
        crops = staged.reshape(count, height, width, 3).astype(int)
        for address, array in held:
            cuda.free(address)
            cuda.free_pinned(array)
        cuda.free_kernel(kernel)
        cuda.free_stream(stream)
    worst = 0
    for crop_, (left, top, right, bottom) in zip(crops, rectangles, strict=True):
        expected = cv2.resize(frame[top:bottom, left:right], (width, height)).astype(int)
        worst = max(worst, int(np.abs(crop_ - expected).max()))
    report("crop kernel against OpenCV", f"at most {worst} grey level")
    assert worst <= 1


def test_features_are_those_of_the_cpu(
    engines: Path, embedder: Embedder, frame: np.ndarray, boxes: np.ndarray, device: str, report: Report
) -> None:
    on_cpu = Embedder(engines / "mobilenetv2.onnx", device="cpu")
    least = cosine(embedder.embed(frame, boxes), on_cpu.embed(frame, boxes))
    report(f"mobilenetv2 on {device}: least cosine to the CPU's", f"{least:.6f}")
    report(f"mobilenetv2 on {device}: 50 boxes", f"{milliseconds(lambda: embedder.embed(frame, boxes)):.2f} ms")
    assert embedder.model.device == device
    assert least >= 0.999


def test_detections_are_those_of_the_cpu(engines: Path, frame: np.ndarray, device: str, report: Report) -> None:
    on_gpu, on_cpu = (Detector(engines / "yolov3-tiny.onnx", device=d, confidence=0.05) for d in (device, "cpu"))
    feeds = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in on_gpu.model.inputs}  # type: ignore[arg-type]
    feeds[on_gpu.model.inputs[0].name][0] = cv2.resize(frame, (416, 320))
    a, b = on_gpu.model.run(feeds)[0].reshape(-1, 85), on_cpu.model.run(feeds)[0].reshape(-1, 85)
    report(f"yolov3-tiny on {device}: least cosine to the CPU's", f"{cosine(a[:, :4], b[:, :4]):.6f}")
    report(f"yolov3-tiny on {device}: one frame", f"{milliseconds(lambda: on_gpu.detect(frame)):.2f} ms")
    assert cosine(a[:, :4], b[:, :4]) >= 0.999
    assert np.abs(a[:, 4:] - b[:, 4:]).max() < 0.02
    on_gpu.close()


def test_masks_polygons_and_frames_on_the_gpu(
    tensorrt: object, engines: Path, frame: np.ndarray, boxes: np.ndarray, cuda: Cuda
) -> None:
    on_gpu, on_cpu = (Embedder(engines / "mobilenetv2.onnx", device=device) for device in ("tensorrt", "cpu"))
    assert on_gpu._gpu is not None
    masks = np.zeros((len(boxes), *frame.shape[:2]), bool)
    masks[:, ::2] = True
    polygons = [[x, y, x + w, y, x + w / 2, y + h] for x, y, w, h in boxes]
    for arguments in ({"masks": masks}, {"polygons": polygons}):
        assert cosine(on_gpu.embed(frame, boxes, **arguments), on_cpu.embed(frame, boxes, **arguments)) >= 0.999
    with cuda.current():
        staged, address, stream = cuda.pinned(frame.nbytes), cuda.alloc(frame.nbytes), cuda.stream()
        staged[:] = frame.reshape(-1)
        cuda.upload(address, staged, stream)
        cuda.synchronize(stream)
        interface = {"shape": frame.shape, "typestr": "|u1", "data": (address, False), "version": 3, "stream": None}
        held = type("Frame", (), {"shape": frame.shape, "__cuda_array_interface__": interface})()
        np.testing.assert_array_equal(on_gpu.embed(held, boxes), on_gpu.embed(frame, boxes))
        cuda.free(address)
        cuda.free_pinned(staged)
        cuda.free_stream(stream)
    on_gpu.close()


def test_a_soak_takes_no_more_memory(
    cuda: Cuda, embedder: Embedder, frame: np.ndarray, device: str, report: Report
) -> None:
    rng = np.random.default_rng(3)

    def some() -> None:
        count = int(rng.integers(0, 70))
        embedder.embed(frame, np.column_stack([rng.uniform(0, 1800, (count, 2)), rng.uniform(5, 100, (count, 2))]))

    for _ in range(100):
        some()
    with cuda.current():
        before = cuda.memory()[0]
    for _ in range(2000):
        some()
    with cuda.current():
        grown = before - cuda.memory()[0]
    report(f"2000 calls on {device}: device memory grown by", f"{grown / 2**20:.1f} MiB")
    assert grown < 16 << 20


def test_opening_and_closing_takes_no_more_memory(tensorrt: object, cuda: Cuda, engines: Path) -> None:
    def once() -> int:
        Embedder(engines / "mobilenetv2.onnx", device="tensorrt").close()
        with cuda.current():
            return cuda.memory()[0]

    once()
    before = once()
    for _ in range(10):
        after = once()
    assert before - after < 16 << 20


def test_two_threads(embedder: Embedder, frame: np.ndarray, boxes: np.ndarray) -> None:
    expected = embedder.embed(frame, boxes)
    cosines: list[float] = []

    def use() -> None:
        cosines.extend(cosine(embedder.embed(frame, boxes), expected) for _ in range(50))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert min(cosines) > 0.99999


def test_two_trackers(engines: Path, frame: np.ndarray, device: str) -> None:
    trackers = [
        EdgeDeepSort(embedder_wts=engines / "mobilenetv2.onnx", embedder_gpu=device, n_init=1) for _ in range(2)
    ]
    raw = [([100.0 + 200 * index, 100, 80, 160], 0.9, "person") for index in range(8)]
    for _ in range(5):
        seen = [[track.track_id for track in tracker.update_tracks(raw, frame=frame)] for tracker in trackers]
        assert seen[0] == seen[1]
    assert len(seen[0]) == 8
