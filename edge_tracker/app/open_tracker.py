"""The tracker that a configuration describes, and compiling it."""

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

# Frames per second for `edge`, if the rate is unknown.
FRAME_RATE = 30.0


def open_tracker(config: Config, embedder: AppearanceEmbedder | None, frame_rate: float | None) -> EdgeDeepSort:
    """The tracker of a configuration.

    Args:
        config: a valid configuration.
        embedder: computes the features of crops.
        frame_rate: frames per second of its source; None if unknown.
    """
    arguments, idle = tracker_arguments(config.tracker)
    for name in idle:
        log.warning("tracker.%s has no effect with tracker.method: %s", name, config.tracker.method)
    if "frame_rate" in PARAMETERS[config.tracker.method]._fields:
        arguments["frame_rate"] = frame_rate or FRAME_RATE
    return EdgeDeepSort(embedder=embedder, **arguments)


def open_configured(config: str | Path | Mapping[str, Any], frame_rate: float | None) -> EdgeDeepSort:
    """Read a configuration and open its tracker, with its embedder, for `EdgeDeepSort.from_config`.

    Raises:
        ConfigError: the configuration cannot be read or is not valid.
        ModelError, DeviceError: the embedder cannot be used.
    """
    valid = load_config(config, needs_source=False)
    return open_tracker(valid, open_embedder(valid), frame_rate or valid.source.fps)


def compile_ahead(method: str) -> None:
    """Compile the tracker before the clock starts, if it is not compiled yet.

    The memory of the compiler, some 200 MB, stays allocated in the process that it ran in. So another process fills an
    empty cache, and this one only loads the functions that the run uses. If nothing can be cached, the first frame
    compiles.
    """
    if not is_compiled(method) and sys.executable:
        log.info("compiling the tracker for this processor, which takes up to a minute and happens once")
        subprocess.run(
            [sys.executable, "-m", "edge_tracker", "warmup", "--method", method],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # if it failed, the first frame fails with the same error
        )
