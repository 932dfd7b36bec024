"""The tracker that a configuration describes, and its compiling."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_tracker.app.config.loading import load_config
from edge_tracker.app.config.schema import PARAMETERS, Config, tracker_arguments
from edge_tracker.app.open_models import open_embedder
from edge_tracker.deepsort import EdgeDeepSort
from edge_tracker.embedding.protocol import AppearanceEmbedder
from edge_tracker.tracking.warmup import is_compiled

log = logging.getLogger(__name__)

# Frames per second for `edge`, where nothing says how many there are.
FRAME_RATE = 30.0


def open_tracker(config: Config, embedder: AppearanceEmbedder | None, frame_rate: float | None) -> EdgeDeepSort:
    """The tracker of a configuration.

    Args:
        config: a valid configuration.
        embedder: what it embeds crops with.
        frame_rate: frames per second of its source, None where that is not known.
    """
    arguments, idle = tracker_arguments(config.tracker)
    for name in idle:
        log.warning("tracker.%s means nothing to tracker.method: %s, and is not used", name, config.tracker.method)
    if "frame_rate" in PARAMETERS[config.tracker.method]._fields:
        arguments["frame_rate"] = frame_rate or FRAME_RATE
    return EdgeDeepSort(embedder=embedder, **arguments)


def open_configured(config: str | Path | Mapping[str, Any], frame_rate: float | None) -> EdgeDeepSort:
    """The tracker, with its embedder, of a configuration that is not read yet: `EdgeDeepSort.from_config`.

    Raises:
        ConfigError: the configuration cannot be read or is not valid.
        ModelError, DeviceError: the embedder cannot be used.
    """
    valid = load_config(config, needs_source=False)
    return open_tracker(valid, open_embedder(valid), frame_rate or valid.source.fps)


def compile_ahead(method: str) -> None:
    """See that the tracker is compiled before the clock runs.

    The compiler's memory stays with the process that it ran in: some 200 MB. So where nothing is cached yet, another
    process fills the cache, and here only what the run uses is loaded from it. Where nothing can be cached, the first
    frame compiles.
    """
    if not is_compiled(method) and sys.executable:
        log.info("compiling the tracker for this processor, which takes up to a minute and happens once")
        subprocess.run(
            [sys.executable, "-m", "edge_tracker", "warmup", "--method", method],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # if it failed, the first frame fails of the same, and tells it
        )
