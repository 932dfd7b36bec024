"""The videos of a batch, and the folder of each one's results."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from edge_tracker.app.config.uri import IMAGE_SUFFIXES
from edge_tracker.errors import ConfigError, OutputError, SourceError

log = logging.getLogger(__name__)

# Suffixes of videos in a folder. A pattern or a path may name anything.
SUFFIXES = (".mp4", ".m4v", ".avi", ".mkv", ".mov", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv")


@dataclass(frozen=True)
class Video:
    """One video.

    Attributes:
        path: absolute.
        place: the folder of its results, relative to that of all results: its path below the fixed part of its
            input's pattern, with the suffix, since `a.mp4` and `a.avi` are two videos.
    """

    path: Path
    place: PurePath

    @property
    def name(self) -> str:
        """Its name in messages and tables."""
        return printable(str(self.path))


def printable(text: str) -> str:
    """`text` with unprintable characters, such as bytes of a name that is not UTF-8, as escapes."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def find_videos(inputs: Sequence[str], output: Path) -> list[Video]:
    """The videos of folders, patterns and paths, by name.

    Files below `output` are skipped: annotated videos are not to be tracked.

    Args:
        inputs: folders (all videos below), patterns with `*`, `?`, `[...]` and `**`, and single videos.
        output: the folder of the results.

    Raises:
        ConfigError: an input gives no video, or images; or two videos would have one place.
        SourceError: a path or folder does not exist.
        OutputError: the results' folder is a file.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"--output: {output}: is a file; give a folder")
    results = output.resolve()
    videos: dict[Path, Video] = {}
    for text in inputs:
        root, paths = _matches(text)
        found = 0
        for path in paths:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                raise ConfigError(f"--inputs: {text!r} gives images, such as {path.name}; a batch needs videos")
            if results not in path.resolve().parents:
                absolute = Path(os.path.abspath(path))
                videos.setdefault(absolute, Video(absolute, PurePath(os.path.relpath(path, root))))
                found += 1
        if not found:
            raise ConfigError(
                f"--inputs: {text!r} gives no video; give files, folders or patterns such as 'a/**/*.mp4'"
            )
    _check_places(videos.values())
    return sorted(videos.values(), key=lambda video: video.path)


def _matches(text: str) -> tuple[str, Iterator[Path]]:
    """The files of an input, and the folder that their places are relative to."""
    given = os.path.expanduser(text)
    if os.path.isfile(given):
        return os.path.dirname(given) or ".", iter([Path(given)])
    if os.path.isdir(given):
        return given, _videos_below(given)
    if not glob.has_magic(given):
        raise SourceError(f"--inputs: {text}: no such file or folder")
    fixed: list[str] = []
    for part in Path(given).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    found = (Path(name) for name in glob.iglob(given, recursive=True) if os.path.isfile(name))
    return os.path.join(*fixed) if fixed else ".", found


def _videos_below(folder: str) -> Iterator[Path]:
    """The videos in a folder and below; hidden ones and links to folders are skipped."""
    for where, folders, names in os.walk(folder, onerror=lambda error: log.warning("%s; left out", error)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(where, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _check_places(videos: Iterable[Video]) -> None:
    places: dict[PurePath, Video] = {}
    for video in videos:
        other = places.setdefault(video.place, video)
        if other is not video:
            raise ConfigError(
                f"--inputs: {other.path} and {video.path} would both have their results in {video.place}; give one "
                "pattern or folder that holds both, or another --output for one of them"
            )
    for place, video in places.items():
        for folder in place.parents:
            if folder in places:
                raise ConfigError(
                    f"--inputs: the results of {places[folder].path} would hold those of {video.path}; give another "
                    "--output for one of them"
                )
