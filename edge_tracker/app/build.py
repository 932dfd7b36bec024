"""`edge-tracker build`: the engines that a configuration needs, built on the device that will run them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_tracker.app.config import DEFAULT_DETECTOR, Config
from edge_tracker.embedding.models import model_name
from edge_tracker.errors import DeviceError
from edge_tracker.inference.builder import EngineOptions, import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.inference.engines import ensure_engine
from edge_tracker.inference.locate import find_model


def engine_options(config: Config) -> EngineOptions:
    """How a configuration wants engines built; the batch is each model's own matter."""
    return EngineOptions(**config.engine.model_dump())


def wanted_models(config: Config) -> list[tuple[str, str, EngineOptions]]:
    """The models of a configuration: its key, the name or path, and how its engine is built."""
    options = engine_options(config)
    models = []
    if config.detector.mot is None:
        models.append(("detector.model", config.detector.model or DEFAULT_DETECTOR, replace(options, batch=1)))
    if config.embedder.model is not None:
        name = str(model_name(config.embedder.model))
        models.append(("embedder.model", name, replace(options, batch=config.embedder.batch)))
    return models


def build_engines(config: Config) -> list[Path]:
    """Build what is missing or stale, and return the engine of each model.

    Raises:
        DeviceError: the configuration runs elsewhere than on TensorRT, or there is no TensorRT or GPU here.
        ModelError: a model is missing or cannot be built.
    """
    if config.device not in ("auto", "tensorrt"):
        raise DeviceError(f"device: {config.device} runs without engines; set device: tensorrt (or auto) to build them")
    trt, gpu = import_tensorrt(), open_cuda().gpu
    paths = []
    for _, model, options in wanted_models(config):
        path = find_model(model)
        is_engine = path.suffix.lower() == ".engine"  # given as such: nothing to build
        paths.append(path if is_engine else ensure_engine(path, options, trt=trt, gpu=gpu))
    return paths
