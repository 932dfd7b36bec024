"""Loading a model into the runtime that suits it."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from edge_tracker.errors import DeviceError, ModelError
from edge_tracker.inference.availability import DEADLINE_MS
from edge_tracker.inference.builder import EngineOptions, import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.inference.engines import ensure_engine
from edge_tracker.inference.locate import find_model
from edge_tracker.inference.model import DEVICES, Model
from edge_tracker.inference.triton.address import is_served
from edge_tracker.inference.triton.client import TritonModel

logger = logging.getLogger(__name__)


def load_model(
    model: str | os.PathLike[str],
    device: str = "auto",
    threads: int = 0,
    *,
    prefer_half: bool = False,
    engine: EngineOptions | None = None,
    build: bool = True,
    deadline_ms: int = DEADLINE_MS,
    required: bool = True,
) -> Model:
    """Load a model.

    Args:
        model: a name or a path, see `find_model`; or the address of a model on a server, see `TritonModel`.
        device: "cpu", "cuda", "tensorrt", or "auto" for the best of them that works. "tensorrt" is an engine in
            TensorRT, built from the ONNX file if necessary, or ONNX Runtime's provider of that name where TensorRT's
            own Python module is missing. An `.engine` always runs in TensorRT, and is refused for "cpu".
        threads: CPU threads; 0 for all the cores that this process may run on.
        prefer_half: on a GPU, use `NAME.fp16.onnx` if it is beside `NAME.onnx`. On a CPU, FP16 is slower than FP32 and
            never used.
        engine: options for building an engine.
        build: False to raise an error instead of building an engine that is missing or stale.
        deadline_ms: time limit on a server for all batches of one frame together, milliseconds.
        required: False if the server may be unavailable for now.

    Raises:
        ServerError: no server answers at the address, or it has no such model.
        ModelError: no such file, or not a usable model; an engine would have to be built and `build` is False.
        DeviceError: the requested device cannot be used.
    """
    if device not in DEVICES:
        raise DeviceError(f"unknown device {device!r}; one of {', '.join(DEVICES)}")
    if is_served(model):
        return TritonModel(str(model), deadline_ms / 1000, required=required)
    path = find_model(model)
    if path.suffix.lower() == ".engine":
        from edge_tracker.inference.tensorrt import TensorRTModel

        if device == "cpu":
            raise ModelError(f"{path}: an engine runs on a GPU only; for the CPU give the ONNX file")
        return TensorRTModel(path)

    from edge_tracker.inference.onnx import OnnxModel, gpu_providers

    if device in ("auto", "tensorrt"):
        opened = _open_engine(path, device, engine or EngineOptions(), build)
        if opened is not None:
            return opened
    half = path.with_suffix(f".fp16{path.suffix}")
    if prefer_half and device != "cpu" and half.is_file() and gpu_providers():
        halved = OnnxModel(half, device, threads)
        if halved.device != "cpu":
            return halved
        halved.close()
    return OnnxModel(path, device, threads)


def _open_engine(path: Path, device: str, options: EngineOptions, build: bool) -> Model | None:
    """The model as an engine in TensorRT; None if ONNX Runtime has to run it."""
    from edge_tracker.inference.tensorrt import TensorRTModel

    try:
        trt, cuda = import_tensorrt(), open_cuda()
    except DeviceError as error:
        if device == "auto":
            return None
        with suppress(DeviceError):  # ONNX Runtime is missing, too
            from edge_tracker.inference.onnx import gpu_providers

            if "tensorrt" in gpu_providers():
                return None
        raise DeviceError(f"device tensorrt: {error}") from error
    try:
        opened = TensorRTModel(ensure_engine(path, options, build=build, trt=trt, gpu=cuda.gpu), trt=trt, cuda=cuda)
    except (ModelError, DeviceError) as error:
        if device != "auto" or not build:
            raise
        logger.warning("%s; running without TensorRT", error)
        return None
    logger.info("%s runs on tensorrt", path.name)
    return opened
