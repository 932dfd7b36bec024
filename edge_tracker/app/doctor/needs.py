"""Examination of what a configuration needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from edge_tracker.app.config.named_models import served_models, wanted_models
from edge_tracker.app.config.schema import Config
from edge_tracker.app.doctor.finding import Finding, attempt
from edge_tracker.app.doctor.found_models import check_engine
from edge_tracker.app.doctor.machine import run_tiny
from edge_tracker.errors import DeviceError, EdgeTrackerError
from edge_tracker.inference.builder import EngineOptions, import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.inference.engines import ensure_engine
from edge_tracker.inference.locate import find_model
from edge_tracker.inference.triton.client import TritonModel


def examine_needs(config: Config) -> Iterator[Finding]:
    needed = partial(attempt, otherwise="not there", needed=True)
    if config.device in ("cuda", "tensorrt"):
        yield needed(f"device {config.device}", partial(_check_device, config.device))
    for what, model, options in wanted_models(config):
        yield needed(what, partial(_find, model))
        if config.device in ("auto", "tensorrt"):
            with suppress(EdgeTrackerError):  # no model, or no TensorRT: reported above
                yield needed(f"{what}, engine", _engine_check(find_model(model), options))

    for what, address in served_models(config):
        section = config.embedder if what == "embedder.model" else config.detector
        yield attempt(what, partial(_ask_server, address), "not there", needed=section.fallback is None)


def _ask_server(address: str) -> str:
    """Open a model on a server and describe it."""
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
            return f"{run_tiny(device)}, in ONNX Runtime"
        except DeviceError as error:
            raise reason from error
    return run_tiny(device)


def _engine_check(path: Path, options: EngineOptions) -> Callable[[], str]:
    """A check that finds the engine of a model and returns its name. Raises if there is no TensorRT."""
    trt, gpu = import_tensorrt(), open_cuda().gpu
    if path.suffix.lower() == ".engine":
        return partial(check_engine, path)
    return lambda: str(ensure_engine(path, options, build=False, trt=trt, gpu=gpu))
