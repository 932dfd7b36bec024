"""`edge-tracker build`: the engines that a configuration needs, built on the device that will run them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edge_tracker.app.config.schema import DEFAULT_DETECTOR, Config, cameras_of
from edge_tracker.embedding.models import model_name
from edge_tracker.errors import DeviceError
from edge_tracker.inference.builder import EngineOptions, import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.inference.engines import ensure_engine
from edge_tracker.inference.locate import find_model
from edge_tracker.inference.triton.address import is_served

log = logging.getLogger(__name__)


def engine_options(config: Config) -> EngineOptions:
    """How a configuration wants engines built; the batch is each model's own matter."""
    return EngineOptions(**config.engine.model_dump())


def wanted_models(config: Config) -> list[tuple[str, str, EngineOptions]]:
    """The models that run on this machine: the key of each, the name or path, and how its engine is built."""
    options = engine_options(config)
    batches = {"detector": len(cameras_of(config)), "embedder": config.embedder.batch}
    return [
        (key, name, replace(options, batch=batches[key.partition(".")[0]]))
        for key, name in _models(config)
        if not is_served(name)
    ]


def served_models(config: Config) -> list[tuple[str, str]]:
    """The models that run on servers: the key of each, and its address."""
    return [(key, name) for key, name in _models(config) if is_served(name)]


def _models(config: Config) -> Iterator[tuple[str, str]]:
    detector, embedder = config.detector, config.embedder
    if detector.mot is None:
        yield "detector.model", detector.model or DEFAULT_DETECTOR
        if detector.fallback is not None:
            yield "detector.fallback", detector.fallback
    for key, name in (("embedder.model", embedder.model), ("embedder.fallback", embedder.fallback)):
        if name is not None:
            yield key, name if is_served(name) else model_name(name)


def build_engines(config: Config) -> list[Path]:
    """Build what is missing or stale, and return the engine of each model.

    Raises:
        DeviceError: the configuration runs elsewhere than on TensorRT, or there is no TensorRT or GPU here.
        ModelError: a model is missing or cannot be built.
    """
    models = wanted_models(config)
    if not models:
        log.info("nothing to build: no model runs on this machine")
        return []
    if config.device not in ("auto", "tensorrt"):
        raise DeviceError(f"device: {config.device} runs without engines; set device: tensorrt (or auto) to build them")
    trt, gpu = import_tensorrt(), open_cuda().gpu
    paths = []
    for _, model, options in models:
        path = find_model(model)
        is_engine = path.suffix.lower() == ".engine"  # given as such: nothing to build
        paths.append(path if is_engine else ensure_engine(path, options, trt=trt, gpu=gpu))
    return paths
