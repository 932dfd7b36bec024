"""Examination of the machine: platform, GPU, driver, libraries."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from edge_tracker.app.doctor.finding import Finding, attempt, failed
from edge_tracker.errors import DeviceError
from edge_tracker.inference.builder import import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.version import __version__

# An ONNX file of one Identity node on a float. A provider that runs it counts as working.
_TINY_ONNX = bytes.fromhex(
    "08083a3a0a100a017812017922084964656e74697479120474696e795a0f0a0178120a0a"
    "08080112040a020801620f0a0179120a0a08080112040a02080142040a001011"
)


def examine_machine() -> Iterator[Finding]:
    """Examine the machine."""
    yield Finding("edge-tracker", f"{__version__}, Python {platform.python_version()}, {platform.machine()}")
    yield from _platform()
    yield _driver()
    yield from _libraries()
    yield from _onnxruntime()
    yield _opencv()
    yield _numba()


def _platform() -> Iterator[Finding]:
    model = _read("/proc/device-tree/model").strip("\0 \n")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read("/etc/nv_tegra_release"))
    if model or release:
        l4t = f"{release[1]}.{release[2]}" if release else "unknown"
        jetpack = {"35": "5", "36": "6", "38": "7"}.get(l4t.split(".")[0], "unknown")
        yield Finding("platform", f"{model or 'Jetson'}, L4T {l4t}, JetPack {jetpack}")
    try:
        cuda = open_cuda()
        with cuda.current():
            free, total = cuda.memory()
    except DeviceError as error:
        if _has_nvidia():
            yield failed("GPU", "none that can be used", error)
        else:
            yield Finding("GPU", "no NVIDIA GPU")
    else:
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield Finding("GPU", f"{cuda.gpu.name}, compute capability {cuda.gpu.capability}, {memory}")


def _has_nvidia() -> bool:
    """True if the machine has an NVIDIA GPU in any state: a Jetson's, a PCI device, or a driver that loads."""
    vendors = (_read(str(path)).strip() for path in Path("/sys/bus/pci/devices").glob("*/vendor"))
    return bool(_read("/etc/nv_tegra_release")) or "0x10de" in vendors or _loads("libcuda.so.1")


def _driver() -> Finding:
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        if not _has_nvidia():
            return Finding("driver", "none")
        fix = "install the NVIDIA driver; in a container, run it with --runtime nvidia or --gpus all"
        return Finding("driver", "none", "libcuda.so.1 cannot be loaded, so there is no CUDA", fix)
    module = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", _read("/proc/driver/nvidia/version"))
    name = f"{module[1]}, " if module else ""
    return Finding("driver", f"{name}CUDA {version.value // 1000}.{version.value % 1000 // 10}")


def _libraries() -> Iterator[Finding]:
    toolkit = _read("/usr/local/cuda/version.json")
    found = re.search(r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([^"]+)"', toolkit)
    yield Finding("CUDA toolkit", found[1] if found else "none (only needed by the kernels of pycuda)")
    try:
        version = ctypes.CDLL("libcudnn.so.9").cudnnGetVersion()
        yield Finding("cuDNN", f"{version // 10000}.{version % 10000 // 100}.{version % 100}")
    except OSError:
        wheel = _version("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
        yield Finding("cuDNN", wheel or "none (ONNX Runtime's CUDA provider needs version 9)")
    try:
        yield Finding("TensorRT", str(import_tensorrt().__version__))
    except DeviceError as error:
        yield failed("TensorRT", "none", error) if _has_nvidia() else Finding("TensorRT", "none")
    for library in ("pycuda", "cuda-bindings", "tritonclient"):
        yield Finding(library, _version(library) or "none")


def _onnxruntime() -> Iterator[Finding]:
    from edge_tracker.inference.onnx import PROVIDERS, gpu_providers, onnxruntime

    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    both, fix = "", ""
    if cpu and gpu:
        both = "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files"
        fix = (
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu (or onnxruntime, for the CPU)"
        )
    try:
        value = str(onnxruntime().__version__)
    except DeviceError as error:
        yield Finding("ONNX Runtime", "none", both, fix) if both else failed("ONNX Runtime", "none", error)
        return
    yield Finding("ONNX Runtime", value, both, fix)
    for device in [*gpu_providers(), "cpu"]:
        yield attempt(f"  {PROVIDERS[device]}", partial(run_tiny, device), "listed, but does not load")


def _opencv() -> Finding:
    import cv2

    build = cv2.getBuildInformation()
    has = {name: bool(re.search(rf"{name}:\s+YES", build)) for name in ("GStreamer", "FFMPEG")}
    value = f"{cv2.__version__}, " + ", ".join(
        f"{'with' if there else 'without'} {name}" for name, there in has.items()
    )
    if not has["GStreamer"] and _read("/etc/nv_tegra_release"):
        fix = "pip uninstall opencv-python, so that JetPack's own OpenCV is found"
        return Finding("OpenCV", value, "no GStreamer, so no CSI cameras and no hardware decoding", fix)
    return Finding("OpenCV", value)


def _numba() -> Finding:
    import numba

    from edge_tracker import tracking

    chosen = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(chosen) if chosen else Path(tracking.__file__).parent
    count = len(list(folder.rglob("*.nbi")))
    value = f"{numba.__version__}, {count} compiled functions in {folder}"
    if not count:
        return Finding("Numba", value, "nothing is compiled yet, so the first run takes longer", "edge-tracker warmup")
    return Finding("Numba", value)


def run_tiny(device: str) -> str:
    """Run a tiny model on a device, since ONNX Runtime lists providers that it cannot load.

    Raises:
        DeviceError: it does not run.
    """
    from edge_tracker.inference.onnx import OnnxModel

    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny.onnx"
        tiny.write_bytes(_TINY_ONNX)
        OnnxModel(tiny, device).close()
    return "works"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _version(*distributions: str) -> str:
    """The version of the first installed package of these; "" if there is none."""
    installed = [found for name in distributions for found in metadata.distributions(name=name)]
    return installed[0].version if installed else ""


def _read(path: str) -> str:
    """The text of a system file; "" if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
