"""Replaying a recording: the tracker runs again on its recorded inputs, without video or models."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_tracker.app.config.loading import load_config
from edge_tracker.app.open_tracker import open_tracker
from edge_tracker.app.replay.recordfile import Arrays, read_records, segments_of
from edge_tracker.app.replay.recording import versions
from edge_tracker.errors import ConfigError, EdgeTrackerError, SourceError
from edge_tracker.track_arrays import TrackArrays

if TYPE_CHECKING:
    from edge_tracker.deepsort import EdgeDeepSort

log = logging.getLogger(__name__)

MOST_FRAME_RATE = 1e6  # that makes sense


@dataclass(frozen=True)
class RecordedFrame:
    """The tracker's inputs and outputs in one frame.

    Attributes:
        number: place in the run, from 0.
        index, time, dt: see `Recorder.write`.
        size: height and width, pixels, or None.
        ltwh: (M, 4) float32 or float64.
        confidence: (M,).
        class_ids: (M,) int64.
        names: the names of the classes.
        asked: (K,) int64, the detections that were embedded.
        features: (K, D) float32.
        tracks: `ids`, `ltrb`, `detection` and `confirmed` as in `TrackArrays`.
        state: the tracker's state before the frame, if the recording has it.
        changed: True if something other than the previous frame led to this state.
    """

    number: int
    index: int
    time: float
    dt: float
    size: tuple[int, int] | None
    ltwh: np.ndarray
    confidence: np.ndarray
    class_ids: np.ndarray
    names: tuple[str, ...]
    asked: np.ndarray
    features: np.ndarray
    tracks: Arrays
    state: Arrays | None = None
    changed: bool = False


class Recording:
    """A recorded run.

    Args:
        path: the folder that was recorded to, or one file of it.
        run: the number of the run in the folder; the last one if None.

    Attributes:
        header: the header of the first file.
        name: its name in messages.

    Raises:
        SourceError: there is no recording, or not that run, or it cannot be read.
    """

    def __init__(self, path: str | Path, run: int | None = None) -> None:
        path = Path(path)
        self.name = str(path)
        if path.is_file():
            if run is not None:
                raise SourceError(f"{path}: is a single file, which has only one run; omit --run, or give the folder")
            self.files = [path]
        elif path.is_dir():
            self.files = self._of_folder(path, run)
        else:
            raise SourceError(f"{path}: no such folder; give one that `edge-tracker run --record` wrote")
        while True:
            first = next(read_records(self.files[0]), None)
            if first is not None or len(self.files) == 1:
                break
            del self.files[0]  # cut off before anything was in it; there has been a warning
        if first is None:
            raise SourceError(f"{self.files[0]}: the recording has no frames in it")
        self.header, _ = self._header(self.files[0], first)

    def _of_folder(self, folder: Path, run: int | None) -> list[Path]:
        try:
            segments = segments_of(folder)
        except OSError as error:
            raise SourceError(f"{folder}: cannot be read: {error.strerror}") from None
        if not segments:
            raise SourceError(f"{folder}: not a recording: it has no .rec files; give what `run --record` wrote")
        runs = sorted({number for number, _ in segments})
        if run is None:
            run = runs[-1]
            if len(runs) > 1:
                log.info("%s: replaying run %d, the last of %s", folder, run, _listed(runs))
        elif run not in runs:
            raise SourceError(f"{folder}: has no run {run}; it has {_listed(runs)}")
        return [path for (number, _), path in segments.items() if number == run]

    def _header(self, path: Path, record: tuple[dict[str, Any], Arrays]) -> tuple[dict[str, Any], Arrays]:
        content, state = record
        wanted = {"kind", "camera", "frame_rate", "config", "method", "dimension", "versions", "n", "changed", "began"}
        sound = content.get("kind") == "header" and wanted <= set(content)
        if sound:
            sound = all(isinstance(content[name], dict) for name in ("config", "versions"))
            sound &= type(content["n"]) is int and type(content["dimension"]) in (int, type(None))
            rate = content["frame_rate"]
            sound &= rate is None or (isinstance(rate, (int, float)) and 0 < rate <= MOST_FRAME_RATE)
        if not sound:
            raise SourceError(f"{path}: does not begin with the header of a recording; copy the file again")
        return content, state

    def __iter__(self) -> Iterator[RecordedFrame]:
        """The frames, one by one.

        Raises:
            SourceError: a file is damaged in the middle.
        """
        expected: int | None = None
        for path in self.files:
            records = read_records(path)
            first = next(records, None)
            if first is None:
                continue
            header, state = self._header(path, first)
            changed = bool(header["changed"]) or expected is None
            if expected is not None and header["n"] != expected:
                log.warning(
                    "%s: %d frames before it are missing; the replay continues from the state recorded there",
                    path, header["n"] - expected,
                )  # fmt: skip
                changed = True
            expected = header["n"]
            names: tuple[str, ...] = ()
            size: tuple[int, int] | None = None
            held: Arrays | None = state
            for content, arrays in records:
                if content.get("kind") == "end":
                    continue
                try:
                    names = tuple(map(str, content.get("names", names)))
                    size = content.get("size", size)
                    size = None if size is None else (int(size[0]), int(size[1]))
                    frame = RecordedFrame(
                        int(content["n"]), int(content["frame"]), float(content["time"]), float(content["dt"]), size,
                        arrays["ltwh"], arrays["confidence"], arrays["class_ids"], names,
                        arrays.get("asked", np.empty(0, dtype=np.int64)),
                        arrays.get("features", np.empty((0, header["dimension"] or 0), dtype=np.float32)),
                        {name: arrays[name] for name in ("ids", "ltrb", "detection", "confirmed")},
                        held, changed and held is not None,
                    )  # fmt: skip
                    _check_shapes(frame, header["dimension"] or 0)
                except (KeyError, TypeError, ValueError, IndexError) as error:
                    raise SourceError(
                        f"{path}: a frame is not as it should be ({error}); copy the file again"
                    ) from None
                yield frame
                held = None
                expected = frame.number + 1


def _check_shapes(frame: RecordedFrame, dimension: int) -> None:
    """Refuse arrays that do not belong together; the tracker checks its inputs itself.

    Raises:
        ValueError: they do not; names the array.
    """
    n, asked = len(frame.tracks["ids"]), len(frame.asked)
    shapes = {"ltrb": (n, 4), "detection": (n,), "confirmed": (n,), "ids": (n,)}
    for name, shape in shapes.items():
        if frame.tracks[name].shape != shape:
            raise ValueError(f"{name} is {frame.tracks[name].shape} instead of {shape}")
    if frame.features.shape != (asked, dimension):
        raise ValueError(f"features are {frame.features.shape} instead of {(asked, dimension)}")
    if frame.ltwh.ndim != 2 or frame.asked.shape != (asked,) or frame.asked.dtype.kind != "i":
        raise ValueError("asked or ltwh has a wrong shape or type")
    if asked and not (frame.asked.min() >= 0 and frame.asked.max() < len(frame.ltwh)):
        raise ValueError("asked names a detection that does not exist")


class NotRecorded(SourceError):
    """The tracker requests a feature that the recording does not have.

    Attributes:
        frame: the frame's index.
    """

    def __init__(self, frame: int, box: Sequence[float]) -> None:
        left, top, width, height = box
        self.frame = frame
        super().__init__(
            f"frame {frame}: the tracker requests the feature of the box {left:.1f},{top:.1f} {width:.1f}x{height:.1f},"
            " which was not recorded: this version or machine decides differently from the one that recorded"
        )


class ReplayEmbedder:
    """Answers with the recorded features of the recorded boxes.

    Args:
        dimension: D.
        strict: refuse boxes that were not recorded. Otherwise they get a zero feature, which matches nothing, and are
            counted.

    Attributes:
        asked, missing: boxes whose features were requested, and those of them that had none.
    """

    def __init__(self, dimension: int, strict: bool) -> None:
        self.dimension = dimension
        self.asked = self.missing = 0
        self._strict = strict
        self._frame: RecordedFrame | None = None
        self._known: dict[bytes, list[int]] = {}

    def turn_to(self, frame: RecordedFrame) -> None:
        """Answer from this frame from now on."""
        self._frame, self._known = frame, {}
        boxes = np.asarray(frame.ltwh, dtype=np.float64)
        for k, index in enumerate(frame.asked.tolist()):
            self._known.setdefault(boxes[index].tobytes(), []).append(k)

    def embed(self, frame: Any, ltwh: np.ndarray, masks: Any = None, polygons: Any = None) -> np.ndarray:
        """As `Embedder.embed`; the image is not used.

        Raises:
            NotRecorded: a feature was not recorded.
        """
        assert self._frame is not None
        features = np.zeros((len(ltwh), self.dimension), dtype=np.float32)
        used: dict[bytes, int] = {}
        self.asked += len(ltwh)
        for row, box in enumerate(np.asarray(ltwh, dtype=np.float64)):
            key = box.tobytes()
            known = self._known.get(key)
            if known is None:
                if self._strict:
                    raise NotRecorded(self._frame.index, box.tolist())
                self.missing += 1
                continue
            place = used.get(key, 0)  # equal boxes are answered in the order in which they were recorded
            used[key] = place + 1
            features[row] = self._frame.features[known[min(place, len(known) - 1)]]
        return features

    def close(self) -> None:
        """Nothing to close."""


def _listed(runs: Sequence[int]) -> str:
    shown = ", ".join(map(str, runs[-10:]))
    return f"{'runs ' if len(runs) > 1 else 'run '}{'..., ' if len(runs) > 10 else ''}{shown}"


@dataclass
class Difference:
    """The first difference between a replay and its recording."""

    frame: int
    what: str

    def __str__(self) -> str:
        return f"frame {self.frame}: {self.what}"


def first_difference(frame: RecordedFrame, tracks: TrackArrays) -> Difference | None:
    """The first difference, in any bit, between a frame's recorded tracks and these; None if there is none."""
    was = frame.tracks
    if not np.array_equal(was["ids"], tracks.ids):
        return Difference(frame.index, f"recorded tracks {_ids(was['ids'])}, replayed tracks {_ids(tracks.ids)}")
    for row, number in enumerate(tracks.ids.tolist()):
        for name, called in (("detection", "detection"), ("confirmed", "confirmed"), ("ltrb", "box (ltrb)")):
            old, new = was[name][row], getattr(tracks, name)[row]
            if old.tobytes() != new.tobytes():
                return Difference(
                    frame.index, f"track {number}: {called} recorded {old.tolist()}, replayed {new.tolist()}"
                )
    return None


def _ids(ids: np.ndarray) -> str:
    return str(ids.tolist()) if len(ids) <= 30 else f"{str(ids[:30].tolist())[:-1]}, ...]"


@dataclass
class Replayed:
    """The result of a replay.

    Attributes:
        frames, detections, tracks: their numbers; tracks as in a run's summary, different identities reported.
        embedded, missing: detections whose features were requested, and those of them that were not recorded.
        difference: the first difference from the recording, or None.
    """

    frames: int = 0
    detections: int = 0
    tracks: int = 0
    embedded: int = 0
    missing: int = 0
    difference: Difference | None = None
    _live: set[int] = field(default_factory=set)


class Replay:
    """The tracker over a recording, frame by frame.

    Args:
        recording: the recording.
        overrides: `tracker.key=value` each, settings that differ from the recorded run.

    Attributes:
        tracker: the tracker.
        result: the result so far.

    Raises:
        ConfigError: an override is not valid, or of another section.
        SourceError: this version cannot use the recorded configuration.
    """

    def __init__(self, recording: Recording, overrides: Sequence[str] = ()) -> None:
        header = recording.header
        for text in overrides:
            if not text.lstrip().startswith("tracker."):
                raise ConfigError(f"--set {text}: a replay has no models and no sources; set keys of tracker only")
        settings = {"tracker": header["config"].get("tracker", {})}
        try:
            recorded = load_config(settings, needs_source=False)
        except ConfigError as error:
            first = str(error).split("\n")[0]
            raise SourceError(f"{recording.name}: recorded by another version of edge-tracker: {first}") from None
        config = load_config(settings, overrides, needs_source=False) if overrides else recorded
        self.recording = recording
        self.changed = bool(overrides)
        dimension = header["dimension"]
        self.embedder = None if dimension is None else ReplayEmbedder(dimension, strict=not overrides)
        self.tracker: EdgeDeepSort = open_tracker(config, self.embedder, header["frame_rate"])
        self.result = Replayed()
        # Another method's state means nothing to this one.
        self._foreign = config.tracker.method != header["method"]

    def __iter__(self) -> Iterator[tuple[RecordedFrame, TrackArrays]]:
        """Each frame with its replayed tracks.

        Raises:
            SourceError: the recording is damaged, or lacks a feature.
        """
        for frame in self.recording:
            self.prepare(frame)
            yield frame, self.advance(frame)

    def prepare(self, frame: RecordedFrame) -> None:
        """Load the recorded state if the tracker cannot have reached it by itself, and turn to the frame's features."""
        if frame.changed and frame.state is not None:
            if self._foreign:
                tracks = len(frame.state.get("id", ()))
                if tracks:
                    log.warning(
                        "frame %d: the recording begins with %d tracks of another method; replaying without them",
                        frame.index, tracks,
                    )  # fmt: skip
                self.tracker.delete_all_tracks()
            else:
                try:
                    self.tracker.load_state_dict(frame.state)
                except EdgeTrackerError as error:
                    raise SourceError(f"{self.recording.name}: frame {frame.index}: {error}") from None
        if self.embedder is not None:
            self.embedder.turn_to(frame)

    def advance(self, frame: RecordedFrame) -> TrackArrays:
        """Track through a frame that has been prepared."""
        # The tracker requires an image, but it is not used.
        tracks = self.tracker.update(frame.ltwh, frame.confidence, frame.class_ids, frame=_NO_IMAGE, dt=frame.dt)
        result = self.result
        result.frames += 1
        result.detections += len(frame.ltwh)
        if self.embedder is not None:
            result.embedded, result.missing = self.embedder.asked, self.embedder.missing
        reported = set(tracks.ids[tracks.confirmed & (tracks.detection >= 0)].tolist())
        result.tracks += len(reported - result._live)
        result._live = (result._live | reported) & set(tracks.ids.tolist())
        if result.difference is None and not self.changed:
            result.difference = first_difference(frame, tracks)
        return tracks

    def other_versions(self) -> list[str]:
        """The versions that differ from those at the recording: `numpy 2.1 instead of 1.26`."""
        now = versions()
        return [
            f"{name} {now[name]} instead of {was}"
            for name, was in self.recording.header["versions"].items()
            if name in now and now[name] != was
        ]


_NO_IMAGE = np.zeros((1, 1, 3), dtype=np.uint8)
