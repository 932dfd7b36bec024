"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def umask() -> int:
    """The permissions that the process withholds from new files.

    It is read from /proc where possible. Elsewhere it can only be set and set back, which changes the permissions of
    files that other threads create meanwhile.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it to `path` when the block ends without an error.

    The file is flushed to disk before the move, so that after a power cut `path` holds the old content or the new one,
    never a part. If the block raises, or is interrupted, the temporary file is removed and `path` is unchanged.

    Args:
        path: the final name. Its folder is created if necessary.

    Yields:
        A path in the same folder with the same suffix, not yet existing as a finished file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~umask())  # mkstemp creates private files; others may read results
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
