"""A run: every camera's source -> detect -> embed -> track -> outputs, until the end, a limit or a signal."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from edge_tracker.app.config.loading import needs_frames
from edge_tracker.app.config.naming import naming
from edge_tracker.app.config.schema import Camera, Config, cameras_of
from edge_tracker.app.open_models import Models, open_models
from edge_tracker.app.open_tracker import compile_ahead, open_tracker
from edge_tracker.app.outputs.sinks import check_output
from edge_tracker.app.outputs.writer import Writer, openers_of
from edge_tracker.app.replay.recording import Recorder
from edge_tracker.app.run.batching import SharedDetector, SharedEmbedder
from edge_tracker.app.run.cadence import Cadence
from edge_tracker.app.run.camera_run import CameraParts, CameraRun, Saving
from edge_tracker.app.run.finders import FindsObjects, ModelFinder, ReplayFinder, described
from edge_tracker.app.run.progress_bar import progress
from edge_tracker.app.run.reporting import Audience, Reporter
from edge_tracker.app.run.signals import signals
from edge_tracker.app.run.state import StateSaver, load, state_path
from edge_tracker.app.run.summary import Summary
from edge_tracker.app.run.supervision import Reload, Supervisor
from edge_tracker.app.sources.frames import Source
from edge_tracker.app.sources.opening import open_source
from edge_tracker.app.sources.stored import NoImages
from edge_tracker.app.stats import CameraStats
from edge_tracker.detection.detector import Detector
from edge_tracker.detection.mot import MotDetections

log = logging.getLogger(__name__)

DRAIN_S = 10.0  # for a run that is to end to finish the frames it holds
LOOK_S = 0.1
UPDATE_EVERY_S = 1.0  # between updates of an object, where no broker's section says


class RecordFolder(NamedTuple):
    """A folder to record a run into.

    Attributes:
        path: the folder; each of several cameras has one of its own in it.
        limit: MiB that the recording of each may take; None for no limit.
    """

    path: Path
    limit: int | None = None


class Pipeline:
    """All parts of a run, opened. Use it as a context manager, which closes the outputs whatever happens.

    Args:
        config: a valid configuration.
        build: False to refuse, instead of building an engine that is missing or stale.
        record: where to record the run, for `edge-tracker replay`; None for nowhere.
        reload: rereads the configuration, on SIGHUP or when its file changes; None where that is not possible.
        models: the configuration's models, loaded already, which stay the caller's to close; None to load them.
        files_only: True to write the outputs' files only, without a server or a broker.
        skip: frames to leave out at the start of a video file.

    Raises:
        SourceError, ModelError, DeviceError, OutputError, ConfigError: a part cannot be opened. No earlier result has
            been overwritten.
    """

    def __init__(
        self,
        config: Config,
        build: bool = True,
        record: RecordFolder | None = None,
        reload: Reload | None = None,
        models: Models | None = None,
        files_only: bool = False,
        skip: int = 0,
    ) -> None:
        self.config = config
        self.summary = Summary()
        self.cameras: list[CameraRun] = []
        self._record, self.reload = record, reload
        stats, cameras = self.summary.stats, cameras_of(config)
        for camera in cameras:
            stats.cameras[camera.name] = CameraStats(camera.name)
            for name, path in camera.outputs.paths():
                with naming(f"outputs.{name}"):
                    check_output(path)
        with ExitStack() as stack:
            # Server and broker first: either may be refused, and both can report early that the run is starting.
            self._audience: list[Audience] = []
            names = [camera.name for camera in cameras]
            if config.server is not None and not files_only:
                from edge_tracker.app.outputs.live.server import LiveServer

                server = LiveServer(config.server, stats, names)
                server.start()
                stack.callback(server.close)
                self._audience.append(server.show)
            if config.mqtt is not None and not files_only:
                from edge_tracker.app.outputs.mqtt import MqttPublisher

                with naming("mqtt"):
                    publisher = MqttPublisher(config.mqtt, names, stats)
                stack.callback(publisher.close, DRAIN_S / 2)
                self._audience.append(publisher.publish)
            sources: list[Source] = []
            recorded = self._open_replay()
            for camera in cameras:
                sources.append(self._open_source(camera, recorded, len(cameras) > 1 or camera.source.wait, skip))
                stack.callback(sources[-1].close)
            if models is None:
                models = open_models(config, build)
                stack.callback(models.close)
            for what, user in (("detector", models.detector), ("embedder", models.embedder)):
                if user is not None and user.status is not None:
                    stats.servers[what] = user.status
            self._finder = self._open_finder(models.detector, recorded, len(cameras))
            embedder = models.embedder
            self._embedder = None if embedder is None else SharedEmbedder(embedder, len(cameras), stats)
            self._saver = StateSaver()
            stack.callback(self._saver.close, DRAIN_S / 2)
            for camera, source in zip(cameras, sources, strict=True):
                self.cameras.append(self._open_camera(camera, source, stack))
            self.summary.outputs = [path for camera in self.cameras for path in camera.writer.paths]
            # Here, not in `run`, so that files that change while the tracker is compiled are noticed.
            self._supervisor = Supervisor(self)
            self._stack = stack.pop_all()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    # ---- opening -----------------------------------------------------------------------------------------------------

    def _open_replay(self) -> MotDetections | None:
        detector = self.config.detector
        if detector.mot is None:
            return None
        with naming("detector.mot"):
            return MotDetections(detector.mot, confidence=detector.confidence)

    def _open_source(self, camera: Camera, recorded: MotDetections | None, wait: bool, skip: int) -> Source:
        source, detector = camera.source, self.config.detector
        if source.uri is None:
            assert recorded is not None
            assert detector.mot is not None
            assert not needs_frames(self.config)
            return NoImages(detector.mot, recorded.frames, source.fps)
        with naming("source.uri" if self.config.cameras is None else f"camera {camera.name}: source.uri"):
            return open_source(source.uri, source.fps, wait, skip=skip)

    def _open_finder(self, detector: Detector | None, recorded: MotDetections | None, cameras: int) -> FindsObjects:
        if recorded is not None:
            return ReplayFinder(recorded, Path(str(self.config.detector.mot)).name)
        assert detector is not None
        return ModelFinder(SharedDetector(detector, cameras, self.summary.stats))

    def _open_camera(self, camera: Camera, source: Source, stack: ExitStack) -> CameraRun:
        config, stats = self.config, self.summary.stats.cameras[camera.name]
        own = config.model_copy(
            update={"tracker": camera.tracker, "source": camera.source, "name": camera.name, "cameras": None}
        )
        tracker = open_tracker(own, self._embedder, source.fps)
        keeps = source.live and config.state.every > 0
        path = state_path(config.state.folder, camera.name)
        state = load(path) if keeps else None
        writer = Writer(openers_of(camera.outputs, source.fps, source.live), source.live, stats)
        stack.callback(writer.abandon)
        update_every = UPDATE_EVERY_S if config.mqtt is None else config.mqtt.update_every
        run = CameraRun(
            CameraParts(source, self._finder, tracker, writer),
            Cadence(config.detector),
            Reporter(camera, stats, self._audience, update_every),
            Saving(partial(self._saver.put, path), config.state.every) if keeps else None,
        )
        if state is not None:
            run.resume(state, config.state.resume_within)
        if self._record is not None:
            folder = self._record.path if config.cameras is None else self._record.path / camera.name
            recorder = Recorder(
                folder,
                tracker,
                own.model_dump(),
                camera=camera.name,
                frame_rate=source.fps,
                limit=self._record.limit,
            )
            stack.callback(recorder.close)
            run.recorder = recorder
        return run

    def model_files(self) -> list[Path]:
        """The files of the models that are loaded."""
        models = [finder.detector.model] if isinstance(finder := self._finder, ModelFinder) else []
        models += [self._embedder.model] if self._embedder else []
        return [model.path for model in models if model.path is not None]

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self, max_frames: int | None = None, duration: float | None = None) -> None:
        """Run until all sources end. SIGINT or SIGTERM ends the run after the frames at hand, a second one at once.

        Args:
            max_frames: stop each camera after this many.
            duration: stop after this many seconds.

        Raises:
            SourceError: a source cannot be read any more.
            OutputError: a result cannot be written.
        """
        summary, cameras = self.summary, self.cameras
        if not summary.outputs and not self._audience:
            log.warning("the configuration names no outputs; only the summary will show results")
        appearance = "no appearance" if self._embedder is None else described(self._embedder.model)
        for camera in cameras:
            log.info("tracking %s: %s, %s", camera.source.name, self._finder.name, appearance)
            if camera.resumed:
                log.info("%s: %s", camera.camera.name, camera.resumed)
        for method in {camera.camera.tracker.method for camera in cameras}:
            compile_ahead(method)
        supervisor = self._supervisor
        total = self._total(max_frames)
        with signals() as signalled, progress(total=total, unit=" frames") as show:
            supervisor.ready()
            start = time.perf_counter()
            for camera in cameras:
                camera.start(max_frames)
            summary.stats.ready = True
            try:
                while any(camera.running or camera.writer.busy for camera in cameras):
                    signalled.wait(LOOK_S)
                    summary.seconds = time.perf_counter() - start
                    show(*self._standing(total))
                    supervisor.look(reload=signalled.take_hangup())
                    over = duration is not None and summary.seconds >= duration
                    if signalled.stop is not None or over or self._failed():
                        break
            finally:
                summary.stats.ready = False
                supervisor.stopping()
                failed = self._finish()
                summary.seconds = time.perf_counter() - start
                summary.stopped_by = signalled.stop
                show(*self._standing(total))
        if failed is not None:
            raise failed

    def _total(self, max_frames: int | None) -> int | None:
        """Frames that the run will process; None if that is not known."""
        totals = []
        for camera in self.cameras:
            count = camera.source.frame_count
            if count is None and max_frames is None:
                return None
            totals.append(min(n for n in (count, max_frames) if n is not None))
        return sum(totals)

    def _standing(self, total: int | None) -> tuple[int, str, str]:
        """The progress of the run, as the arguments of `Show`."""
        summary, of = self.summary, "" if total is None else f" of {total}"
        tracks = f"{summary.tracks} tracks"
        return summary.frames, tracks, f"frame {summary.frames}{of}, {summary.fps:.1f} per second, {tracks}"

    def _failed(self) -> bool:
        """True if all cameras have failed."""
        return all(camera.error is not None for camera in self.cameras)

    def _finish(self) -> BaseException | None:
        """End all cameras within `DRAIN_S`; returns the first failure."""
        failure: BaseException | None = None
        for camera in self.cameras:
            camera.stop()
        deadline = time.monotonic() + DRAIN_S
        for camera in self.cameras:
            try:
                finished = camera.finish(max(0.5, deadline - time.monotonic()))
            except Exception as error:
                failure, finished = failure or error, True
            if finished:
                camera.save(clean=camera.error is None)
        errors = (camera.error for camera in self.cameras if camera.error is not None)
        return next(errors, None) or failure
