"""Loading the models of a configuration, for one run or several in succession."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from edge_tracker.app.config.named_models import engine_options
from edge_tracker.app.config.naming import naming
from edge_tracker.app.config.schema import DEFAULT_DETECTOR, Config, cameras_of
from edge_tracker.detection.detector import Detector
from edge_tracker.embedding.embedder import Embedder

Kind = TypeVar("Kind", Detector, Embedder)


@dataclass(frozen=True)
class Models:
    """The models of a run.

    Attributes:
        detector: finds the objects; None if recorded detections are replayed.
        embedder: tells them apart by their appearance; None for association by motion alone.
    """

    detector: Detector | None
    embedder: Embedder | None

    def close(self) -> None:
        """Free them."""
        for model in (self.detector, self.embedder):
            if model is not None:
                model.close()


def open_models(config: Config, build: bool = True) -> Models:
    """Load the models that a configuration names.

    Args:
        config: a valid configuration.
        build: False to raise an error, instead of building an engine that is missing or stale.

    Raises:
        ConfigError, ModelError, DeviceError, ServerError: a model cannot be used.
    """
    with ExitStack() as stack:
        detector = None
        if config.detector.mot is None:
            detector = _open_detector(config, build)
            stack.callback(detector.close)
        embedder = open_embedder(config, build)
        stack.pop_all()
        return Models(detector, embedder)


def _open_detector(config: Config, build: bool) -> Detector:
    detector = config.detector
    options = {
        "confidence": detector.confidence,
        "nms_iou": detector.nms_iou,
        "classes": detector.classes,
        "batch": len(cameras_of(config)),
        **_common(config, build),
    }
    # `format` applies to the model itself: its fallback may be another network.
    own = {"model": detector.model or DEFAULT_DETECTOR, "format": detector.format, "deadline_ms": detector.deadline_ms}
    return _open(Detector, "detector", own, detector.fallback, options)


def open_embedder(config: Config, build: bool = True) -> Embedder | None:
    """The embedder of a configuration; None for association by motion alone.

    Args:
        config: a valid configuration.
        build: False to raise an error, instead of building an engine that is missing or stale.

    Raises:
        ModelError, DeviceError, ServerError: the model cannot be used; names the key.
    """
    embedder = config.embedder
    if embedder.model is None:
        return None
    options = {"batch": embedder.batch, **_common(config, build)}
    own = {"model": embedder.model, "deadline_ms": embedder.deadline_ms}
    return _open(Embedder, "embedder", own, embedder.fallback, options)


def _common(config: Config, build: bool) -> dict[str, Any]:
    return {"device": config.device, "threads": config.threads, "engine": engine_options(config), "build": build}


def _open(
    kind: Callable[..., Kind], section: str, own: dict[str, Any], fallback: str | None, options: dict[str, Any]
) -> Kind:
    """Open a detector or an embedder, and first its fallback; `options` are for both."""
    with ExitStack() as stack:
        substitute = None
        if fallback is not None:
            with naming(f"{section}.fallback"):
                substitute = kind(fallback, **options)
            stack.callback(substitute.close)
        with naming(f"{section}.model"):
            opened = kind(**own, fallback=substitute, **options)
        stack.pop_all()
        return opened
