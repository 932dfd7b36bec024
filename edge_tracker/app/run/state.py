"""A camera's state that outlives a crash or a reboot: tracks, numbering and counts, in a file that is always whole.

The file is a NumPy archive: the tracker's arrays under `tracker.NAME`, and JSON text of the rest under `meta`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs

from edge_tracker.app.saved import Saved, parse_saved
from edge_tracker.files import atomic_path

log = logging.getLogger(__name__)

VERSION = 1
# Errors that NumPy and JSON raise for an archive that is damaged or holds something else.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class CameraState:
    """The state of one camera at one moment.

    Attributes:
        tracker: `EdgeDeepSort.state_dict`.
        meta: frames, tracks (counts so far), next_id, reported (identities), names (of classes), zones and events (as
            they save themselves).
        age: seconds since it was saved; None if that cannot be known.
        clean: True if the run ended in order, so that no identity was given since.
    """

    tracker: Mapping[str, np.ndarray]
    meta: dict[str, Any]
    age: float | None = None
    clean: bool = False


class _Meta(Saved):
    """`CameraState.meta` as saved, with the times that tell its age."""

    version: Literal[1]
    saved: float
    boot: str
    uptime: float
    clean: bool
    frames: int
    tracks: int
    next_id: int
    reported: list[int]
    names: list[str]
    zones: Any
    events: Any


def state_path(folder: str | None, camera: str) -> Path:
    """The path of a camera's saved state."""
    place = Path(folder) if folder is not None else Path(platformdirs.user_state_dir("edge-tracker"))
    return place / f"{camera}.npz"


def save(path: Path, state: CameraState) -> None:
    """Write a state. After a power cut the file holds this one or the one before.

    Raises:
        OSError: it cannot be written.
    """
    meta = {
        **state.meta,
        "version": VERSION,
        "saved": time.time(),
        "boot": _boot_id(),
        "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
        "clean": state.clean,
    }
    arrays = {f"tracker.{name}": array for name, array in state.tracker.items()}
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]


def load(path: Path) -> CameraState | None:
    """The saved state; None if there is none, or, with a warning, if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            meta = json.loads(str(archive["meta"]))
            tracker = {name[len("tracker.") :]: archive[name] for name in archive.files if name.startswith("tracker.")}
    except FileNotFoundError:
        return None
    except (*_UNREADABLE, OSError) as error:
        log.warning("%s: the saved state cannot be read (%s); identities start from 1 again", path, error)
        return None
    known = parse_saved(_Meta, meta, f"tracks and counts of {path}")
    return None if known is None else CameraState(tracker, meta, _age(known), known.clean)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _age(meta: _Meta) -> float | None:
    """Seconds since the state was saved, by the monotonic clock if the machine was not restarted since."""
    if meta.boot and meta.boot == _boot_id():
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - meta.uptime)
    age = time.time() - meta.saved
    return age if age >= 0 else None  # the clock was set back in between


class StateSaver:
    """Saves the newest state of each camera in a thread of its own, so that a slow disk delays nothing."""

    def __init__(self) -> None:
        self._states: dict[Path, CameraState] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._failing: set[Path] = set()
        self._thread = threading.Thread(target=self._work, name="state", daemon=True)
        self._thread.start()

    def put(self, path: Path, state: CameraState) -> None:
        """Save a state soon, instead of one of the same path that still waits."""
        with self._changed:
            self._states[path] = state
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._states or self._closing)
                if not self._states:
                    return
                path, state = self._states.popitem()
            self.write(path, state)

    def write(self, path: Path, state: CameraState) -> None:
        """Save now; a failure is logged, once until it succeeds again."""
        try:
            save(path, state)
        except OSError as error:
            if path not in self._failing:
                log.error("%s: the state cannot be saved: %s", path, error.strerror or error)
            self._failing.add(path)
        else:
            if path in self._failing:
                log.info("%s: the state is saved again", path)
            self._failing.discard(path)

    def close(self, timeout: float) -> None:
        """Save the states that wait, within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
