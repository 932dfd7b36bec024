"""The one way this package compiles a function: cached on disk where that is possible, in memory where it is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import njit


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Numba's `njit` with a disk cache, NumPy's division rules (no exception) and no hidden threads.

    Where no folder for the cache can be written (a read-only image), the function is compiled anew in every process,
    and one warning says what to set.

    Args:
        function: the function to compile; None when used as `@jit(...)`.
        options: passed on to `njit`.
    """
    if function is None:
        return lambda decorated: jit(decorated, **options)
    options = {"error_model": "numpy", "nogil": True, **options}
    try:
        compiled = njit(cache=True, **options)(function)
        _drop_stale(Path(compiled.stats.cache_path))
        return compiled
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        _warn_not_cached()
        return njit(**options)(function)


@lru_cache
def _warn_not_cached() -> None:
    """Once for all functions."""
    warnings.warn(
        "compiled code cannot be cached here, so every start compiles again (about half a minute): "
        "set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=3,
    )


@lru_cache
def _drop_stale(cache: Path) -> None:
    """Empty a cache folder that was filled from other sources of this package.

    Numba looks only at the file of the function itself, but what it caches has the functions of the other files in it:
    after an upgrade it could go on running old code.
    """
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = cache / "sources.sha256"
    try:
        if stamp.is_file() and stamp.read_text() == digest:
            return
        for index in cache.glob("*.nbi"):
            index.unlink(missing_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest)
    except OSError:
        pass  # Numba itself found the folder writable; if that has changed it will say so
