"""Models in ONNX Runtime: on the CPU, with CUDA, or with its TensorRT provider."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from edge_tracker.errors import DeviceError, ModelError
from edge_tracker.inference.manifest import read_manifest
from edge_tracker.inference.model import DEVICES, Feeds, InProcess, Outputs, TensorSpec

logger = logging.getLogger(__name__)

# In the order in which `auto` tries them.
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def onnxruntime() -> ModuleType:
    """ONNX Runtime's module.

    From 1.29 on, its wheels send usage data to Microsoft unless that is switched off before the import. A program that
    watches cameras must not, so it is switched off; `ORT_DISABLE_TELEMETRY=0` in the environment allows it.

    Raises:
        DeviceError: it is not installed, or does not load.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime cannot be imported ({_line(error)}); install it: pip install 'edge-tracker[cpu]', "
            "or 'edge-tracker[gpu]' for an NVIDIA GPU (never both)"
        ) from error
    return ort


def gpu_providers() -> list[str]:
    """Those of "tensorrt" and "cuda" that the installed ONNX Runtime was built with. They may still fail to load."""
    available = onnxruntime().get_available_providers()
    return [device for device, provider in PROVIDERS.items() if device != "cpu" and provider in available]


class OnnxModel(InProcess):
    """An ONNX file in an ONNX Runtime session. See `edge_tracker.inference.model.Model` for the attributes.

    ONNX Runtime lists providers whose libraries it cannot load, and then silently runs on the CPU. Here a device that
    is requested by name is used, or refused with the reason; "auto" uses the best one that works and logs it.

    Args:
        path: the file.
        device: "auto", "cpu", "cuda" or "tensorrt".
        threads: CPU threads; 0 for all the cores that this process may run on.

    Raises:
        ModelError: the file is not a model that ONNX Runtime can run.
        DeviceError: the device cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], device: str = "auto", threads: int = 0) -> None:
        if device not in DEVICES:
            raise DeviceError(f"unknown device {device!r}; one of {', '.join(DEVICES)}")
        self.path = Path(path)
        self.name, self.short_name = str(path), self.path.name
        if not self.path.is_file():
            raise ModelError(f"{path}: no such model file")
        ort = onnxruntime()
        if device == "auto":
            self.device, self._session = _open_auto(ort, self.path, threads)
        else:
            self.device, self._session = device, _open(ort, self.path, device, threads)
        self.inputs = tuple(_spec(tensor) for tensor in self._session.get_inputs())
        self.outputs = tuple(_spec(tensor) for tensor in self._session.get_outputs())
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.manifest = read_manifest(self.path, self.metadata)

    def run(self, feeds: Feeds) -> Outputs:
        """Compute all outputs from one array per input.

        Raises:
            ModelError: the arrays do not fit, or the model fails on the CPU.
            DeviceError: the model fails on the GPU (out of memory, a lost device).
        """
        if self._session is None:
            raise ModelError(f"{self.path}: the model is closed")
        try:
            return self._session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            kind = ModelError if self.device == "cpu" else DeviceError
            raise kind(f"{self.path}: running the model on {self.device} failed ({_line(error)})") from error

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _open_auto(ort: ModuleType, path: Path, threads: int) -> tuple[str, Any]:
    """The best device that works and the session on it."""
    refused = []
    for device in gpu_providers():
        try:
            session = _open(ort, path, device, threads)
        except DeviceError as error:
            refused.append(str(error))
        else:
            logger.info("%s runs on %s%s", path.name, device, "".join(f"; {reason}" for reason in refused))
            return device, session
    session = _open(ort, path, "cpu", threads)
    level = logging.WARNING if refused else logging.INFO
    logger.log(level, "%s runs on cpu%s", path.name, "".join(f"; {reason}" for reason in refused))
    return "cpu", session


def _open(ort: ModuleType, path: Path, device: str, threads: int) -> Any:
    """A session on this device only (operators that the GPU lacks run on the CPU)."""
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise DeviceError(
            f"device {device}: the installed onnxruntime {ort.__version__} has no {provider}; replace it: "
            "pip uninstall onnxruntime, then pip install 'edge-tracker[gpu]'"
        )
    if device != "cpu":
        _preload(ort)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Spinning workers save microseconds here, and take the core from decoding and tracking.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Its own message about a provider that does not load is replaced by the one below, which has the reason.
    ort.set_default_logger_severity(4)
    try:
        session = ort.InferenceSession(
            os.fspath(path), options, providers=_with_fallbacks(device, path), enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        if device == "cpu" or type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoSuchFile"):
            raise ModelError(f"{path}: not a usable ONNX model ({_line(error)})") from error
        raise DeviceError(f"device {device}: {_unloadable(ort, device) or _line(error)}") from error
    finally:
        ort.set_default_logger_severity(2)
    if session.get_providers()[0] != provider:
        reason = _unloadable(ort, device) or "found no usable GPU (see nvidia-smi)"
        raise DeviceError(f"device {device}: {reason}")
    return session


@cache
def _preload(ort: ModuleType) -> None:
    """Load CUDA and cuDNN from Python packages, where the loader does not look by itself."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _with_fallbacks(device: str, path: Path) -> list[tuple[str, dict[str, str]]]:
    """The provider of a device and those that run the operators it lacks, with their options."""
    chain: list[tuple[str, dict[str, str]]] = [(PROVIDERS["cpu"], {})]
    if device != "cpu":
        # By default, every algorithm is tried again for each new batch size.
        chain.insert(0, (PROVIDERS["cuda"], {"cudnn_conv_algo_search": "HEURISTIC"}))
    if device == "tensorrt":
        cache = user_cache_path("edge-tracker") / "onnxruntime-tensorrt"
        options = {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache),
            "trt_fp16_enable": str(path.stem.endswith(".fp16")),
        }
        chain.insert(0, (PROVIDERS["tensorrt"], options))
    return chain


@cache
def _unloadable(ort: ModuleType, device: str) -> str:
    """The loader's message about a provider's library that does not load; "" if it does load.

    The library is loaded in another process: once loaded here, ONNX Runtime could not use it any more.
    """
    library = Path(str(ort.__file__)).parent / "capi" / f"libonnxruntime_providers_{device}.so"
    if not library.is_file():
        return f"{library} is missing; reinstall onnxruntime-gpu"
    script = "import ctypes, sys\ntry: ctypes.CDLL(sys.argv[1])\nexcept OSError as error: print(error)"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", script, str(library)], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    missing = answer.stdout.strip()
    return f"{PROVIDERS[device]} does not load ({missing})" if missing else ""


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape or ())
    return TensorSpec(tensor.name, shape, np.dtype(_DTYPES.get(tensor.type, np.object_)))


def _line(error: BaseException) -> str:
    """The message of an error on one line, without ONNX Runtime's own prefix."""
    text = " ".join(str(error).split())
    return text.removeprefix("[ONNXRuntimeError] : ") or type(error).__name__
