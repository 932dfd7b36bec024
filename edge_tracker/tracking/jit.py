"""The one way this package compiles a function: cached on disk where that is possible, in memory where it is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
        return njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        warnings.warn(
            "compiled code cannot be cached here, so every start compiles again (about half a minute): "
            "set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
        return njit(**options)(function)
