"""Where frames come from: a video file, images, a camera, a network stream, or none at all for replayed detections.

A source reads its first frame when it is opened, so that what cannot be read is known before any result is touched.
"""

from __future__ import annotations

import glob
import logging
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from edge_tracker.app.uri import (
    IMAGE_SUFFIXES,
    camera_index,
    is_path,
    number_pattern,
    redact,
    resolve_source,
)
from edge_tracker.errors import SourceError

# OpenCV and FFmpeg print what they think of a stream, with its URL, to stderr. What matters of it is in this module's
# own messages. FFmpeg's part reads its variable at its first use.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    _set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # 4.x, 5.x
    _set_log_level(0)

log = logging.getLogger(__name__)

IMAGE_FPS = 10.0
OPEN_TIMEOUT_MS = 15_000
READ_TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes:
        index: number within the source, from 1.
        time: seconds since the first frame; never less than that of the frame before.
        image: (H, W, 3) uint8, BGR; None where detections are replayed without images.
    """

    index: int
    time: float
    image: np.ndarray | None


class Source(Protocol):
    """Frames in order.

    Attributes:
        name: what to call it in messages, without credentials.
        fps: frames per second, or None if unknown.
        frame_count: number of frames, or None if unknown. A container's own figure may be wrong.
        live: frames come as time passes; what is not read is lost.
    """

    name: str
    fps: float | None
    frame_count: int | None
    live: bool

    def __iter__(self) -> Iterator[Frame]:
        """The frames, once.

        Raises:
            SourceError: a live source stopped giving frames.
        """

    def close(self) -> None:
        """Let go of the file or the device."""


def open_source(uri: str | int, fps: float | None = None) -> Source:
    """Open a source and read its first frame.

    Args:
        uri: a video file, an image folder, pattern or glob, a camera's number or device, or a network URL.
        fps: the frame rate to assume, whatever the source says.

    Raises:
        SourceError: it does not exist, cannot be opened, or holds no readable frame.
    """
    number = camera_index(uri)
    if number is not None:
        return VideoSource(number, fps, live=True)
    text = str(uri)
    if not is_path(text):
        return VideoSource(text, fps, live=True)
    text = str(resolve_source(text, Path.cwd()))
    if os.path.isdir(text):
        return ImageSource(text, _images_of_folder(Path(text)), fps)
    if os.path.isfile(text):
        if Path(text).suffix.lower() in IMAGE_SUFFIXES:
            return ImageSource(text, [Path(text)], fps)
        return VideoSource(text, fps, live=False)
    if re.match(r"/dev/video\d+$", text) or (os.path.exists(text) and not text.endswith("/")):
        return VideoSource(text, fps, live=True)  # a device, a pipe
    files = _images_of_pattern(Path(text))
    if files is None:
        raise SourceError(f"{text}: no such file or folder; give a video, an image folder, a camera number or a URL")
    return ImageSource(text, files, fps)


class VideoSource:
    """A video file, a camera or a network stream, through OpenCV."""

    def __init__(self, uri: str | int, fps: float | None, live: bool) -> None:
        camera = isinstance(uri, int) or uri.startswith("/dev/")
        self.name = f"camera {uri}" if isinstance(uri, int) else redact(uri)
        self._capture = _open_capture(uri, camera)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(f"{self.name}: {_why_not_opened(uri, camera, live)}")
        own_fps = self._capture.get(cv2.CAP_PROP_FPS)
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finite = math.isfinite(count) and 0 < count < 1e9 and not camera
        self.live = live and not finite  # an http:// URL may be a file
        self.frame_count = int(count) if finite else None
        self.fps = fps or (own_fps if math.isfinite(own_fps) and 0 < own_fps <= 240 else None)
        self._fixed_fps = fps
        self._started = time.monotonic()
        ok, image = self._read()
        if not ok:
            self._capture.release()
            raise SourceError(f"{self.name}: opened, but holds no readable frame; is the file damaged or empty?")
        self._first = image

    def __iter__(self) -> Iterator[Frame]:
        index, last = 0, 0.0
        image: np.ndarray | None
        while True:
            if self._first is not None:
                ok, image, self._first = True, self._first, None
            else:
                ok, image = self._read()
            if not ok or image is None:
                break
            index += 1
            last = max(last, self._time_of(index))
            yield Frame(index, last, image)
        if self.live:
            raise SourceError(f"{self.name}: stopped giving frames after {index}")
        # Only an estimate in some containers: a frame or two less is no reason for alarm.
        if self.frame_count is not None and index < self.frame_count - max(2, self.frame_count // 100):
            log.warning(
                "%s: ended after %d of %d frames; the rest cannot be read, or the file says a wrong number",
                self.name,
                index,
                self.frame_count,
            )

    def _read(self) -> tuple[bool, np.ndarray | None]:
        try:
            ok, image = self._capture.read()
        except cv2.error:  # raised instead of False by some backends on a broken stream
            return False, None
        return bool(ok) and image is not None and image.size > 0, image

    def _time_of(self, index: int) -> float:
        if self._fixed_fps:
            return (index - 1) / self._fixed_fps
        if self.live:
            return time.monotonic() - self._started
        position = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if math.isfinite(position) and (position > 0 or index == 1):
            return max(0.0, position)
        return (index - 1) / (self.fps or IMAGE_FPS)

    def close(self) -> None:
        self._capture.release()


class ImageSource:
    """Image files in order. An unreadable one is left out with a warning; its number is not given to another."""

    def __init__(self, name: str, files: list[Path], fps: float | None) -> None:
        self.name = name
        self.live = False
        self.fps: float | None = fps or IMAGE_FPS
        self.frame_count: int | None = len(files)
        self._files = files
        if not files:
            kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
            raise SourceError(f"{name}: no images in it; looked for {kinds}")
        self._first = next(((i, image) for i in range(len(files)) if (image := self._load(i)) is not None), None)
        if self._first is None:
            raise SourceError(f"{name}: none of its {len(files)} images can be read; the first is {files[0].name}")

    def __iter__(self) -> Iterator[Frame]:
        assert self._first is not None
        assert self.fps is not None
        start, image = self._first
        for i in range(start, len(self._files)):
            frame = image if i == start else self._load(i)
            if frame is not None:
                yield Frame(i + 1, i / self.fps, frame)

    def _load(self, i: int) -> np.ndarray | None:
        try:
            image = cv2.imread(str(self._files[i]), cv2.IMREAD_COLOR)
        except cv2.error:  # larger than OpenCV's own limit
            image = None
        if image is None:
            log.warning("%s: cannot be read as an image; left out", self._files[i])
        return image

    def close(self) -> None:
        pass


class NoImages:
    """Frame numbers and times alone, for detections that are replayed without their video."""

    def __init__(self, name: str, frame_count: int, fps: float | None) -> None:
        self.name = name
        self.live = False
        self.fps: float | None = fps or IMAGE_FPS
        self.frame_count: int | None = frame_count

    def __iter__(self) -> Iterator[Frame]:
        assert self.fps is not None
        assert self.frame_count is not None
        for index in range(1, self.frame_count + 1):
            yield Frame(index, (index - 1) / self.fps, None)

    def close(self) -> None:
        pass


def _open_capture(uri: str | int, camera: bool) -> cv2.VideoCapture:
    try:
        if camera:
            return cv2.VideoCapture(uri)
        if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            # Named: other backends would take the name of one image for a sequence, and print what they think.
            timeouts = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                OPEN_TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                READ_TIMEOUT_MS,
            ]
            return cv2.VideoCapture(uri, cv2.CAP_FFMPEG, timeouts)
        return cv2.VideoCapture(uri)
    except cv2.error:
        return cv2.VideoCapture()


def _why_not_opened(uri: str | int, camera: bool, live: bool) -> str:
    if camera:
        return "cannot be opened; is it plugged in, free, and may this user read it?"
    if live:
        return "cannot be opened; check the address, the network and the credentials"
    if os.path.getsize(uri) == 0:
        return "cannot be opened as a video: the file is empty"
    if not os.access(uri, os.R_OK):
        return "cannot be opened: permission denied"
    return "cannot be opened as a video: damaged, or of a kind that this OpenCV does not read"


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that puts 9.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _images_of_folder(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read: {error.strerror}") from None
    files = (folder / name for name in names if not name.startswith("."))
    return sorted((file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()), key=_natural)


def _images_of_pattern(pattern: Path) -> list[Path] | None:
    """The files of `img1/%06d.jpg` by number, or of a glob by name; None if `pattern` is neither."""
    expression = number_pattern(pattern.name)
    if expression is not None:
        try:
            names = os.listdir(pattern.parent)
        except OSError as error:
            raise SourceError(f"{pattern}: {pattern.parent} cannot be read: {error.strerror}") from None
        numbered = sorted((int(match.group(1)), name) for name in names if (match := expression.fullmatch(name)))
        if not numbered:
            raise SourceError(f"{pattern}: no file of that pattern in {pattern.parent}")
        return [pattern.parent / name for _, name in numbered]
    if glob.has_magic(str(pattern)):
        found = sorted((Path(name) for name in glob.glob(str(pattern)) if os.path.isfile(name)), key=_natural)
        if not found:
            raise SourceError(f"{pattern}: no file of that pattern")
        return found
    return None
