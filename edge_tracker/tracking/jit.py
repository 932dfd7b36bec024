"""Compiling functions with Numba: cached on disk where that is possible, otherwise in memory only."""

from __future__ import annotations

import fcntl
import logging
import warnings
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import config, njit, types
from numba.core import event

log = logging.getLogger(__name__)

_phases: dict[Callable[..., Any], str] = {}


def _by_layout(record: types.Record) -> tuple[str, tuple[str]]:
    """The part of a compiled function's name that stands for a record, from the record's layout.

    Numba numbers records, anew in each process. So two processes could cache code for different records under one name,
    and a third that loads both would run the wrong one: that of another method, say.
    """
    return type(record).__name__, (sha256(record.name.encode()).hexdigest()[:16],)


types.Record.mangling_args = property(_by_layout)  # type: ignore[method-assign, assignment]


def jit(function: Callable[..., Any] | None = None, *, phase: bool = False, **options: Any) -> Any:
    """Numba's `njit` with a disk cache, NumPy's division rules (no exception) and no hidden threads.

    Where no folder for the cache can be written (a read-only image), the function is compiled again in every process,
    and one warning says what to set. With NUMBA_DISABLE_JIT=1 functions stay plain Python.

    Args:
        function: the function to compile; None when used as `@jit(...)`.
        phase: it is called for every frame and is large, so compiling it takes seconds and is announced. It becomes
            part of compiled functions that call it, and is compiled by itself only where Python calls it.
        options: passed on to `njit`.
    """
    if function is None:
        return lambda decorated: jit(decorated, phase=phase, **options)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    if phase:
        options["inline"] = "always"
        _phases[function] = f"{function.__module__.removeprefix('edge_tracker.tracking.')}.{function.__name__}"
    # Nothing here is called from C, so the wrapper for that, which takes a tenth of the time, is not made.
    options = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True, **options}
    try:
        compiled = njit(cache=True, **options)(function)
        _drop_stale(Path(compiled.stats.cache_path))
        _save_in_turn(compiled)
        return compiled
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        _warn_not_cached()
        return njit(**options)(function)


def _save_in_turn(compiled: Any) -> None:
    """Let only one process at a time save code in the cache folder of a compiled function.

    Numba reads a function's index, adds an entry and writes it back. Two processes that did so at once, each for one
    method, could leave the code of the one under the entry of the other.
    """
    cache = compiled._cache
    save = cache.save_overload

    def save_overload(signature: Any, code: Any) -> None:
        folder = Path(cache.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            save(signature, code)

    cache.save_overload = save_overload


def is_cached(phase: Any) -> bool:
    """True if a phase's code is on disk, or never will be because nothing can be cached or compiled here."""
    disabled = config.DISABLE_JIT  # type: ignore[attr-defined]
    cache = None if disabled else phase.stats.cache_path
    if cache is None:
        return True
    stem = Path(phase.py_func.__code__.co_filename).stem
    return any(Path(cache).glob(f"{stem}.{phase.py_func.__name__}-*.nbi"))


class _Announcer(event.Listener):
    """Logs that the tracker is being compiled: once as a warning, which a notebook shows, then phase by phase."""

    def __init__(self) -> None:
        self._announced = False

    def on_start(self, event: event.Event) -> None:
        """Log the start of compiling a function that is not in the cache."""
        name = _phases.get(event.data["dispatcher"].py_func)
        if name is None:
            return
        if not self._announced:
            self._announced = True
            log.warning(
                "compiling the tracker for this processor, which takes up to a minute and happens once "
                "(`edge-tracker warmup` does it ahead)"
            )
        log.info("compiling %s", name)

    def on_end(self, event: event.Event) -> None:
        """Nothing: only the start is logged."""


event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]


@lru_cache
def _warn_not_cached() -> None:
    """Warn that nothing can be cached: once for all functions."""
    warnings.warn(
        "compiled code cannot be cached here, so every start compiles again (about half a minute): "
        "set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=3,
    )


@lru_cache
def _sources_digest() -> str:
    """SHA-256 of the sources of this package; each of its folders has a cache of its own to compare it with."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


@lru_cache
def _drop_stale(cache: Path) -> None:
    """Empty a cache folder that was filled from other sources of this package.

    Numba checks only the file of the function itself, but the code that it caches includes functions of other files:
    after an upgrade it could go on running old code.
    """
    digest, stamp = _sources_digest(), cache / "sources.sha256"
    try:
        if stamp.is_file() and stamp.read_text() == digest:
            return
        for file in cache.glob("*.nb[ic]"):  # indices, and the code that they name
            file.unlink(missing_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest)
    except OSError:
        pass  # Numba itself found the folder writable; if that has changed it will say so
