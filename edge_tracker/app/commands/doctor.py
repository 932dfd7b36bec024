"""`edge-tracker doctor`: what this machine has, what is wrong with it, and what would put it right."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from edge_tracker.app.config.named_models import served_models, wanted_models
from edge_tracker.app.config.schema import Config
from edge_tracker.errors import DeviceError, EdgeTrackerError
from edge_tracker.inference.builder import EngineOptions, import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.inference.engines import check_fits, ensure_engine, load_engine_bytes
from edge_tracker.inference.locate import find_model, model_folders
from edge_tracker.inference.manifest import onnx_metadata, read_manifest
from edge_tracker.inference.triton.client import TritonModel
from edge_tracker.version import __version__

# An ONNX file of one Identity node on a float; what a provider must run to count as working.
_TINY_ONNX = bytes.fromhex(
    "08083a3a0a100a017812017922084964656e74697479120474696e795a0f0a0178120a0a"
    "08080112040a020801620f0a0179120a0a08080112040a02080142040a001011"
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: its name.
        value: what was found.
        problem: what is wrong with it; "" if nothing is.
        fix: what puts it right.
        needed: whether the given configuration cannot run with the problem.
    """

    what: str
    value: str
    problem: str = ""
    fix: str = ""
    needed: bool = False


def examine(config: Config | None = None) -> list[Finding]:
    """Look at the machine, and at what a configuration needs of it."""
    findings = [
        Finding("edge-tracker", f"{__version__}, Python {platform.python_version()}, {platform.machine()}"),
        *_platform(),
        _driver(),
        *_libraries(),
        *_onnxruntime(),
        _opencv(),
        _numba(),
        *_models(),
    ]
    if config is not None:
        findings += _needs(config)
    return findings


def to_text(findings: list[Finding]) -> str:
    """A line for each, problems and their fixes under it."""
    width = max(len(finding.what) for finding in findings) + 2
    lines = []
    for finding in findings:
        lines.append(f"{finding.what:<{width}}{finding.value}".rstrip())
        if finding.problem:
            lines.append(f"{'':<{width}}{'NEEDED' if finding.needed else 'problem'}: {finding.problem}")
        if finding.fix:
            lines.append(f"{'':<{width}}fix: {finding.fix}")
    return "\n".join(lines)


def to_json(findings: list[Finding]) -> str:
    return json.dumps({"ok": is_ok(findings), "findings": [asdict(finding) for finding in findings]}, indent=1)


def is_ok(findings: list[Finding]) -> bool:
    """Whether the configuration that was given can run."""
    return not any(finding.needed and finding.problem for finding in findings)


# ---- the machine -----------------------------------------------------------------------------------------------------


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
            yield _failed("GPU", "none that can be used", error)
        else:
            yield Finding("GPU", "no NVIDIA GPU")
    else:
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield Finding("GPU", f"{cuda.gpu.name}, compute capability {cuda.gpu.capability}, {memory}")


def _has_nvidia() -> bool:
    """Whether the machine has an NVIDIA GPU, whatever its state: a Jetson's, a PCI device, or a driver that loads."""
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
    yield Finding("CUDA toolkit", found[1] if found else "none (only pycuda's kernels need one)")
    try:
        version = ctypes.CDLL("libcudnn.so.9").cudnnGetVersion()
        yield Finding("cuDNN", f"{version // 10000}.{version % 10000 // 100}.{version % 100}")
    except OSError:
        wheel = _version("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
        yield Finding("cuDNN", wheel or "none (ONNX Runtime's CUDA provider needs version 9)")
    try:
        yield Finding("TensorRT", str(import_tensorrt().__version__))
    except DeviceError as error:
        yield _failed("TensorRT", "none", error) if _has_nvidia() else Finding("TensorRT", "none")
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
        yield Finding("ONNX Runtime", "none", both, fix) if both else _failed("ONNX Runtime", "none", error)
        return
    yield Finding("ONNX Runtime", value, both, fix)
    for device in [*gpu_providers(), "cpu"]:
        yield _attempt(f"  {PROVIDERS[device]}", partial(_run_tiny, device), "listed, but does not load")


def _run_tiny(device: str) -> str:
    """Whether ONNX Runtime truly runs on a device: it lists providers that it cannot load."""
    from edge_tracker.inference.onnx import OnnxModel

    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny.onnx"
        tiny.write_bytes(_TINY_ONNX)
        OnnxModel(tiny, device).close()
    return "works"


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


# ---- models ----------------------------------------------------------------------------------------------------------


def _models() -> Iterator[Finding]:
    """Every model and engine in the folders that are searched."""
    folders = [folder for folder in dict.fromkeys(model_folders()) if folder.is_dir()]
    if not folders:
        looked = ", ".join(map(str, model_folders()))
        yield Finding("models", "none", f"no folder of models: {looked}", "make export, or copy the models there")
    for folder in folders:
        yield Finding("models in", str(folder))
        for path in sorted(folder.glob("*.onnx")):
            yield _attempt(f"  {path.name}", partial(_check_onnx, path), "not usable")
        for path in sorted(folder.glob("*.engine")):
            yield _attempt(f"  {path.name}", partial(_check_engine, path), "not usable")


def _check_onnx(path: Path) -> str:
    manifest = read_manifest(path, onnx_metadata(path.read_bytes()))
    return f"{manifest.task}, {manifest.precision}" if manifest else "no manifest (not from make export)"


def _check_engine(path: Path) -> str:
    _, manifest = load_engine_bytes(path)
    if manifest is None:
        return "no manifest (not built by edge-tracker)"
    made = manifest.requirements
    value = f"{made['library']}, {made['gpu']}, {made['precision']}, batch {made['profile']}"
    try:
        trt, gpu = import_tensorrt(), open_cuda().gpu
    except DeviceError:
        return f"{value}; whether it fits cannot be told here"
    check_fits(path, manifest, trt, gpu)
    return value


# ---- what a configuration needs --------------------------------------------------------------------------------------


def _needs(config: Config) -> Iterator[Finding]:
    needed = partial(_attempt, otherwise="not there", needed=True)
    if config.device in ("cuda", "tensorrt"):
        yield needed(f"device {config.device}", partial(_check_device, config.device))
    for what, model, options in wanted_models(config):
        yield needed(what, partial(_find, model))
        if config.device in ("auto", "tensorrt"):
            with suppress(EdgeTrackerError):  # no model, or no TensorRT: said already
                yield needed(f"{what}, engine", _engine_check(find_model(model), options))

    for what, address in served_models(config):
        section = config.embedder if what == "embedder.model" else config.detector
        yield _attempt(what, partial(_ask_server, address), "not there", needed=section.fallback is None)


def _ask_server(address: str) -> str:
    """What a server says of a model, and whether it runs it."""
    model = TritonModel(address)
    try:
        manifest = model.manifest
        kind = f"{manifest.task}, {manifest.precision}" if manifest else "no manifest (not from make export)"
        return f"{address}: {kind}, up to {model.batch_limit} at once" if model.batch_limit else f"{address}: {kind}"
    finally:
        model.close()


def _find(model: str) -> str:
    return str(find_model(model))


def _check_device(device: str) -> str:
    if device == "tensorrt":
        try:
            import_tensorrt()
            open_cuda()
            return "works"
        except DeviceError as error:
            reason = error
        try:
            return f"{_run_tiny(device)}, in ONNX Runtime"
        except DeviceError as error:
            raise reason from error
    return _run_tiny(device)


def _engine_check(path: Path, options: EngineOptions) -> Callable[[], str]:
    """What looks for the engine of a model and returns its name. Raises where there is no TensorRT."""
    trt, gpu = import_tensorrt(), open_cuda().gpu
    if path.suffix.lower() == ".engine":
        return partial(_check_engine, path)
    return lambda: str(ensure_engine(path, options, build=False, trt=trt, gpu=gpu))


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _attempt(what: str, check: Callable[[], str], otherwise: str, needed: bool = False) -> Finding:
    """What a check says, or its error as a problem."""
    try:
        return Finding(what, check(), needed=needed)
    except EdgeTrackerError as error:
        return _failed(what, otherwise, error, needed)


def _failed(what: str, value: str, error: EdgeTrackerError, needed: bool = False) -> Finding:
    """A finding of an error: its message is the problem, and what puts it right after a semicolon."""
    problem, _, fix = str(error).partition("; ")
    return Finding(what, value, problem, fix, needed)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _version(*distributions: str) -> str:
    """The version of the first of these packages that is installed; "" if none is."""
    installed = [found for name in distributions for found in metadata.distributions(name=name)]
    return installed[0].version if installed else ""


def _read(path: str) -> str:
    """A system file's text; "" if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
