"""Whether a configuration would run: what it names is there. Loads no model, opens no camera, writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_tracker.app.config import DEFAULT_DETECTOR, Config
from edge_tracker.app.sinks import check_output
from edge_tracker.app.sources import open_source
from edge_tracker.app.uri import is_path
from edge_tracker.embedding.models import model_name
from edge_tracker.errors import ConfigError, EdgeTrackerError
from edge_tracker.inference.locate import find_model


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the key of the configuration before an error about what it names."""
    try:
        yield
    except EdgeTrackerError as error:
        # A ConfigError is about the section as a whole, such as classes that the model does not have.
        name = key.partition(".")[0] if isinstance(error, ConfigError) else key
        lines = (f"{name}: {line}" for line in str(error).split("\n"))
        raise type(error)("\n".join(lines)) from error


def check(config: Config) -> None:
    """Look for all that `config` names.

    Raises:
        ConfigError: something is missing; a line for each.
    """
    problems: list[str] = []

    def attempt(key: str, action: Callable[..., object], *arguments: object) -> None:
        try:
            with naming(key):
                action(*arguments)
        except EdgeTrackerError as error:
            problems.append(str(error))

    uri = config.source.uri
    if uri is not None and is_path(uri) and not str(uri).startswith("/dev/"):
        attempt("source.uri", lambda: open_source(uri).close())
    if config.detector.mot is None:
        attempt("detector.model", find_model, config.detector.model or DEFAULT_DETECTOR)
    elif not Path(config.detector.mot).is_file():
        problems.append(f"detector.mot: {config.detector.mot}: no such file")
    if config.embedder.model is not None:
        attempt("embedder.model", find_model, model_name(config.embedder.model))
    for name, path in config.outputs:
        if path is not None:
            attempt(f"outputs.{name}", check_output, Path(path))
    if problems:
        raise ConfigError("\n".join(problems))
