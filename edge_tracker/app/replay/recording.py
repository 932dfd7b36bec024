"""Recording a run: the tracker's inputs and outputs, so that the run can be replayed without its video.

A run does this, with the camera's configuration as `config`:

    with Recorder(folder, tracker, config.model_dump(), frame_rate=fps, limit=512) as recorder:
        for frame in source:
            arrays = tracker.update(ltwh, confidence, class_ids, frame=frame.image, dt=dt)
            recorder.write(
                frame.index, frame.time, dt, frame.image.shape, ltwh, confidence, class_ids, names, arrays
            )
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numba
import numpy as np

from edge_tracker.app.config.uri import redact
from edge_tracker.app.replay.recordfile import FIRST_LINE, packed, segment_name, segments_of
from edge_tracker.errors import OutputError
from edge_tracker.track_arrays import TrackArrays
from edge_tracker.version import __version__

if TYPE_CHECKING:
    from edge_tracker.deepsort import EdgeDeepSort
    from edge_tracker.embedding.protocol import AppearanceEmbedder

log = logging.getLogger(__name__)

MIB = 1 << 20
# Largest size of a file, unless the state in it is larger. A folder's limit is kept by removing whole files.
SEGMENT_MIB = 64
SEGMENTS = 4
SYNC_EVERY_S = 1.0

_SECRET = re.compile(r"pass|pwd|secret|token|key$|auth|credential|user", re.IGNORECASE)


def without_secrets(value: Any, name: str = "") -> Any:
    """A configuration as plain data, with passwords, tokens and users replaced by `***`."""
    if isinstance(value, Mapping):
        return {str(key): without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item, name) for item in value]
    if value is None or (isinstance(value, (bool, int, float)) and not _SECRET.search(name)):
        return value
    if _SECRET.search(name):
        return "***"
    if name == "uri" and str(value).startswith("gst:"):  # its elements have properties for passwords
        return "gst:***"
    return redact(value)


class RecordingEmbedder:
    """An embedder that notes the boxes it was asked about and its answers.

    Args:
        embedder: the one that does the work. The caller remains responsible for closing it.
    """

    def __init__(self, embedder: AppearanceEmbedder) -> None:
        self.embedder = embedder
        self.dimension = embedder.dimension
        self._asked: list[np.ndarray] = []
        self._answered: list[np.ndarray] = []

    def embed(self, frame: Any, ltwh: Any, masks: Any = None, polygons: Any = None) -> np.ndarray:
        """As `Embedder.embed`."""
        features = self.embedder.embed(frame, ltwh, masks, polygons)
        if len(features):
            self._asked.append(np.array(ltwh, dtype=np.float64))
            self._answered.append(features.copy())
        return features

    def take(self, ltwh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The notes since the last call, for a frame's boxes (M, 4).

        Returns:
            The places (K,) int64 of the embedded boxes, in the order of the calls, and their features (K, D) float32.
        """
        asked, answered = self._asked, self._answered
        self._asked, self._answered = [], []
        where: dict[bytes, list[int]] = {}
        for index, box in enumerate(np.asarray(ltwh, dtype=np.float64)):
            where.setdefault(box.tobytes(), []).append(index)
        places, features = [], [np.empty((0, self.dimension), dtype=np.float32)]
        for boxes, rows in zip(asked, answered, strict=True):
            left = {key: iter(indices) for key, indices in where.items()}
            found = [next(left.get(box.tobytes(), iter(())), -1) for box in boxes]
            if -1 not in found:  # otherwise it was asked in a frame that was then refused
                places += found
                features.append(rows)
        return np.array(places, dtype=np.int64), np.concatenate(features).astype(np.float32, copy=False)

    def close(self) -> None:
        """Close the embedder."""
        self.embedder.close()


class Recorder:
    """Writes a run into a folder; use as a context manager, or close it.

    The folder holds one file after the other, `RUN-PART.rec`. Each begins with the configuration and the tracker's
    state, so it can be replayed alone, and earlier runs in the folder stay. Frames are handed to the operating system
    at once, so a killed process loses nothing. A thread syncs them to the disk about every second, so that a slow card
    does not delay the frames.

    Args:
        folder: created if it does not exist.
        tracker: the tracker of the run, in its first state. Its embedder is wrapped in a `RecordingEmbedder` until the
            recorder is closed.
        config: the run's configuration, with the section `tracker` that this tracker was made from. Credentials in it
            are not written.
        camera: the name of the camera, if there are several. Each needs a folder of its own.
        frame_rate: the frame rate that the tracker was opened with (`open_tracker`).
        limit: MiB that the folder may take, earlier runs included; beyond it the oldest files are removed. None for no
            limit.

    Raises:
        OutputError: the folder cannot be written, or another process records into it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        tracker: EdgeDeepSort,
        config: Mapping[str, Any],
        *,
        camera: str | None = None,
        frame_rate: float | None = None,
        limit: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._tracker, self._embedder = tracker, tracker.embedder
        self._tap = None if self._embedder is None else RecordingEmbedder(self._embedder)
        self._limit = None if limit is None else limit * MIB
        self._frames = self._size = self._header_size = 0
        self._names: tuple[str, ...] | None = None
        self._frame_size: tuple[int, int] | None = None
        self._closed = self._warned = False
        self._header = {
            "kind": "header",
            "camera": camera,
            "frame_rate": frame_rate,
            "config": without_secrets(config),
            "method": tracker.method,
            "dimension": None if self._embedder is None else self._embedder.dimension,
            "versions": versions(),
        }
        self._lock_file = self._open_folder()
        try:
            self._old = {path: path.stat().st_size for path in segments_of(self.folder).values()}
            self._old_size = sum(self._old.values())
            self._run, self._part = max((run for run, _ in segments_of(self.folder)), default=0) + 1, 0
            self._disk = _Disk(self.folder)
            try:
                self.new_segment()
            except BaseException:
                self._disk.close()
                raise
        except BaseException:
            self._lock_file.close()
            raise
        if self._tap is not None:
            tracker.embedder = self._tap

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(
        self,
        index: int,
        time: float,
        dt: float,
        size: tuple[int, ...] | None,
        ltwh: np.ndarray,
        confidence: np.ndarray,
        class_ids: np.ndarray,
        names: Sequence[str],
        tracks: TrackArrays,
    ) -> None:
        """Add a frame, after the tracker's `update`.

        Args:
            index, time: the frame's, within its source.
            dt: as given to `update`.
            size: height and width of the frame, pixels; None where there was no image.
            ltwh, confidence, class_ids: as given to `update`, of any floating type.
            names: the names of the classes.
            tracks: the result of `update`.

        Raises:
            OutputError: it cannot be written; earlier frames stay readable.
        """
        content: dict[str, Any] = {
            "kind": "frame", "n": self._frames, "frame": int(index), "time": float(time), "dt": float(dt),
        }  # fmt: skip
        size = None if size is None else (int(size[0]), int(size[1]))
        names = tuple(names)
        if size != self._frame_size:
            content["size"] = size
        if names != self._names:
            content["names"] = names
        arrays = {"ltwh": ltwh, "confidence": confidence, "class_ids": class_ids}
        if self._tap is not None:
            arrays["asked"], arrays["features"] = self._tap.take(ltwh)
        arrays |= {
            "ids": tracks.ids, "ltrb": tracks.ltrb, "detection": tracks.detection, "confirmed": tracks.confirmed,
        }  # fmt: skip
        self._put(packed(content, arrays))
        self._frame_size, self._names = size, names
        self._frames += 1
        most = SEGMENT_MIB * MIB
        if self._limit is not None:
            most = min(most, self._limit // SEGMENTS)
        if self._size >= max(most, 2 * self._header_size):
            self.new_segment(changed=False)

    def new_segment(self, changed: bool = True) -> None:
        """Start a new file with the tracker's present state.

        Needed when something other than `update` has changed that state, such as `delete_all_tracks`.

        Args:
            changed: True if it has.

        Raises:
            OutputError: it cannot be written.
        """
        content = {**self._header, "n": self._frames, "changed": changed, "began": _now()}
        record = packed(content, self._tracker.state_dict())
        if self._part:
            self._old[self._path()] = self._size
            self._old_size += self._size
        self._part += 1
        self._names = self._frame_size = None
        self._size = 0
        self._disk.begin(self._path())
        self._put(FIRST_LINE + record)
        self._header_size = self._size
        if self._limit is not None and self._size > self._limit // 2 and not self._warned:
            self._warned = True
            log.warning(
                "%s: the tracker's state alone takes %d MiB, so the limit of %d MiB cannot be kept; give %d or more",
                self.folder, self._size // MIB + 1, self._limit // MIB, 8 * (self._size // MIB + 1),
            )  # fmt: skip

    def close(self) -> None:
        """Write that the run has ended, sync everything to the disk, and give the tracker its embedder back.

        Raises:
            OutputError: the recording is not complete.
        """
        if self._closed:
            return
        self._closed = True
        if self._tap is not None:
            self._tracker.embedder = self._embedder
        try:
            self._put(packed({"kind": "end", "n": self._frames}, {}))
        finally:
            try:
                self._disk.close()
            finally:
                self._lock_file.close()

    def _path(self) -> Path:
        return self.folder / segment_name(self._run, self._part)

    def _put(self, record: bytes) -> None:
        if self._limit is not None:
            while self._old and self._old_size + self._size + len(record) > self._limit:
                oldest = next(iter(self._old))
                self._old_size -= self._old.pop(oldest)
                with suppress(OSError):  # gone already, or a matter for the disk's administrator
                    oldest.unlink()
        self._disk.write(record)
        self._size += len(record)

    def _open_folder(self) -> BinaryIO:
        """The lock file of the folder; the lock is held while the file is open."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("wb")
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be recorded to: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise OutputError(f"{self.folder}: another run records into this folder; give each its own") from None
        return file


class _Disk:
    """The current file, written at once, and synced to the disk about every second by a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder
        self._file = -1
        self._size = 0
        self._finished: list[int] = []  # descriptors of earlier files
        self._dirty = self._begun = False
        self._error: OSError | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_syncing, name="recording", daemon=True)
        self._thread.start()

    def begin(self, path: Path) -> None:
        """Continue in a new file."""
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _unwritable(path, error) from None
        with self._lock:
            if self._file >= 0:
                self._finished.append(self._file)
            self._file, self._path, self._size, self._begun = file, path, 0, True

    def write(self, data: bytes) -> None:
        """Append to the file."""
        if self._error is not None:
            raise _unwritable(self._path, self._error)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            with suppress(OSError):  # a full disk: remove the part that was still written
                os.ftruncate(self._file, self._size)
            raise _unwritable(self._path, error) from None
        self._size += len(data)
        self._dirty = True

    def close(self) -> None:
        """Sync everything to the disk."""
        self._stop.set()
        self._thread.join()
        self._sync()
        if self._file >= 0:
            os.close(self._file)
        if self._error is not None:
            raise _unwritable(self._path, self._error)

    def _keep_syncing(self) -> None:
        while not self._stop.wait(SYNC_EVERY_S):
            self._sync()

    def _sync(self) -> None:
        with self._lock:  # not held while syncing: that may take long, and frames continue
            files, self._finished = self._finished, []
            if self._dirty and self._file >= 0:
                files.append(os.dup(self._file))
            begun, self._dirty, self._begun = self._begun, False, False
        for file in files:
            try:
                os.fsync(file)
            except OSError as error:
                self._error = error
            finally:
                os.close(file)
        if begun:
            with suppress(OSError):  # some file systems do not sync folders
                folder = os.open(self._folder, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written: {error.strerror}")


def versions() -> dict[str, str]:
    """The versions and the machine, on which the last bits of a result may depend."""
    return {
        "edge-tracker": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "machine": platform.machine(),
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
