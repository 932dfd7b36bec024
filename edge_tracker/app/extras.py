"""Packages that come with an extra, and may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_tracker.errors import ConfigError


@contextmanager
def extra(name: str, need: str) -> Iterator[None]:
    """Around imports: say which extra brings a package that is missing.

    Args:
        name: of the extra in pyproject.toml.
        need: what needs which package, such as "scoring needs TrackEval".

    Raises:
        ConfigError: it is missing.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{need} ({error}): pip install 'edge-tracker[{name}]'") from None
