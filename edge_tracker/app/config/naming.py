"""Errors of what a configuration names, with the key in front of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_tracker.errors import ConfigError, EdgeTrackerError


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
