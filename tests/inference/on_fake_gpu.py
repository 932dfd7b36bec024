"""Running engines, on the fakes of TensorRT and of the CUDA driver.

Run by test_tensorrt.py in a process of its own, once for each TensorRT version: a process can have one CUDA driver.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper

if "FAKE_PYCUDA_LAZY" in os.environ:  # a real pycuda wants more of the driver than the fake has
    sys.setdlopenflags(os.RTLD_LAZY)

from edge_tracker.embedding import gpu_crops as cuda_crops
from edge_tracker.embedding.embedder import Embedder
from edge_tracker.embedding.gpu_crops import GpuCrops
from edge_tracker.errors import DeviceError, InputError, ModelError
from edge_tracker.inference import EngineOptions, load_model
from edge_tracker.inference.cuda import Cuda, compile_kernel, open_cuda
from edge_tracker.inference.engines import ensure_engine, manifest_path
from edge_tracker.inference.manifest import METADATA_KEY, ImageInput, ModelManifest
from edge_tracker.inference.onnx import OnnxModel
from edge_tracker.inference.tensorrt import TensorRTModel
from tests.graphs import save_graph

from .conftest import write_toy

driver = ctypes.CDLL("libcuda.so.1")
gc.freeze()  # collecting is quick then, and every test does
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700
VERSION = os.environ["FAKE_TENSORRT"]


@pytest.fixture
def cuda() -> Cuda:
    return open_cuda()


@pytest.fixture(autouse=True)
def _nothing_is_left(cuda: Cuda) -> Iterator[None]:
    """Every test gives back what it took, and leaves no context on the thread."""
    before = driver.fake_live()
    yield
    driver.fake_reset()
    gc.collect()
    assert driver.fake_live() == before
    assert not has_context()


def has_context() -> bool:
    context = ctypes.c_void_p()
    return driver.cuCtxGetCurrent(ctypes.byref(context)) == 0 and bool(context.value)


def fail(function: str, result: int, after: int = 0) -> None:
    driver.fake_fail(function.encode(), result, after)


def source(onnx: Path) -> Path:
    """The file that the engine is built from."""
    return onnx if VERSION.startswith("8.") else onnx.with_name(f"{onnx.stem}.fp16.onnx")


def engine(onnx: Path, **options: Any) -> Path:
    return ensure_engine(onnx, EngineOptions(**options))


def images(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def model(toy: Path) -> Iterator[TensorRTModel]:
    opened = TensorRTModel(engine(toy, batch=4, typical_batch=2))
    yield opened
    opened.close()


# ---- results ---------------------------------------------------------------------------------------------------------


def test_tensors(model: TensorRTModel) -> None:
    assert [str(tensor) for tensor in model.inputs] == ["images (?, 32, 32, 3) uint8"]
    assert [str(tensor) for tensor in model.outputs] == ["features (?, 8) float32"]
    assert (model.device, model.batch) == ("tensorrt", 4)
    assert model.manifest is None


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 23])
def test_batches_of_any_size(model: TensorRTModel, toy: Path, count: int) -> None:
    batch = images(count)
    expected = OnnxModel(source(toy), "cpu").run({"images": batch})
    for _ in range(2):
        (features,) = model.run({"images": batch})
        np.testing.assert_array_equal(features, expected[0])
    assert features.shape == (count, 8)


def test_results_belong_to_the_caller(model: TensorRTModel) -> None:
    first = model.run({"images": images(2)})[0]
    kept = first.copy()
    model.run({"images": images(4)})
    np.testing.assert_array_equal(first, kept)


def test_nothing_in_nothing_out(model: TensorRTModel) -> None:
    assert model.run({"images": images(0)})[0].shape == (0, 8)


def test_the_next_batch_is_uploaded_while_one_is_computed(
    model: TensorRTModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    cuda = model.cuda
    for name in ("upload", "download", "synchronize"):
        original = getattr(cuda, name)
        monkeypatch.setattr(cuda, name, lambda *a, name=name, original=original: (order.append(name), original(*a)))
    model.run({"images": images(12)})
    assert order == ["upload", "download"] * 2 + ["synchronize", "upload", "download", "synchronize", "synchronize"]


def test_views_and_strides(model: TensorRTModel, toy: Path) -> None:
    batch = images(6)[::2, :, ::-1]
    expected = OnnxModel(source(toy), "cpu").run({"images": batch})
    np.testing.assert_array_equal(model.run({"images": batch})[0], expected[0])


def test_a_fixed_batch_is_padded(tmp_path: Path) -> None:
    onnx = write_toy(tmp_path, batch=4)
    opened = TensorRTModel(engine(onnx))
    batch = images(6)
    expected = [OnnxModel(source(onnx), "cpu").run({"images": images(8)[:4] * 0 + row}) for row in batch]
    np.testing.assert_array_equal(opened.run({"images": batch})[0], [rows[0][0] for rows in expected])
    opened.close()


def test_a_dla_s_one_batch_is_padded(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DLA_CORES", "1")
    opened = TensorRTModel(engine(toy, batch=4, dla_core=0))
    expected = OnnxModel(source(toy), "cpu").run({"images": images(5)})
    np.testing.assert_array_equal(opened.run({"images": images(5)})[0], expected[0])
    opened.close()


def test_two_models_and_four_threads(model: TensorRTModel, tmp_path: Path, toy: Path) -> None:
    other_onnx = write_toy(tmp_path, "other", size=16)
    other = TensorRTModel(engine(other_onnx, batch=2))
    work = [(model, images(7), source(toy)), (other, images(5, 16), source(other_onnx))]
    wrong: list[BaseException] = []

    def use(opened: TensorRTModel, batch: np.ndarray, onnx: Path) -> None:
        try:
            expected = OnnxModel(onnx, "cpu").run({"images": batch})
            for _ in range(10):
                np.testing.assert_array_equal(opened.run({"images": batch})[0], expected[0])
            assert not has_context()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=work[index % 2]) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
    other.close()


def test_another_library_s_context_is_left_alone(model: TensorRTModel) -> None:
    theirs = ctypes.c_void_p()
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(theirs), 0)
    driver.cuCtxPushCurrent_v2(theirs)
    model.run({"images": images(1)})
    now = ctypes.c_void_p()
    driver.cuCtxPopCurrent_v2(ctypes.byref(now))
    driver.cuDevicePrimaryCtxRelease_v2(0)
    assert now.value == theirs.value


def test_closed(model: TensorRTModel) -> None:
    model.close()
    model.close()
    with pytest.raises(ModelError, match="the model is closed"):
        model.run({"images": images(1)})


@pytest.mark.parametrize(
    "feeds", [{}, {"images": images(1, 16)}, {"images": images(1).astype(np.float32)}, {"images": np.uint8(1)}]
)
def test_feeds_that_do_not_fit(model: TensorRTModel, feeds: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"takes images \(\?, 32, 32, 3\) uint8, got "):
        model.run(feeds)


# ---- failures --------------------------------------------------------------------------------------------------------


def test_no_memory_for_any_of_the_buffers(toy: Path) -> None:
    path = engine(toy)
    before = driver.fake_live()
    for after in range(4):  # two inputs, two outputs
        driver.fake_reset()
        fail("cuMemAlloc_v2", OUT_OF_MEMORY, after)
        with pytest.raises(DeviceError, match="the GPU is out of memory; close other programs or lower the batch"):
            TensorRTModel(path)
        gc.collect()
        assert driver.fake_live() == before
        assert not has_context()


@pytest.mark.parametrize("what", ["context", "address", "shape", "execute"])
def test_tensorrt_fails(toy: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = engine(toy)
    monkeypatch.setenv("FAKE_TENSORRT_FAIL", what)
    with pytest.raises((DeviceError, ModelError), match=f"{path.name}: "):  # noqa: PT012
        opened = TensorRTModel(path)
        try:
            opened.run({"images": images(1)})
        finally:
            opened.close()


@pytest.mark.parametrize(
    "function", ["cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuEventRecord", "cuEventSynchronize"]
)
@pytest.mark.parametrize("after", [0, 1])
def test_cuda_fails_once(model: TensorRTModel, toy: Path, function: str, after: int) -> None:
    fail(function, 1, after)
    with pytest.raises(DeviceError, match="CUDA: cu"):
        model.run({"images": images(12)})
    driver.fake_reset()
    expected = OnnxModel(source(toy), "cpu").run({"images": images(9)})
    np.testing.assert_array_equal(model.run({"images": images(9)})[0], expected[0])


def test_a_lost_gpu_is_an_error_and_no_more(toy: Path) -> None:
    opened = TensorRTModel(engine(toy))
    fail("cuMemcpyHtoDAsync_v2", ILLEGAL_ADDRESS)
    with pytest.raises(DeviceError, match="CUDA: cuMemcpyHtoDAsync"):
        opened.run({"images": images(1)})
    fail("cuCtxPushCurrent_v2", ILLEGAL_ADDRESS)
    with pytest.raises(DeviceError, match="CUDA: cuCtxPushCurrent"):
        opened.run({"images": images(1)})
    opened.close()
    driver.fake_reset()
    opened.close()


def test_a_truncated_engine(toy: Path) -> None:
    path = engine(toy)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"truncated: \d+ bytes, \d+ were built; build it"):
        load_model(path)
    manifest_path(path).unlink()
    with pytest.raises(ModelError, match=r"not an engine that TensorRT .* can load \(Serialization assertion"):
        load_model(path)


def test_a_foreign_engine(toy: Path) -> None:
    path = engine(toy)
    manifest_path(path).unlink()
    path.write_bytes(path.read_bytes().replace(b'"tensorrt": "', b'"tensorrt": "9', 1))
    with pytest.raises(ModelError, match=r"can load \(The engine plan file is for 9"):
        load_model(path)
    path.write_bytes(b"MZ, a program")
    with pytest.raises(ModelError, match="not an engine"):
        load_model(path)


def test_an_engine_without_a_manifest_that_loads(toy: Path) -> None:
    path = engine(toy)
    manifest_path(path).unlink()
    opened = load_model(path)
    assert opened.run({"images": images(1)})[0].shape == (1, 8)
    opened.close()


def test_an_engine_of_another_gpu(toy: Path, cuda: Cuda) -> None:
    path = engine(toy)
    other = ensure_engine(toy, EngineOptions(), gpu=type(cuda.gpu)("NVIDIA H100", "9.0"))
    load_model(path).close()
    with pytest.raises(ModelError, match=r"gpu: built for NVIDIA H100, SM 9.0, here Orin, SM 8.7; build it"):
        load_model(other)


def test_only_our_own_version_compatible_engines_may_bring_code(toy: Path) -> None:
    path = engine(toy, version_compatible=True)
    path.write_bytes(path.read_bytes().replace(b'"tensorrt": "', b'"tensorrt": "0', 1))  # by an earlier version
    manifest = json.loads(manifest_path(path).read_text())
    manifest |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest_path(path).write_text(json.dumps(manifest))
    load_model(path).close()
    manifest_path(path).unlink()
    with pytest.raises(ModelError, match="The engine plan file is for 0"):
        load_model(path)


def test_dynamic_outputs_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("NonZero", ["x"], ["y"]),
    ]
    save_graph(tmp_path / "n.onnx", nodes, {"images": ("uint8", ["n", 4])}, {"y": ("int64", [2, "found"])})
    with pytest.raises(ModelError, match=r"tensor y \(2, -1\) has dynamic sizes besides the batch"):
        load_model(tmp_path / "n.onnx", "tensorrt")


# ---- which device ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["auto", "tensorrt"])
def test_the_engine_is_built_and_taken(toy: Path, device: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    opened = load_model(toy, device)
    assert isinstance(opened, TensorRTModel)
    assert "toy.onnx runs on tensorrt" in caplog.text
    opened.close()
    load_model(toy, device, build=False).close()


@pytest.mark.parametrize("device", ["auto", "tensorrt"])
def test_no_build(toy: Path, device: str) -> None:
    with pytest.raises(ModelError, match="there is no engine yet; build it on this machine: edge-tracker build"):
        load_model(toy, device, build=False)


def test_a_model_that_tensorrt_cannot_build(
    toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_FAIL", "build")
    with pytest.raises(ModelError, match="cannot build it"):
        load_model(toy, "tensorrt")
    opened = load_model(toy, "auto")
    assert opened.device == "cpu"
    assert "cannot build it" in caplog.text
    opened.close()


def test_export_builds_engines_where_it_can(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.__main__ import build_engines

    made: Any = [SimpleNamespace(name="toy", precision=precision, path=toy) for precision in ("fp32", "fp16")]
    assert build_engines(made) == 0
    assert [path.name.split(".")[1] for path in toy.parent.glob("*.engine")] == ["fp16"]
    monkeypatch.setenv("FAKE_TENSORRT_FAIL", "build")
    write_toy(toy.parent, version="2")
    assert build_engines(made) == 1
    assert "cannot build it" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert build_engines(made) == 0


def test_cpu_means_cpu(toy: Path) -> None:
    opened = load_model(toy, "cpu")
    assert opened.device == "cpu"
    with pytest.raises(ModelError, match="an engine runs on a GPU only"):
        load_model(engine(toy), "cpu")


# ---- crops -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def frame() -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


LTWH = [[10, 20, 100, 150], [-20, -5, 60, 70], [300, 200, 90, 90], [50, 60, 1, 1], [400, 10, 5, 5], [7.9, 9.9, 33, 65]]


def same(a: np.ndarray, b: np.ndarray) -> None:
    """Features of crops that are within a grey level of each other."""
    assert a.shape == b.shape
    assert np.abs(a - b).max() < 0.02
    assert np.abs(b).max() > 0.3


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("hidden", ["nothing", "masks", "polygons"])
@pytest.mark.parametrize("count", [6, 1, 0])
def test_features_as_on_the_cpu(toy: Path, frame: np.ndarray, bgr: bool, hidden: str, count: int) -> None:
    arguments: dict[str, Any] = {}
    if hidden == "masks":
        arguments["masks"] = list(np.random.default_rng(2).random((6, 240, 320)) < 0.7)[:count]
    if hidden == "polygons":
        arguments["polygons"] = [[10, 10, 90, 30, 40, 200]] * count
    on_gpu, on_cpu = (
        Embedder(file, device=d, bgr=bgr, batch=4) for file, d in ((toy, "tensorrt"), (source(toy), "cpu"))
    )
    assert on_gpu._gpu is not None
    for _ in range(2):
        features = on_gpu.embed(frame, LTWH[:count], **arguments)
        if count:
            same(features, on_cpu.embed(frame, LTWH[:count], **arguments))
    assert features.shape == (count, 8)
    same(np.stack(on_gpu.predict([frame])), np.stack(on_cpu.predict([frame])))
    on_gpu.close()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_normalised_in_any_layout(tmp_path: Path, frame: np.ndarray, layout: str, color: str) -> None:
    spec = ImageInput("images", 32, 16, layout, "float32", color, (120.0, 110.0, 100.0), (50.0, 60.0, 70.0))
    onnx = write_identity(tmp_path, spec)
    on_gpu, on_cpu = (Embedder(onnx, device=device, batch=4, half=False) for device in ("tensorrt", "cpu"))
    assert on_gpu._gpu is not None
    a, b = on_gpu.embed(frame, LTWH), on_cpu.embed(frame, LTWH)
    assert np.abs(a - b).max() <= 1 / 50 + 1e-5, "more than one grey level of the smallest deviation"
    assert np.abs(b).max() > 1
    on_gpu.close()


def write_identity(folder: Path, spec: ImageInput) -> Path:
    """An embedder whose features are its input."""
    shape = [3, spec.height, spec.width] if spec.layout == "NCHW" else [spec.height, spec.width, 3]
    size = 3 * spec.height * spec.width
    manifest = ModelManifest("same", "embedder", "none", spec, "features", dimension=size)
    return save_graph(
        folder / "same.onnx",
        [helper.make_node("Flatten", ["images"], ["features"])],
        {"images": ("float32", ["n", *shape])},
        {"features": ("float32", ["n", size])},
        metadata={METADATA_KEY: manifest.to_json()},
    )


class OnGpu:
    """A frame in device memory, as PyTorch or CuPy would hand it over."""

    def __init__(self, cuda: Cuda, frame: np.ndarray, pitch: int | None = None, stream: Any = None) -> None:
        self.cuda, self.shape = cuda, frame.shape
        height, width = frame.shape[:2]
        pitch = pitch or 3 * width
        with cuda.current():
            self.address, staged = cuda.alloc(height * pitch), cuda.pinned(height * pitch)
            rows = staged.reshape(height, pitch)
            rows[:, : 3 * width] = frame.reshape(height, -1)
            self.stream = cuda.stream()
            cuda.upload(self.address, staged, self.stream)  # is not there yet, only on its way
            self.staged = staged
            if stream is None:
                cuda.synchronize(self.stream)
        self.__cuda_array_interface__ = {
            "shape": frame.shape,
            "typestr": "|u1",
            "data": (self.address, False),
            "strides": (pitch, 3, 1) if pitch != 3 * width else None,
            "stream": cuda.handle(self.stream) if stream else None,
            "version": 3,
        }

    def free(self) -> None:
        with self.cuda.current():
            self.cuda.synchronize(self.stream)
            self.cuda.free_stream(self.stream)
            self.stream = None
            self.cuda.free(self.address)
            self.cuda.free_pinned(self.staged)


@pytest.mark.parametrize("pitch", [None, 1024])
@pytest.mark.parametrize("stream", [None, True])
def test_a_frame_on_the_gpu_stays_there(
    toy: Path, frame: np.ndarray, cuda: Cuda, pitch: int | None, stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu, on_cpu = (Embedder(file, device=device) for file, device in ((toy, "tensorrt"), (source(toy), "cpu")))
    held = OnGpu(cuda, frame, pitch, stream)
    sizes: list[int] = []
    upload = cuda.upload
    monkeypatch.setattr(cuda, "upload", lambda to, array, on: (sizes.append(array.nbytes), upload(to, array, on)))
    features = on_gpu.embed(held, LTWH)  # type: ignore[arg-type]
    same(features, on_cpu.embed(frame, LTWH))
    assert max(sizes) < 1000, "only boxes are uploaded"
    monkeypatch.undo()
    held.free()
    on_gpu.close()


def test_frames_that_are_none(toy: Path, frame: np.ndarray, cuda: Cuda) -> None:
    embedder = Embedder(toy, device="tensorrt")
    with pytest.raises(InputError, match=r"array \(height, width, 3\) of uint8, not"):
        embedder.embed(frame.astype(np.float32), LTWH)
    with pytest.raises(InputError, match=r"array \(height, width, 3\) of uint8, not"):
        embedder.embed(frame[..., 0], LTWH)
    with pytest.raises(InputError, match=r"array \(height, width, 3\) of uint8, not"):
        embedder.embed(None, LTWH)  # type: ignore[arg-type]
    held = OnGpu(cuda, frame)
    held.__cuda_array_interface__["strides"] = (960, 1, 320)
    with pytest.raises(InputError, match="adjacent in memory"):
        embedder.embed(held, LTWH)  # type: ignore[arg-type]
    held.free()
    embedder.close()


def test_a_crop_off_the_frame_never_reaches_the_gpu(model: TensorRTModel, frame: np.ndarray) -> None:
    crops = GpuCrops(model, ImageInput("images", 32, 32))
    for box in ((-1, 0, 5, 5), (0, 0, 321, 5), (5, 5, 5, 9), (0, 0, 5, 241)):
        with pytest.raises(InputError, match="does not lie inside"):
            crops.run(frame, [(box, None)])
    crops.close()


def test_growing_frames(toy: Path, frame: np.ndarray) -> None:
    embedder, on_cpu = Embedder(toy, device="tensorrt"), Embedder(source(toy), device="cpu")
    for side in (40, 200, 90, 240):
        same(embedder.embed(frame[:side, :side], LTWH), on_cpu.embed(frame[:side, :side], LTWH))
    embedder.close()


def test_no_kernel_no_gpu_crops(
    toy: Path, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> bytes:
        raise DeviceError("no compiler")

    monkeypatch.setattr(cuda_crops, "compile_kernel", refuse)
    embedder, on_cpu = Embedder(toy, device="tensorrt"), Embedder(source(toy), device="cpu")
    assert "no compiler; crops are made on the CPU" in caplog.text
    same(embedder.embed(frame, LTWH), on_cpu.embed(frame, LTWH))
    embedder.close()


def test_no_memory_for_the_frame(toy: Path, frame: np.ndarray) -> None:
    embedder = Embedder(toy, device="tensorrt")
    fail("cuMemAlloc_v2", OUT_OF_MEMORY)
    with pytest.raises(DeviceError, match="out of memory"):
        embedder.embed(frame, LTWH)
    driver.fake_reset()
    same(embedder.embed(frame, LTWH), Embedder(source(toy), device="cpu").embed(frame, LTWH))
    embedder.close()


def test_the_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'extern "C" __global__ void k(int *x) { *x = 1; }'
    cubin = compile_kernel(code, "8.7", tmp_path)
    assert cubin[:4] == b"\x7fELF"
    monkeypatch.setattr("edge_tracker.inference.cuda._nvrtc", None)
    assert compile_kernel(code, "8.7", tmp_path) == cubin


def test_the_library(cuda: Cuda) -> None:
    assert cuda.library == os.environ["FAKE_LIBRARY"]
    assert (cuda.gpu.name, cuda.gpu.capability) == ("Orin", "8.7")
    with cuda.current():
        free, total = cuda.memory()
        block = cuda.alloc(1 << 20)
        assert cuda.memory() == (free - (1 << 20), total)
        cuda.free(block)
