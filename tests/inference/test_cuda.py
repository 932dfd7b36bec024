"""The crop kernel: its arithmetic on the CPU, its code through NVIDIA's compiler; and machines without CUDA."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_tracker.errors import DeviceError
from edge_tracker.inference import cuda as cuda_module
from edge_tracker.inference.cuda import compile_kernel, open_cuda

from .conftest import ROOT

SOURCE = (ROOT / "edge_tracker" / "embedding" / "crops.cu").read_text()

# Jetson Orin, RTX 30, RTX 40, H100, Jetson Thor, RTX 50.
CAPABILITIES = ["8.7", "8.6", "8.9", "9.0", "11.0", "12.0"]


def run_kernel(
    library: ctypes.CDLL, frame: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]
) -> np.ndarray:
    """The kernel's bytes for one crop, from its own source compiled for the CPU."""
    height, width = size
    out = np.zeros((height, width, 3), np.uint8)
    boxes, mask_at = np.array([box], np.int32), np.array([-1], np.int64)
    values = [
        *(np.uint64(frame.ctypes.data), np.int32(frame.strides[0]), np.uint64(boxes.ctypes.data), np.uint64(0)),
        *(np.uint64(mask_at.ctypes.data), np.uint32(0), np.uint64(out.ctypes.data), np.int32(height), np.int32(width)),
        *[np.int32(0)] * 3,
        *[np.float32(0)] * 3,
        *[np.float32(1)] * 3,
    ]
    held = [np.atleast_1d(value) for value in values]
    parameters = (ctypes.c_void_p * len(held))(*(value.ctypes.data for value in held))
    shape = (ctypes.c_uint * 6)(-(-width // 32), -(-height // 8), 1, 32, 8, 1)
    library.launch_crop_resize(shape, parameters, None)
    return out


@pytest.mark.parametrize("size", [(224, 224), (256, 128), (32, 48), (1, 1)])
def test_the_kernel_does_what_opencv_does(fake_libraries: Path, size: tuple[int, int]) -> None:
    library = ctypes.CDLL(str(fake_libraries / "kernels.so"))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (540, 960, 3), dtype=np.uint8)  # the hardest picture there is
    sides = [(1, 1), (1, 7), (2, 2), (3, 500), (size[1], size[0]), (2 * size[1], 2 * size[0]), (448, 448), (960, 540)]
    sides += [tuple(rng.integers(1, 500, 2)) for _ in range(60)]
    different = pixels = 0
    for w, h in sides:
        w, h = min(w, 960), min(h, 540)
        left, top = int(rng.integers(0, 961 - w)), int(rng.integers(0, 541 - h))
        ours = run_kernel(library, noise, (left, top, left + w, top + h), size).astype(int)
        theirs = cv2.resize(noise[top : top + h, left : left + w], size[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.abs(ours - theirs).max() <= 1, (w, h)
        different += int((ours != theirs).sum())
        pixels += ours.size
    assert different < pixels / 10_000, "nearly always it is the very same level"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nvrtc_compiles_the_kernel(tmp_path: Path, capability: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
    pytest.importorskip("nvidia", reason="needs nvidia-cuda-nvrtc")
    cubin = compile_kernel(SOURCE, capability, tmp_path)
    assert cubin[:4] == b"\x7fELF"
    assert b"crop_resize" in cubin
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [cubin]
    assert compile_kernel(SOURCE, capability, Path("/proc/no/such")) == cubin, "a cache that cannot be written is none"


def test_what_nvrtc_says_of_an_error(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
    pytest.importorskip("nvidia", reason="needs nvidia-cuda-nvrtc")
    with pytest.raises(DeviceError, match=r'sm_87: .*identifier "nonsense" is undefined'):
        compile_kernel('extern "C" __global__ void k() { nonsense; }', "8.7", tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cuda", "cuda.bindings", "pycuda"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DeviceError, match=r"neither NVRTC nor pycuda is installed; pip install nvidia-cuda-nvrtc"):
        compile_kernel(SOURCE, "8.7", tmp_path)


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cuda", "cuda.bindings", "pycuda"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(cuda_module, "_opened", [])
    with pytest.raises(
        DeviceError, match=r"neither pycuda \(.*\) nor cuda-bindings \(.*\) can be imported; pip install"
    ):
        open_cuda()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has a CUDA driver")
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
    with pytest.raises(DeviceError, match=r"no CUDA driver .*; install the NVIDIA driver"):
        open_cuda()
