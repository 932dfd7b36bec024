"""Output files: MOTChallenge text, JSON lines, annotated video. The formats are described in docs/results.md.

Text is written a whole frame at a time and at once, so that at most the last line is incomplete, however the process
ends.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.annotate import Annotator
from edge_tracker.app.outputs.payloads import event_fields, track_fields
from edge_tracker.app.outputs.rotation import Rotation, drop_torn_line, put_aside
from edge_tracker.app.sources.frames import Frame
from edge_tracker.errors import OutputError

log = logging.getLogger(__name__)

JSONL_SCHEMA = 1
SYNC_EVERY_S = 1.0  # what a power cut may cost
VIDEO_FPS = 25.0
# Codecs that every build of OpenCV can encode: MPEG-4 Part 2 by FFmpeg's own encoder (the wheels have no H.264), and
# Motion JPEG, which OpenCV encodes itself where there is no FFmpeg.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


class Sink(Protocol):
    """An output that takes the results of each frame."""

    path: Path

    def write(self, frame: Frame, tracks: FrameTracks) -> None:
        """Take one frame's results.

        Raises:
            OutputError: they cannot be written.
        """

    def close(self) -> None:
        """Finish the file.

        Raises:
            OutputError: it is not complete.
        """


def check_output(path: Path) -> None:
    """Refuse a path that cannot be written, before anything is loaded or any old result touched.

    Raises:
        OutputError: it is a folder, is below a file, or may not be written.
    """
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder; give a file in it")
    if os.path.lexists(path):
        if not os.access(path, os.W_OK):
            raise OutputError(f"{path}: cannot be written: permission denied")
        return
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        raise OutputError(f"{path}: cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written: permission denied in {folder}")


class _TextSink:
    """A file of lines. See `Rotation` for what happens to a file that is there, or gets large."""

    def __init__(self, path: Path, rotation: Rotation | None = None) -> None:
        check_output(path)
        self.path = path
        self._rotation = rotation or Rotation()
        self._open()

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._rotation.live and self.path.is_file() and self.path.stat().st_size:
                drop_torn_line(self.path)
                put_aside(self.path, self._rotation.keep)
            self._file = self.path.open("wb", buffering=0)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._size, self._begun = 0, date.today()
        self._looked = time.monotonic()

    def _put(self, text: str) -> None:
        data = text.encode()
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            with suppress(OSError):  # a full disk: remove the part of a line that was still written
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._size += len(data)
        if time.monotonic() - self._looked >= SYNC_EVERY_S:
            self._look_after()

    def _look_after(self) -> None:
        """Sync the lines to the disk, check that the file is still in its place, and put it aside when that is due."""
        self._looked = time.monotonic()
        try:
            os.fsync(self._file.fileno())
            there = os.path.exists(self.path) and os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
            if not there:
                if not self._rotation.live:
                    raise OutputError(f"{self.path}: was removed while it was being written")
                log.warning("%s: was removed; a new one is started", self.path)
            elif not self._rotation.due(self._size, self._begun):
                return
            else:
                put_aside(self.path, self._rotation.keep)
            self._file.close()
        except OSError as error:
            if error.errno == errno.EINVAL:  # a pipe or a device, which has nothing to sync
                return
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._open()

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None


class MotSink(_TextSink):
    """MOTChallenge results: `frame,id,left,top,width,height,confidence,-1,-1,-1`."""

    def write(self, frame: Frame, tracks: FrameTracks) -> None:
        rows = []
        for k in range(len(tracks)):
            left, top, right, bottom = tracks.ltrb[k].tolist()
            confidence = float(tracks.confidence[k])
            unknown = 0.0 if tracks.is_coasting(k) else 1.0
            score = confidence if math.isfinite(confidence) else unknown
            rows.append(
                f"{frame.index},{tracks.ids[k]},{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},"
                f"{score:.4f},-1,-1,-1\n"
            )
        if rows:
            self._put("".join(rows))


class JsonlSink(_TextSink):
    """JSON lines: one object for each frame, with or without tracks; for a live source with the time of day."""

    def write(self, frame: Frame, tracks: FrameTracks) -> None:
        record: dict[str, Any] = {"schema": JSONL_SCHEMA, "frame": frame.index, "time": round(frame.time, 3)}
        if self._rotation.live:
            record["wall"] = round(frame.wall, 3)
        if tracks.predicted:
            record["predicted"] = True
        record["tracks"] = track_fields(tracks)
        if tracks.events:
            record["events"] = [event_fields(event) for event in tracks.events]
        self._put(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")


class VideoSink:
    """The frames with the tracks drawn on them. The first frame decides the size."""

    def __init__(self, path: Path, fps: float | None, rotation: Rotation | None = None) -> None:
        check_output(path)
        self.path = path
        self._rotation = rotation or Rotation()
        self._fps = fps or VIDEO_FPS
        self._annotator = Annotator()
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: Frame, tracks: FrameTracks) -> None:
        assert frame.image is not None, "the configuration allows no video without images"
        if self._writer is None:
            self._open(frame.image)
        image = self._annotator.draw(frame.image, tracks.ids, tracks.ltrb, tracks.labels())
        assert self._writer is not None
        self._writer.write(self._fit(image))
        if time.monotonic() - self._looked >= SYNC_EVERY_S:
            self._look_after()

    def _look_after(self) -> None:
        """Finish the file and put it aside when that is due; the next frame starts another."""
        self._looked = time.monotonic()
        try:
            size = self.path.stat().st_size
            if self._rotation.due(size, self._begun):
                self.close()
                put_aside(self.path, self._rotation.keep)
        except OSError as error:
            if self._writer is not None:
                self._writer.release()
                self._writer = None
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _open(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        # Both codecs work on 2x2 blocks of colour; some players refuse odd sizes.
        self._size = (width + width % 2, height + height % 2)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._rotation.live and self.path.is_file() and self.path.stat().st_size:
                put_aside(self.path, self._rotation.keep)
            self.path.open("wb").close()  # for the reason of a failure, which OpenCV does not give
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from None
        fourcc = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        writer = cv2.VideoWriter(str(self.path), fourcc, self._fps, self._size)
        if not writer.isOpened():
            raise OutputError(
                f"{self.path}: this OpenCV cannot write {self._size[0]}x{self._size[1]} video of this kind; "
                f"give {' or '.join(set(CODECS) - {self.path.suffix.lower()})}"
            )
        self._writer = writer
        self._begun, self._looked = date.today(), time.monotonic()

    def _fit(self, image: np.ndarray) -> np.ndarray:
        """The image in the video's size: the writer would silently drop one of another size."""
        width, height = self._size
        rows, columns = height - image.shape[0], width - image.shape[1]
        if rows == columns == 0:
            return image
        if rows not in (0, 1) or columns not in (0, 1):
            scale = min(width / image.shape[1], height / image.shape[0])
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            image = cv2.resize(image, size)
            rows, columns = height - image.shape[0], width - image.shape[1]
        return cv2.copyMakeBorder(image, 0, rows, 0, columns, cv2.BORDER_CONSTANT)

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        # OpenCV's writer reports nothing, not even a full disk: look at the file.
        capture = cv2.VideoCapture(str(self.path))
        readable = capture.isOpened() and capture.read()[0]
        capture.release()
        if not readable:
            raise OutputError(f"{self.path}: the video written cannot be read back; is the disk full?")
