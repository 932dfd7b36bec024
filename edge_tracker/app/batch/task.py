"""The steps of one video: examine, track (whole or in segments), join, put in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_tracker.app.batch.inputs import Video, printable
from edge_tracker.app.batch.results import Failure, Record, Results, stamp_of
from edge_tracker.app.batch.segments import Part, Segment, cut_into
from edge_tracker.app.batch.video_settings import DEFAULT_MOT, BatchSettings
from edge_tracker.app.batch.worker import Examined, Failed, Joined, Tracked
from edge_tracker.errors import OutputError

ATTEMPTS = 3  # attempts at a video whose workers die

WHOLE = Segment(1, None)


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a worker's method for a video.

    Attributes:
        task: the video's task.
        method, arguments: the method of `BatchWorker`, and its arguments.
        weight: share of the video's work, 0 to 1.
        frames: number of frames to process; None if it is not known.
        part: number of the segment, from 0; -1 for the whole video to compare with.
        folder: the folder for the results.
    """

    task: Task
    method: str
    arguments: tuple[Any, ...]
    weight: float = 0.0
    frames: int | None = None
    part: int = 0
    folder: Path | None = None


class Task:
    """A video that is to be processed.

    Args:
        video: the video.
        settings: the settings for each video.
        results: the folder of the results.
        known: the record of an earlier batch with the same settings, if only the file has changed.
        compare: also track a video whole if it is cut.

    Attributes:
        size: bytes; its weight in the progress.
        result: the record or the failure; None while it is being processed.
        kept: True if the results of an earlier batch stay, since the content has not changed.
    """

    def __init__(
        self,
        video: Video,
        settings: BatchSettings,
        results: Results,
        known: Record | None = None,
        compare: bool = False,
    ) -> None:
        self.video, self.kept = video, False
        self.result: Record | Failure | None = None
        try:
            self.size = max(1, video.path.stat().st_size)
        except OSError:  # missing; the worker will say so
            self.size = 1
        self._settings, self._results, self._known, self._compare = settings, results, known, compare
        self._examined: Examined | None = None
        self._segments: list[Segment] = []
        self._tracked: dict[int, tuple[Path, Tracked]] = {}
        self._folders: list[Path] = []
        self._deaths = 0

    def begin(self) -> Call:
        """The first call."""
        return Call(self, "examine", (self.video.path,))

    def answered(self, call: Call, answer: Any) -> list[Call]:
        """Take a worker's answer, and return the calls that follow."""
        if self.result is not None:
            return []
        try:
            if isinstance(answer, Failed):
                return self._fail(answer.reason)
            if isinstance(answer, Examined):
                return self._plan(answer)
            if isinstance(answer, Tracked):
                assert call.folder is not None
                self._tracked[call.part] = call.folder, answer
                if len(self._tracked) < len(self._segments) + self._comparing:
                    return []
                if len(self._segments) > 1:
                    return [self._join()]
                self._finish(call.folder, answer.tracks)
                return []
            assert isinstance(answer, Joined)
            assert call.folder is not None
            self._finish(call.folder, answer.tracks, answer)
            return []
        except OutputError as error:
            return self._fail(str(error))
        except OSError as error:
            return self._fail(f"its results cannot be read: {error.strerror}")

    def died(self, call: Call, how: str) -> list[Call]:
        """Handle the death of the worker that had the call."""
        if self.result is not None:
            return []
        self._deaths += 1
        if self._deaths >= ATTEMPTS:
            return self._fail(f"{self._deaths} workers that processed it {how}")
        try:
            return [self._again(call)]
        except OutputError as error:
            return self._fail(str(error))

    # ---- the steps ---------------------------------------------------------------------------------------------------

    @property
    def _comparing(self) -> bool:
        return self._compare and len(self._segments) > 1

    def _plan(self, examined: Examined) -> list[Call]:
        self._examined = examined
        known, settings = self._known, self._settings
        if known is not None and known.sha256 == examined.sha256:
            self.result = known.model_copy(update={"stamp": examined.stamp, "video": self.video.name})
            self.kept = True
            self._results.update(self.video, self.result)
            return []
        self._segments = [WHOLE]
        if settings.cut is not None:
            every = settings.config.detector.every
            self._segments = cut_into(examined.frames, examined.fps, settings.cut, every)
        parts = [(part, segment) for part, segment in enumerate(self._segments)]
        if self._comparing:
            parts.append((-1, WHOLE))
        lengths = [self._length(segment) for _, segment in parts]
        total = sum(lengths)
        return [
            self._track(part, segment, length / total) for (part, segment), length in zip(parts, lengths, strict=True)
        ]

    def _length(self, segment: Segment) -> int:
        """Number of frames, as far as it is known."""
        assert self._examined is not None
        frames = self._examined.frames or 1
        return max(1, segment.count or frames - segment.first + 1)

    def _outputs(self, part: int, folder: Path) -> dict[str, Path]:
        """The output files of a part: those in the configuration, and for a segment always the boxes."""
        wanted = {} if part < 0 else self._settings.outputs()
        if part < 0 or len(self._segments) > 1:
            wanted = {**wanted, "mot": wanted.get("mot", _other_than(DEFAULT_MOT, wanted))}
        return {key: folder / name for key, name in wanted.items()}

    def _track(self, part: int, segment: Segment, weight: float) -> Call:
        assert self._examined is not None
        folder = self._new_folder()
        outputs = self._outputs(part, folder)
        arguments = (self.video.path, self._examined.stamp, outputs, segment.first, segment.count)
        frames = self._length(segment) if self._examined.frames else None
        return Call(self, "track", arguments, weight, frames, part, folder)

    def _join(self) -> Call:
        parts = []
        for part, segment in enumerate(self._segments):
            outputs = self._outputs(part, self._tracked[part][0])
            parts.append(Part(segment, outputs["mot"], outputs.get("jsonl")))
        folder = self._new_folder()
        outputs = {key: folder / name for key, name in self._settings.outputs().items()}
        whole = self._outputs(-1, self._tracked[-1][0])["mot"] if self._comparing else None
        return Call(self, "join", (parts, outputs, whole), folder=folder)

    def _again(self, call: Call) -> Call:
        """The same call in another folder: the worker may still be alive."""
        if call.method == "examine":
            return self.begin()
        if call.method == "join":
            return self._join()
        segment = WHOLE if call.part < 0 else self._segments[call.part]
        return self._track(call.part, segment, call.weight)

    def _finish(self, folder: Path, tracks: int, joined: Joined | None = None) -> None:
        examined = self._examined
        assert examined is not None
        done = [tracked for part, (_, tracked) in sorted(self._tracked.items()) if part >= 0]
        frames = sum(tracked.frames for tracked in done)
        for before, after in zip(self._segments, self._segments[1:], strict=False):
            assert before.count is not None
            frames -= before.first + before.count - after.first  # in both
        record = Record(
            video=self.video.name,
            sha256=examined.sha256,
            stamp=examined.stamp,
            key=self._settings.key,
            frames=frames,
            tracks=tracks,
            seconds=round(sum(tracked.seconds for tracked in done), 3),
            segments=len(self._segments),
            warnings=list(dict.fromkeys(warning for tracked in done for warning in tracked.warnings)),
            outputs={name: (folder / name).stat().st_size for name in self._settings.outputs().values()},
            difference=None if joined is None else joined.difference,
        )
        self._results.publish(self.video, folder, record)
        self.result = record
        self._drop_folders()

    def _fail(self, reason: str) -> list[Call]:
        self.result = Failure(printable(reason), "" if self._examined is None else self._examined.sha256)
        self._drop_folders()
        return []

    def _new_folder(self) -> Path:
        self._folders.append(self._results.new_work())
        return self._folders[-1]

    def _drop_folders(self) -> None:
        for folder in self._folders:
            self._results.drop_work(folder)
        self._folders = []


def _other_than(name: str, taken: dict[str, str]) -> str:
    """`name`, changed to differ from the names of other outputs."""
    while name in taken.values():
        name = f"_{name}"
    return name


def tasks_for(
    videos: list[Video], settings: BatchSettings, results: Results, compare: bool
) -> Iterator[tuple[Video, Task | Record]]:
    """For each video its task, or its record if it is finished already.

    A file with its recorded size, time and inode is taken to have the same content. For any other file the content
    decides, which a worker hashes.
    """
    for video in videos:
        record = results.record_of(video)
        if record is not None and record.key != settings.key:
            record = None
        if record is not None and compare and record.segments > 1 and record.difference is None:
            record = None
        if record is not None:
            try:
                unchanged = stamp_of(video.path) == record.stamp
            except OSError:
                unchanged = False
            if unchanged:
                yield video, record
                continue
        yield video, Task(video, settings, results, record, compare)
