"""A worker: it loads the models once, and processes videos and parts of them.

A worker touches nothing but the folder that it is told to work in. Its answers are plain data; a failure of a video is
an answer as well: `Failed`.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from edge_tracker.app.batch.inputs import printable
from edge_tracker.app.batch.results import CutDifference, Stamp, sha256_of, stamp_of
from edge_tracker.app.batch.segments import Part, compare, join
from edge_tracker.app.batch.video_settings import NO_FILES
from edge_tracker.app.config.schema import Config
from edge_tracker.app.open_models import Models, open_models
from edge_tracker.app.open_tracker import compile_ahead
from edge_tracker.app.run.allocation import give_back_large_blocks
from edge_tracker.app.run.pipeline import Pipeline
from edge_tracker.app.sources.opening import open_source
from edge_tracker.errors import ConfigError, EdgeTrackerError, OutputError, ServerError, SourceError
from edge_tracker.version import __version__

MOST_NOTED = 20  # most warnings kept for a video


@dataclass(frozen=True)
class Failed:
    """The call failed.

    Attributes:
        reason: one line.
        trace: the traceback of a bug; "" for a problem that a user can fix.
    """

    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Opened:
    """A worker is ready."""

    process: int
    host: str


@dataclass(frozen=True)
class Examined:
    """A video's hash, file stamp, and declared properties."""

    sha256: str
    stamp: Stamp
    frames: int | None
    fps: float | None


@dataclass(frozen=True)
class Tracked:
    """A video, or a part of one, was tracked."""

    frames: int
    tracks: int
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Joined:
    """The parts of a video were joined into one result."""

    tracks: int
    difference: CutDifference | None


class BatchWorker:
    """One of the processes that track.

    Args:
        config: `BatchSettings.config`, as plain data.
        version: the version of the program that started it.
        threads: CPU threads for a model, if the configuration does not set them.
    """

    def __init__(self, config: dict[str, Any], version: str, threads: int) -> None:
        self._given, self._version, self._threads = config, version, threads
        self._config = Config()
        self._models: Models | None = None
        self._pipeline: Pipeline | None = None

    def open(self) -> Opened | Failed:
        """Load the models; not in the constructor, so that a problem becomes an answer."""
        host = os.uname().nodename
        with _answering() as answer:
            if self._version != __version__:
                raise ConfigError(f"edge-tracker {__version__} is installed there, not {self._version}")
            config = Config.model_validate(self._given)
            self._config = config.model_copy(update={"threads": config.threads or self._threads})
            give_back_large_blocks()
            cv2.setNumThreads(self._threads)
            self._models = open_models(self._config)
            compile_ahead(self._config.tracker.method)  # on another machine than the batch's own
            return Opened(os.getpid(), host)
        return Failed(f"worker on {host}: {answer[0].reason}", answer[0].trace)

    def examine(self, video: Path) -> Examined | Failed:
        """Hash a video, and check that it can be opened."""
        with _answering(video) as answer:
            try:
                stamp = stamp_of(video)
                sha256 = sha256_of(video)
            except OSError as error:
                raise SourceError(f"cannot be read: {error.strerror}") from None
            source = open_source(str(video), self._config.source.fps)
            try:
                return Examined(sha256, stamp, source.frame_count, source.fps)
            finally:
                source.close()
        return answer[0]

    def track(
        self, video: Path, stamp: Stamp, outputs: dict[str, Path], first: int = 1, count: int | None = None
    ) -> Tracked | Failed:
        """Track a video as `edge-tracker run` would.

        Args:
            video: the source.
            stamp: the file's stamp when it was examined; if it changes meanwhile, that is a failure.
            outputs: the file of each output, by its key.
            first: number of the first frame, from 1.
            count: number of frames; None for all to the end.
        """
        with _answering(video) as answer, _noting() as noted:
            assert self._models is not None, "open() comes first"
            config = self._config.model_copy(
                update={
                    "source": self._config.source.model_copy(update={"uri": str(video), "wait": False}),
                    "outputs": self._config.outputs.model_copy(
                        update={**NO_FILES, **{name: str(path) for name, path in outputs.items()}}
                    ),
                }
            )
            with Pipeline(config, models=self._models, files_only=True, skip=first - 1) as self._pipeline:
                servers = self._pipeline.summary.stats.servers
                missed = sum(server.lost + server.fallback for server in servers.values())
                self._pipeline.run(count)
                missed = sum(server.lost + server.fallback for server in servers.values()) - missed
            summary, self._pipeline = self._pipeline.summary, None
            if missed:  # results must not depend on the time at which they are made
                raise ServerError(f"the model's server was away or late, and did not process {missed} frames or crops")
            errors = [text for level, text in noted if level >= logging.ERROR]
            if errors:
                raise OutputError(errors[0])
            try:
                unchanged = stamp_of(video) == stamp
            except OSError as error:
                raise SourceError(f"disappeared while it was read: {error.strerror}") from None
            if not unchanged:
                raise SourceError("was changed while it was read; is it still being written?")
            return Tracked(summary.frames, summary.tracks, summary.seconds, [text for _, text in noted])
        self._pipeline = None
        return answer[0]

    def join(self, parts: list[Part], outputs: dict[str, Path], uncut: Path | None) -> Joined | Failed:
        """Join the parts of a video; compare with the MOT file of the whole one, if there is one."""
        with _answering() as answer:
            try:
                tracks = join(parts, outputs)
                joined = outputs.get("mot") or parts[0].mot.with_name("joined.txt")
                if uncut is not None and "mot" not in outputs:
                    join(parts, {"mot": joined})
                return Joined(tracks, None if uncut is None else compare(uncut, joined))
            except OSError as error:
                raise OutputError(f"the segments cannot be joined: {error.strerror}") from None
        return answer[0]

    def look(self) -> int:
        """Number of frames of the current call that are done."""
        pipeline = self._pipeline
        return 0 if pipeline is None else pipeline.summary.frames


@contextmanager
def _answering(about: Path | None = None) -> Iterator[list[Failed]]:
    """Put a raised exception as `Failed` into the list, without the name of the video that it is about."""
    answer: list[Failed] = []
    try:
        yield answer
    except EdgeTrackerError as error:
        reason = "; ".join(str(error).split("\n"))
        if about is not None:
            reason = reason.removeprefix("source.uri: ").removeprefix(f"{about}: ")
        answer.append(Failed(printable(reason)))
    except Exception as error:  # it concerns a single video, so the others continue
        answer.append(Failed(printable(f"failed: {type(error).__name__}: {error}"), traceback.format_exc()))


class _Noting(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.noted: list[tuple[int, str]] = []
        self._own = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        with self._own:
            if len(self.noted) < MOST_NOTED or record.levelno >= logging.ERROR > self.noted[-1][0]:
                self.noted.append((record.levelno, printable(record.getMessage())))


@contextmanager
def _noting() -> Iterator[list[tuple[int, str]]]:
    """Collect the package's warnings and errors, as level and text, since nobody sees a worker's own log."""
    handler, package = _Noting(), logging.getLogger("edge_tracker")
    package.addHandler(handler)
    try:
        yield handler.noted
    finally:
        package.removeHandler(handler)
