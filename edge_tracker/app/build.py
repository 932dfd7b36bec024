"""`edge-tracker build`: the engines that a configuration needs, built on the device that will run them."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_tracker.app.config.named_models import wanted_models
from edge_tracker.app.config.schema import Config
from edge_tracker.errors import DeviceError
from edge_tracker.inference.builder import import_tensorrt
from edge_tracker.inference.cuda import open_cuda
from edge_tracker.inference.engines import ensure_engine
from edge_tracker.inference.locate import find_model

log = logging.getLogger(__name__)


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
