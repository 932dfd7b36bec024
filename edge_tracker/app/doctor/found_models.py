"""Examination of the models and engines on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge_tracker.app.doctor.finding import Finding, attempt
from edge_tracker.errors import DeviceError
from edge_tracker.inference.builder import import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.inference.engines import check_fits, load_engine_bytes
from edge_tracker.inference.locate import model_folders
from edge_tracker.inference.manifest import onnx_metadata, read_manifest


def examine_models() -> Iterator[Finding]:
    """Examine every model and engine in the searched folders."""
    folders = [folder for folder in dict.fromkeys(model_folders()) if folder.is_dir()]
    if not folders:
        looked = ", ".join(map(str, model_folders()))
        yield Finding("models", "none", f"no folder of models: {looked}", "make export, or copy the models there")
    for folder in folders:
        yield Finding("models in", str(folder))
        for path in sorted(folder.glob("*.onnx")):
            yield attempt(f"  {path.name}", partial(_check_onnx, path), "not usable")
        for path in sorted(folder.glob("*.engine")):
            yield attempt(f"  {path.name}", partial(check_engine, path), "not usable")


def _check_onnx(path: Path) -> str:
    manifest = read_manifest(path, onnx_metadata(path.read_bytes()))
    return f"{manifest.task}, {manifest.precision}" if manifest else "no manifest (not from make export)"


def check_engine(path: Path) -> str:
    _, manifest = load_engine_bytes(path)
    if manifest is None:
        return "no manifest (not built by edge-tracker)"
    made = manifest.requirements
    value = f"{made['library']}, {made['gpu']}, {made['precision']}, batch {made['profile']}"
    try:
        trt, gpu = import_tensorrt(), open_cuda().gpu
    except DeviceError:
        return f"{value}; whether it fits cannot be checked here"
    check_fits(path, manifest, trt, gpu)
    return value
