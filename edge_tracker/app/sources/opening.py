"""Opens the source of a URI: a video file, images, or a camera or stream."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge_tracker.app.config.uri import IMAGE_SUFFIXES, is_path, number_pattern, resolve_source, scheme_of
from edge_tracker.app.sources.capture import Capture, open_capture, source_name
from edge_tracker.app.sources.live import STALL_S, LiveSource, interruptibly
from edge_tracker.app.sources.stored import ImageSource, VideoSource
from edge_tracker.errors import SourceError


def open_source(
    uri: str | int, fps: float | None = None, wait: bool = False, stall_s: float = STALL_S, skip: int = 0
) -> LiveSource | VideoSource | ImageSource:
    """Open a source and read its first frame.

    Args:
        uri: a video file, an image folder, pattern or glob, a camera's number or device, or a URI of `uri.SCHEMES`.
        fps: the frame rate to assume, whatever the source says.
        wait: return at once for a camera or stream that is not there yet, and wait for it.
        stall_s: seconds without a frame after which a camera or stream counts as lost and is reopened.
        skip: frames to skip at the start of a video file; the others keep their numbers and times.

    Returns:
        A `LiveSource` for a camera or stream. A file over HTTP is read like any other file, if it is there.

    Raises:
        SourceError: it does not exist, cannot be opened, or holds no readable frame.
    """
    text = str(uri)
    if not is_path(uri):
        return _open_stream(uri, fps, wait, stall_s)
    text = str(resolve_source(text, Path.cwd()))
    if os.path.isdir(text):
        return ImageSource(text, _images_of_folder(Path(text)), fps)
    if os.path.isfile(text):
        if Path(text).suffix.lower() in IMAGE_SUFFIXES:
            return ImageSource(text, [Path(text)], fps)
        return VideoSource(open_capture(text), fps, skip)
    if os.path.exists(text) and stat.S_ISFIFO(os.stat(text).st_mode):
        return VideoSource(open_capture(text), fps)  # its writer waits: nothing need be dropped
    if re.match(r"/dev/(video\d+$|v4l/.)", text) or (os.path.exists(text) and not text.endswith("/")):
        return _open_stream(text, fps, wait, stall_s)
    files = _images_of_pattern(Path(text))
    if files is None:
        raise SourceError(f"{text}: no such file or folder; give a video, an image folder, a camera number or a URL")
    return ImageSource(text, files, fps)


def _open_stream(uri: str | int, fps: float | None, wait: bool, stall_s: float) -> LiveSource | VideoSource:
    opener: Callable[[], Capture] = partial(open_capture, uri, stall_s)
    if scheme_of(uri) in ("http", "https"):
        try:
            capture = interruptibly(opener)
        except SourceError:
            if not wait:
                raise
        else:
            if capture.frame_count is not None:
                return VideoSource(capture, fps)
            opener = _first(capture, opener)
        opener = _endless(opener)
    return LiveSource(opener, source_name(uri), fps, wait, stall_s)


def _first(opened: Capture, opener: Callable[[], Capture]) -> Callable[[], Capture]:
    """An opener that returns `opened` the first time, and calls `opener` after that."""
    ready = [opened]
    return lambda: ready.pop() if ready else opener()


def _endless(opener: Callable[[], Capture]) -> Callable[[], Capture]:
    """An opener that refuses a stream with an end: as a live source it would lose frames, and restart for ever."""

    def open_endless() -> Capture:
        capture = opener()
        if capture.frame_count is not None:
            capture.close()
            raise SourceError(f"{capture.name}: expected a camera, but it is a file; start again to read it")
        return capture

    return open_endless


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
