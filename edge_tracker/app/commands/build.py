"""`edge-tracker build`: build the engines that a configuration needs, on the device that will run them."""

from __future__ import annotations

import argparse
import logging

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import OK
from edge_tracker.errors import DeviceError

HELP = "build the TensorRT engines that a configuration needs"

add_arguments = arguments.config

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Build engines that are missing or stale, and print the engine of each model.

    Raises:
        ConfigError: the configuration is not valid.
        DeviceError: the configuration does not run on TensorRT, or there is no TensorRT or GPU.
        ModelError: a model is missing or cannot be built.
    """
    from edge_tracker.app.config.loading import load_config
    from edge_tracker.app.config.named_models import wanted_models
    from edge_tracker.inference.builder import import_tensorrt
    from edge_tracker.inference.cuda import open_cuda
    from edge_tracker.inference.engines import ensure_engine
    from edge_tracker.inference.locate import find_model

    config = load_config(options.config, options.set)
    models = wanted_models(config)
    if not models:
        log.info("nothing to build: no model runs on this machine")
        return OK
    if config.device not in ("auto", "tensorrt"):
        raise DeviceError(f"device: {config.device} runs without engines; set device: tensorrt (or auto) to build them")
    trt, gpu = import_tensorrt(), open_cuda().gpu
    paths = []
    for _, model, wanted in models:
        path = find_model(model)
        is_engine = path.suffix.lower() == ".engine"  # nothing to build
        paths.append(path if is_engine else ensure_engine(path, wanted, trt=trt, gpu=gpu))
    for path in paths:
        print(path)
    return OK
