"""Packages of the extras, which may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_tracker.errors import ConfigError


@contextmanager
def extra(name: str, need: str) -> Iterator[None]:
    """Put around imports: name the extra that installs a missing package.

    Args:
        name: name of the extra in pyproject.toml.
        need: the feature and the package that it needs, such as "scoring needs TrackEval".

    Raises:
        ConfigError: a package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{need} ({error}): pip install 'edge-tracker[{name}]'") from None
