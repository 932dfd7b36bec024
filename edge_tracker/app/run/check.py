"""Check that everything a configuration names exists, without running it.

Loads no model, opens no camera, calls no server, writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from edge_tracker.app.config.loading import dotted
from edge_tracker.app.config.named_models import served_models, wanted_models
from edge_tracker.app.config.naming import naming
from edge_tracker.app.config.schema import Config, cameras_of
from edge_tracker.app.config.uri import is_path, scheme_of
from edge_tracker.app.outputs.sinks import check_output
from edge_tracker.app.sources.gstreamer import csi_pipeline, own_pipeline
from edge_tracker.app.sources.opening import open_source
from edge_tracker.errors import ConfigError, EdgeTrackerError
from edge_tracker.inference.locate import find_model
from edge_tracker.inference.triton.client import import_client

PIPELINES = {"csi": csi_pipeline, "gst": own_pipeline}


def check(config: Config) -> None:
    """Check that everything `config` names exists.

    Raises:
        ConfigError: something is missing; one line for each problem.
    """
    problems: list[str] = []

    def attempt(key: str | None, action: Callable[..., object], *arguments: object) -> None:
        try:
            with naming(key) if key is not None else nullcontext():
                action(*arguments)
        except EdgeTrackerError as error:
            problems.append(str(error))

    cameras = cameras_of(config)
    for camera in cameras:
        uri = camera.source.uri
        key = dotted((*camera.key, "source", "uri"))
        if uri is not None and is_path(uri) and not str(uri).startswith("/dev/"):
            attempt(key, lambda uri=uri: open_source(uri).close())
        elif scheme_of(uri or "") in PIPELINES:
            attempt(key, PIPELINES[str(scheme_of(uri or ""))], str(uri))
    if config.detector.mot is not None and not Path(config.detector.mot).is_file():
        problems.append(f"detector.mot: {config.detector.mot}: no such file")
    for key, name, _ in wanted_models(config):
        attempt(key, find_model, name)
    for key, _ in served_models(config):
        attempt(key, import_client)
    for camera in cameras:
        for name, path in camera.outputs.paths():
            attempt(f"outputs.{name}", check_output, path)
    if config.server is not None:
        from edge_tracker.app.outputs.live.access import access_of

        attempt(None, access_of, config.server)
    if config.mqtt is not None:
        from edge_tracker.app.outputs.mqtt import check_mqtt

        attempt("mqtt", check_mqtt, config.mqtt)
    if problems:
        raise ConfigError("\n".join(problems))
