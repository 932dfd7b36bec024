"""Putting output files aside: by size, at midnight, and before a run would overwrite a camera's earlier results."""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

log = logging.getLogger(__name__)

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Rotation:
    """The rules by which a file is put aside.

    Attributes:
        mib: size in MiB at which it is put aside; None for no limit.
        daily: also put it aside when the local date has changed.
        keep: number of files put aside that are kept.
        live: True if the source has no end. A file that is there at the start is then put aside, not overwritten, and
            one that is removed is created again.
    """

    mib: int | None = None
    daily: bool = False
    keep: int = 10
    live: bool = False

    def due(self, size: int, begun: date) -> bool:
        """True if a file of `size` bytes, started on the day `begun`, is to be put aside."""
        return (self.mib is not None and size >= self.mib << 20) or (self.daily and date.today() != begun)


def put_aside(path: Path, keep: int) -> None:
    """Rename a file to `NAME.YYYYMMDD-HHMMSS.SUFFIX`, by the time of its last write, and remove the oldest of these.

    Raises:
        OSError: it cannot be renamed.
    """
    stamp = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
    target, n = path.with_name(f"{path.stem}.{stamp}{path.suffix}"), 1
    while target.exists():
        n += 1
        target = path.with_name(f"{path.stem}.{stamp}-{n}{path.suffix}")
    path.rename(target)
    for old in sorted(set_aside(path), key=_age)[: -keep or None]:
        with suppress(OSError):
            old.unlink()


def set_aside(path: Path) -> list[Path]:
    """The files that were put aside under the name of `path`."""
    name = re.compile(rf"{re.escape(path.stem)}\.\d{{8}}-\d{{6}}(-\d+)?{re.escape(path.suffix)}")
    return [other for other in path.parent.iterdir() if name.fullmatch(other.name)]


def drop_torn_line(path: Path) -> None:
    """Cut a text file after its last line end: a power cut may have left part of a line."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        at = end
        while at:
            start = max(0, at - _CHUNK)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                at = start + found + 1
                break
            at = start
        if at < end:
            log.warning("%s: its last line was incomplete, and is dropped", path)
            file.truncate(at)


def _age(path: Path) -> tuple[float, str]:
    with suppress(OSError):
        return path.stat().st_mtime, path.name
    return time.time(), path.name
