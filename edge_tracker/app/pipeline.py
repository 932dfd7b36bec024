"""A run: source -> detect -> embed -> track -> sinks, frame by frame, until the end, a limit or a signal."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from edge_tracker.app.build import engine_options
from edge_tracker.app.check import naming
from edge_tracker.app.config import DEFAULT_DETECTOR, Config, needs_frames
from edge_tracker.app.sinks import FrameTracks, JsonlSink, MotSink, Sink, VideoSink, check_output
from edge_tracker.app.sources import Frame, NoImages, Source, open_source
from edge_tracker.app.tracker import FRAME_RATE, open_embedder, open_tracker
from edge_tracker.detection.detections import Detections
from edge_tracker.detection.detector import Detector
from edge_tracker.detection.mot import MotDetections
from edge_tracker.inference import Model
from edge_tracker.tracking import warmup
from edge_tracker.tracking.tracker import step

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger(__name__)

STAGES = ("read", "detect", "embed", "track", "write")
LOG_EVERY_S = 10.0

# For `edge`, a frame of a live source counts for as long as it took to come, but for at least so much of a frame.
LEAST_STEP = 0.1


@dataclass
class Summary:
    """What a run did.

    Attributes:
        frames: frames tracked.
        tracks: different identities reported.
        detections: in all frames.
        embedded: of these, those whose looks were computed.
        seconds: from the first frame to the last, opening and closing left out.
        stage_seconds: of `seconds`, by stage.
        outputs: where the results are.
        stopped_by: the signal that ended the run early, or None.
    """

    frames: int = 0
    tracks: int = 0
    detections: int = 0
    embedded: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    outputs: list[Path] = field(default_factory=list)
    stopped_by: signal.Signals | None = None

    @property
    def fps(self) -> float:
        """Frames per second of the whole run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def stage_ms(self, stage: str) -> float:
        """Mean milliseconds a frame spent in a stage."""
        return 1000 * self.stage_seconds[stage] / self.frames if self.frames else 0.0

    def __str__(self) -> str:
        lines = [
            f"frames      {self.frames}" + (f" (stopped by {self.stopped_by.name})" if self.stopped_by else ""),
            f"tracks      {self.tracks}",
            f"speed       {self.fps:.1f} frames per second",
            "ms a frame  " + ", ".join(f"{stage} {self.stage_ms(stage):.2f}" for stage in STAGES),
        ]
        if self.embedded:
            lines.append(f"embedded    {100 * self.embedded / self.detections:.1f} % of {self.detections} detections")
        lines += [f"{'results' if i == 0 else '':<12}{path}" for i, path in enumerate(self.outputs)]
        return "\n".join(lines)


class _FindsObjects(Protocol):
    name: str

    def find(self, frame: Frame) -> Detections:
        """The detections of a frame."""


def _described(model: Model) -> str:
    return f"{model.path.name} on {model.device}"


class _ByModel:
    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.name = _described(detector.model)

    def find(self, frame: Frame) -> Detections:
        assert frame.image is not None
        return self._detector.detect(frame.image)


class _ByReplay:
    def __init__(self, recorded: MotDetections, name: str) -> None:
        self._recorded = recorded
        self.name = name

    def find(self, frame: Frame) -> Detections:
        return self._recorded.detect(frame.index)


class Pipeline:
    """All parts of a run, opened. Use as a context manager: leaving it closes the outputs, whatever happened.

    Args:
        config: a valid configuration.
        build: False to refuse, instead of building an engine that is missing or stale.

    Raises:
        SourceError, ModelError, DeviceError, OutputError, ConfigError: a part cannot be opened. No earlier result has
            been overwritten then.
    """

    def __init__(self, config: Config, build: bool = True) -> None:
        self.summary = Summary()
        self._reported: set[int] = set()  # of the tracks that live, so that it stays small
        outputs = config.outputs
        for name, path in outputs:
            if path is not None:
                with naming(f"outputs.{name}"):
                    check_output(Path(path))
        with ExitStack() as stack:
            self._finder, self._source = _open_inputs(config, stack, build)
            with naming("embedder.model"):
                self._embedder = open_embedder(config, build)
            if self._embedder is not None:
                stack.callback(self._embedder.close)
            self._tracker = open_tracker(config, self._embedder, self._source.fps)
            self._live = self._source.live and config.tracker.method == "edge"
            self._rate = self._source.fps or FRAME_RATE
            self._time: float | None = None
            self._sinks: list[Sink] = []
            if outputs.mot is not None:
                self._sinks.append(MotSink(Path(outputs.mot)))
                stack.callback(self._sinks[-1].close)
            if outputs.jsonl is not None:
                self._sinks.append(JsonlSink(Path(outputs.jsonl)))
                stack.callback(self._sinks[-1].close)
            if outputs.video is not None:
                self._sinks.append(VideoSink(Path(outputs.video), self._source.fps))
                stack.callback(self._sinks[-1].close)
            self.summary.outputs = [sink.path for sink in self._sinks]
            self._stack = stack.pop_all()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def run(self, max_frames: int | None = None) -> None:
        """Work through the source. SIGINT and SIGTERM end it after the frame at hand; a second one ends the process.

        Args:
            max_frames: stop after so many.

        Raises:
            SourceError: a live source stopped.
            OutputError: a result cannot be written.
        """
        if not self._sinks:
            log.warning("the configuration names no outputs; only the summary will show what was found")
        looks = "no appearance" if self._embedder is None else _described(self._embedder.model)
        log.info("tracking %s: %s, %s", self._source.name, self._finder.name, looks)
        summary, seconds = self.summary, self.summary.stage_seconds
        total = self._source.frame_count
        if max_frames is not None:
            total = max_frames if total is None else min(total, max_frames)
        _compile_ahead(self._tracker.method)
        with _stop_on_signals() as stop, _progress(total) as progress:
            start = before = time.perf_counter()
            for frame in self._source:
                before = self._work(frame, before, seconds)
                summary.frames += 1
                summary.seconds = before - start
                progress.update(summary)
                if stop.signal is not None or (max_frames is not None and summary.frames >= max_frames):
                    break
            summary.stopped_by = stop.signal

    def _work(self, frame: Frame, before: float, seconds: dict[str, float]) -> float:
        """One frame through all stages; adds each one's time to `seconds` and returns the time at the end."""
        read = time.perf_counter()
        found = self._finder.find(frame)
        detected = time.perf_counter()
        arrays = self._tracker.update(
            found.ltwh, found.confidence, found.class_id, frame=frame.image, dt=self._step(frame)
        )
        self.summary.detections += len(found)
        self.summary.embedded += self._tracker.embedded
        shown = arrays[arrays.confirmed & (arrays.detection >= 0)]
        tracks = FrameTracks(shown.ids, shown.ltrb, shown.class_ids, shown.confidence, found.names)
        reported = set(tracks.ids.tolist())
        self.summary.tracks += len(reported - self._reported)
        self._reported = (self._reported | reported) & set(arrays.ids.tolist())
        tracked, embedding = time.perf_counter(), self._tracker.embed_seconds
        for sink in self._sinks:
            sink.write(frame, tracks)
        written = time.perf_counter()
        for stage, took in zip(
            STAGES,
            (read - before, detected - read, embedding, tracked - detected - embedding, written - tracked),
            strict=True,
        ):
            seconds[stage] += took
        return written

    def _step(self, frame: Frame) -> float:
        """Frames since the last one."""
        before, self._time = self._time, frame.time
        if not self._live or before is None:
            return 1.0
        return max(LEAST_STEP, (frame.time - before) * self._rate)


def _open_inputs(config: Config, stack: ExitStack, build: bool) -> tuple[_FindsObjects, Source]:
    detector = config.detector
    if detector.mot is not None:
        with naming("detector.mot"):
            recorded = MotDetections(detector.mot, confidence=detector.confidence)
        finder: _FindsObjects = _ByReplay(recorded, Path(detector.mot).name)
        if config.source.uri is None and not needs_frames(config):
            return finder, NoImages(detector.mot, recorded.frames, config.source.fps)
    assert config.source.uri is not None, "load_config has seen to it"
    with naming("source.uri"):
        source = open_source(config.source.uri, config.source.fps)
    stack.callback(source.close)
    if detector.mot is None:
        with naming("detector.model"):
            model = Detector(
                detector.model or DEFAULT_DETECTOR,
                confidence=detector.confidence,
                nms_iou=detector.nms_iou,
                classes=detector.classes,
                format=detector.format,
                device=config.device,
                threads=config.threads,
                engine=engine_options(config),
                build=build,
            )
        stack.callback(model.close)
        finder = _ByModel(model)
    return finder, source


def _compile_ahead(method: str) -> None:
    """See that the tracker is compiled before the clock runs.

    The compiler's memory stays with the process that it ran in: some 200 MB. So where nothing is cached yet, another
    process fills the cache, and here only what the run uses is loaded from it.
    """
    cache = step.stats.cache_path
    if cache is None or not sys.executable:  # nothing can be cached: compile here
        warmup(method)
        return
    largest = "edge.step-*.nbi" if method == "edge" else "tracker.step-*.nbi"
    if not any(Path(cache).glob(largest)):
        log.info("compiling the tracker; it takes a minute or two, this once")
        subprocess.run(
            [sys.executable, "-m", "edge_tracker", "warmup"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # if it failed, the first frame fails of the same, and tells it
        )


class _Stop:
    signal: signal.Signals | None = None


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Note SIGINT and SIGTERM instead of dying of them; the second one is deadly again."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can have handlers
        yield stop
        return
    # One that was ignored from the start stays so: a shell does that to what it runs in the background.
    wanted = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number)
        for which in wanted:
            signal.signal(which, signal.SIG_DFL)

    old = {which: signal.signal(which, note) for which in wanted}
    try:
        yield stop
    finally:
        for which, handler in old.items():
            signal.signal(which, handler)


class _Progress(Protocol):
    def update(self, summary: Summary) -> None:
        """Show how far the run is."""


class _LogProgress:
    def __init__(self, total: int | None) -> None:
        self._of = f" of {total}" if total is not None else ""
        self._next = time.monotonic() + LOG_EVERY_S

    def update(self, summary: Summary) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_EVERY_S
            log.info("frame %d%s, %.1f per second, %d tracks", summary.frames, self._of, summary.fps, summary.tracks)


class _BarProgress:
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def update(self, summary: Summary) -> None:
        self._bar.set_postfix_str(f"{summary.tracks} tracks", refresh=False)
        self._bar.update()


@contextmanager
def _progress(total: int | None) -> Iterator[_Progress]:
    """A bar on a terminal, a line of the log now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _LogProgress(total)
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with tqdm(total=total, unit=" frames", dynamic_ncols=True) as bar, logging_redirect_tqdm():
        yield _BarProgress(bar)
