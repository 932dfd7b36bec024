"""The folder of a batch's results: a folder for each video, the summary, and `.batch` for unfinished work.

A video's folder appears once everything in it is complete. So results with their final name are complete, whatever
stops a batch.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_tracker.app.batch.inputs import Video, printable
from edge_tracker.app.saved import Saved, parse_saved
from edge_tracker.errors import OutputError
from edge_tracker.files import atomic_path, umask
from edge_tracker.version import __version__

log = logging.getLogger(__name__)

RECORD = "batch.json"
SUMMARY = "summary.csv"
COLUMNS = ("video", "hash", "frames", "tracks", "seconds", "fps", "status", "reason", "warnings", "results")
CHUNK = 1 << 20
SUMMARY_EVERY_S = 5.0  # seconds between two writings of the summary during the batch


class Stamp(Saved):
    """File attributes that change when a file is written or replaced: if all are unchanged, it is not read again."""

    size: int
    mtime_ns: int
    inode: int


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file.

    Raises:
        OSError: the file does not exist.
    """
    status = path.stat()
    return Stamp(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class CutDifference(Saved):
    """The changes of a video's identities by cutting it.

    Attributes:
        uncut, cut: number of identities of the video tracked whole, and cut.
        whole: identities that have exactly the same boxes in both.
        switches: times that an identity of the whole video changes to another one of the cut video.
        idf1: agreement of the identities, percent: the share of all boxes of both whose identities correspond.
    """

    uncut: int
    cut: int
    whole: int
    switches: int
    idf1: float


class Record(Saved):
    """The record of a finished video; `batch.json` in its folder.

    Attributes:
        version: the program's version.
        video: the video's path.
        sha256: the hash of its content.
        stamp: the stamp of its file when it was hashed.
        key: `BatchSettings.key`.
        frames, tracks: number of frames processed, and of identities reported.
        seconds: time spent, summed over all segments.
        segments: number of segments; 1 for a whole video.
        warnings: problems that did not make it fail.
        outputs: size of each file by its name.
        difference: the changes by cutting, if they were requested.
    """

    version: str = __version__
    video: str
    sha256: str
    stamp: Stamp
    key: str
    frames: int
    tracks: int
    seconds: float
    segments: int = 1
    warnings: list[str]
    outputs: dict[str, int]
    difference: CutDifference | None = None


@dataclass(frozen=True)
class Failure:
    """A video without results, and the reason."""

    reason: str
    sha256: str = ""


class Results:
    """The folder, locked for one batch. Use as a context manager.

    Args:
        folder: created if it does not exist.

    Raises:
        OutputError: it cannot be written, or another batch works in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._own = self.folder / ".batch"
        self._work = self._own / "work"
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            self._lock = (self._own / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise OutputError(f"--output: {folder}: cannot be written: {error.strerror}") from None
        try:
            # The kernel's lock, which is released when the process ends, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            who = self._lock.read(100).strip()
            self._lock.close()
            raise OutputError(
                f"--output: {folder}: another batch{f' ({who})' if who else ''} is using it; wait for its end, or give "
                "another folder"
            ) from None
        except OSError as error:
            self._lock.close()
            raise OutputError(f"--output: {folder}: cannot be locked: {error.strerror}; give another folder") from None
        try:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} of {os.uname().nodename}")
            self._lock.flush()
            shutil.rmtree(self._work, ignore_errors=True)  # of a batch that was killed
            self._work.mkdir(exist_ok=True)
        except OSError as error:
            self._lock.close()
            raise OutputError(f"--output: {folder}: cannot be written: {error.strerror}") from None
        self._rows = self._read_summary()
        self._changed = False
        self._next_write = 0.0

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        self._lock.close()

    # ---- the videos' folders -----------------------------------------------------------------------------------------

    def place_of(self, video: Video) -> Path:
        """The folder of a video's results, once they are complete."""
        return self.folder / video.place

    def new_work(self) -> Path:
        """A folder to work in.

        Raises:
            OutputError: it cannot be created.
        """
        try:
            return Path(tempfile.mkdtemp(dir=self._work))
        except OSError as error:
            raise OutputError(f"{self._work}: cannot be written: {error.strerror}") from None

    def drop_work(self, work: Path) -> None:
        """Remove a folder of `new_work`."""
        shutil.rmtree(work, ignore_errors=True)

    def record_of(self, video: Video) -> Record | None:
        """The record of a finished video; None if there are no results, or some are missing."""
        place = self.place_of(video)
        try:
            text = (place / RECORD).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        record = parse_saved(Record, content, f"results of {video.path}")
        if record is None:
            return None
        for name, size in record.outputs.items():
            try:
                there = (place / name).stat().st_size
            except OSError:
                there = -1
            if there != size:
                log.warning("%s: has changed since it was written; %s is tracked again", place / name, video.path)
                return None
        return record

    def publish(self, video: Video, work: Path, record: Record) -> None:
        """Give the finished folder `work` its final name, replacing earlier results.

        Raises:
            OutputError: it cannot be done; `work` is left.
        """
        place = self.place_of(video)
        try:
            if os.path.lexists(place) and not (place / RECORD).is_file():
                raise OutputError(f"{place}: exists and was not created by a batch; move it away")
            write_record(work, record)
            for name in os.listdir(work):
                _sync(work / name)
            _sync(work)
            work.chmod(0o777 & ~umask())  # mkdtemp makes private folders; results follow the umask
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                place.rename(self.new_work() / "old")
            work.rename(place)
            _sync(place.parent)
        except OSError as error:
            raise OutputError(f"{place}: cannot be written: {error.strerror}") from None

    def update(self, video: Video, record: Record) -> None:
        """Replace the record of a finished video, whose results stay.

        Raises:
            OutputError: it cannot be written.
        """
        place = self.place_of(video)
        try:
            write_record(place, record)
        except OSError as error:
            raise OutputError(f"{place / RECORD}: cannot be written: {error.strerror}") from None

    # ---- the summary -------------------------------------------------------------------------------------------------

    @property
    def summary(self) -> Path:
        """The path of the table of all videos that have results here or have failed."""
        return self.folder / SUMMARY

    def note(self, video: Video, what: Record | Failure) -> None:
        """Add a video to the summary."""
        place = printable(str(video.place))
        row = dict.fromkeys(COLUMNS, "")
        row |= {"video": video.name, "hash": what.sha256, "results": place}
        if isinstance(what, Record):
            fps = what.frames / what.seconds if what.seconds > 0 else 0.0
            row |= {"frames": str(what.frames), "tracks": str(what.tracks), "seconds": f"{what.seconds:.2f}"}
            row |= {"fps": f"{fps:.2f}", "status": "done", "warnings": "; ".join(what.warnings)}
        else:
            row |= {"status": "failed", "reason": what.reason}
        self._changed |= self._rows.get(place) != row
        self._rows[place] = row

    def write_summary(self, now: bool = False) -> None:
        """Write the summary if it has changed; not too often, unless `now`.

        Raises:
            OutputError: it cannot be written.
        """
        if not self._changed or (not now and time.monotonic() < self._next_write):
            return
        try:
            with atomic_path(self.summary) as partial, partial.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(row for _, row in sorted(self._rows.items()))
        except OSError as error:
            raise OutputError(f"{self.summary}: cannot be written: {error.strerror}") from None
        self._changed = False
        self._next_write = time.monotonic() + SUMMARY_EVERY_S

    def _read_summary(self) -> dict[str, dict[str, str]]:
        """The rows of earlier batches, by the videos' places: a batch may cover only some of the videos."""
        try:
            with self.summary.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file)
                if tuple(rows.fieldnames or ()) == COLUMNS:
                    return {row["results"]: row for row in rows if None not in row and None not in row.values()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, csv.Error):
            pass
        log.warning("%s: is not a summary of this version; a new one is started", self.summary)
        return {}


def write_record(folder: Path, record: Record) -> None:
    """Write `batch.json`; raises OSError."""
    with atomic_path(folder / RECORD) as partial:
        partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    """Sync a file or a folder to the disk."""
    with _opened(path) as handle:
        os.fsync(handle)
