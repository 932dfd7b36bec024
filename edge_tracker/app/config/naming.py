"""Errors that name the key of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_tracker.errors import ConfigError, EdgeTrackerError


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Prefix errors of the block with the key of the configuration that they are about."""
    try:
        yield
    except EdgeTrackerError as error:
        # A ConfigError is about the whole section, for example classes that the model does not have.
        name = key.partition(".")[0] if isinstance(error, ConfigError) else key
        lines = (f"{name}: {line}" for line in str(error).split("\n"))
        raise type(error)("\n".join(lines)) from error
