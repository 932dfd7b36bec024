"""The tracker and the embedder that a configuration describes."""

from __future__ import annotations

import logging

from edge_tracker.app.build import engine_options
from edge_tracker.app.config import Config, tracker_arguments
from edge_tracker.deepsort import EdgeDeepSort
from edge_tracker.embedding.embedder import Embedder

log = logging.getLogger(__name__)

# Frames per second for `edge`, where nothing says how many there are.
FRAME_RATE = 30.0


def open_embedder(config: Config, build: bool = True) -> Embedder | None:
    """The embedder of a configuration; None for association by motion alone.

    Args:
        config: a valid configuration.
        build: False to refuse, instead of building an engine that is missing or stale.

    Raises:
        ModelError, DeviceError: the model cannot be used.
    """
    if config.embedder.model is None:
        return None
    return Embedder(
        config.embedder.model,
        device=config.device,
        batch=config.embedder.batch,
        threads=config.threads,
        engine=engine_options(config),
        build=build,
    )


def open_tracker(config: Config, embedder: Embedder | None, frame_rate: float | None) -> EdgeDeepSort:
    """The tracker of a configuration.

    Args:
        config: a valid configuration.
        embedder: what it embeds crops with.
        frame_rate: frames per second of its source, None where that is not known.
    """
    arguments, idle = tracker_arguments(config.tracker)
    for name in idle:
        log.warning("tracker.%s means nothing to tracker.method: %s, and is not used", name, config.tracker.method)
    if config.tracker.method == "edge":
        arguments["frame_rate"] = frame_rate or FRAME_RATE
    return EdgeDeepSort(embedder=embedder, **arguments)
