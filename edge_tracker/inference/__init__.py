"""A model file to arrays, whatever runs it."""

from __future__ import annotations

import os

from edge_tracker.errors import DeviceError, ModelError
from edge_tracker.inference.locate import find_model
from edge_tracker.inference.model import DEVICES, Model

__all__ = ["Model", "load_model"]


def load_model(
    model: str | os.PathLike[str], device: str = "auto", threads: int = 0, *, prefer_half: bool = False
) -> Model:
    """Load a model.

    Args:
        model: a name or a path, see `find_model`.
        device: "cpu", "cuda", "tensorrt", or "auto" for the best of them that works. An `.engine` runs in TensorRT
            whatever is said here, but is refused for "cpu".
        threads: CPU threads a model may use on the CPU; 0 for all the cores that this process may run on.
        prefer_half: on a GPU, take `NAME.fp16.onnx` where it lies beside `NAME.onnx`. On a CPU FP16 is slower than
            FP32, so it is never taken there.

    Raises:
        ModelError: no such file, or not a usable model.
        DeviceError: the device that was asked for cannot be used.
    """
    if device not in DEVICES:
        raise DeviceError(f"unknown device {device!r}; one of {', '.join(DEVICES)}")
    path = find_model(model)
    if path.suffix.lower() == ".engine":
        from edge_tracker.inference.tensorrt import TensorRTModel

        if device == "cpu":
            raise ModelError(f"{path}: an engine runs on a GPU only; for the CPU give the ONNX file")
        return TensorRTModel(path)

    from edge_tracker.inference.onnx import OnnxModel, gpu_providers

    half = path.with_suffix(f".fp16{path.suffix}")
    if prefer_half and device != "cpu" and half.is_file() and gpu_providers():
        opened = OnnxModel(half, device, threads)
        if opened.device != "cpu":
            return opened
        opened.close()
    return OnnxModel(path, device, threads)
