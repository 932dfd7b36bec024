"""The models that a configuration names, on this machine and on servers, and the options of their engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edge_tracker.app.config.schema import DEFAULT_DETECTOR, Config, cameras_of
from edge_tracker.embedding.models import model_name
from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.triton.address import is_served


def engine_options(config: Config) -> EngineOptions:
    """The engine options of a configuration, except for the batch, which depends on the model."""
    return EngineOptions(**config.engine.model_dump())


def wanted_models(config: Config) -> list[tuple[str, str, EngineOptions]]:
    """The models that run on this machine: the key, the name or path, and the engine options of each."""
    options = engine_options(config)
    batches = {"detector": len(cameras_of(config)), "embedder": config.embedder.batch}
    return [
        (key, name, replace(options, batch=batches[key.partition(".")[0]]))
        for key, name in _models(config)
        if not is_served(name)
    ]


def served_models(config: Config) -> list[tuple[str, str]]:
    """The models that run on servers: the key and the address of each."""
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
