"""Hands the videos out to workers, and replaces workers that die."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_tracker.app.batch.cluster import Cluster, Shares, WorkerDied
from edge_tracker.app.batch.progress import BatchProgress
from edge_tracker.app.batch.results import Failure, Record, Results
from edge_tracker.app.batch.task import Call, Task
from edge_tracker.app.batch.video_settings import BatchSettings
from edge_tracker.app.batch.worker import Failed, Opened, Tracked
from edge_tracker.app.run.signals import Signals
from edge_tracker.errors import DeviceError, OutputError
from edge_tracker.version import __version__

log = logging.getLogger(__name__)

STARTS = 3  # workers in succession that may die before they are ready
LOOK_S = 0.2
ASK_EVERY_S = 1.0  # to ask the workers for their progress
STALL_S = 600.0  # without a frame, then a worker counts as hung: a decoder may never return from a damaged file


@dataclass(eq=False)
class _WorkerState:
    """A worker.

    Attributes:
        worker: its handle in `Cluster`.
        asked: the pending request; None if it is idle.
        call: the call that was requested; None while it is being opened.
        look: the pending request for its progress, if there is one.
        frames: frames of the call that are done.
        since: time.monotonic() of the last change of `frames`.
    """

    worker: Any
    asked: Any
    call: Call | None = None
    look: Any = None
    frames: int = 0
    since: float = 0.0


class Batch:
    """The videos to be processed, and the workers.

    Args:
        settings: applied to each video.
        results: the folder of the results.
        cluster: runs the workers.
        shares: the number of workers, and their share of the machine.
        tasks: the videos.
    """

    def __init__(
        self, settings: BatchSettings, results: Results, cluster: Cluster, shares: Shares, tasks: Sequence[Task]
    ) -> None:
        self.tasks = tasks
        self._settings, self._results, self._cluster, self._shares = settings, results, cluster, shares
        self._queue = deque(task.begin() for task in tasks)
        self._states: list[_WorkerState] = []
        self._most = shares.workers
        self._opened = self._failed_starts = 0
        self._frames, self._worked = 0, 0.0  # bytes of all videos, to compute the share that is done
        self._total = sum(task.size for task in tasks)
        self._began: float | None = None
        self._summary_fails = False

    def run(self, signalled: Signals, show: Callable[[BatchProgress], None]) -> None:
        """Work until all videos are done, or a signal ends it. Videos in progress are then left as if never started.

        Raises:
            DeviceError: no worker can be started.
        """
        next_question = 0.0
        try:
            while self._queue or any(state.call is not None for state in self._states):
                if signalled.stop is not None or signalled.take_hangup():
                    return
                self._hand_out()
                if time.monotonic() >= next_question:
                    next_question = time.monotonic() + ASK_EVERY_S
                    self._ask_for_progress()
                    show(self._progress())
                self._wait()
                self._write_summary()
            show(self._progress())
        finally:
            for state in self._states:
                self._cluster.stop(state.worker)

    def _hand_out(self) -> None:
        """Start missing workers, and give idle ones something to do."""
        busy = sum(state.call is not None for state in self._states)
        most = min(self._most, busy + len(self._queue))
        if not self._opened and self._settings.config.device != "cpu":
            most = min(most, 1)  # the first may build engines, which the others then find
        while len(self._states) < most:
            config = self._settings.config.model_dump()
            worker = self._cluster.start(self._shares, config, __version__, self._shares.threads)
            self._states.append(_WorkerState(worker, self._cluster.ask(worker, "open")))
        for state in self._states:
            if state.asked is None and self._queue:
                state.call, state.frames, state.since = self._queue.popleft(), 0, time.monotonic()
                state.asked = self._cluster.ask(state.worker, state.call.method, *state.call.arguments)

    def _ask_for_progress(self) -> None:
        """Ask the workers that track for their progress, and give up those that have made none for too long."""
        for state in list(self._states):
            if state.call is None or state.call.method != "track":
                continue
            if time.monotonic() - state.since > STALL_S:
                self._on_death(state, "hung")
            elif state.look is None:
                state.look = self._cluster.ask(state.worker, "look")

    def _wait(self) -> None:
        """Handle the answers that have arrived."""
        asked = {ref: state for state in self._states for ref in (state.asked, state.look) if ref is not None}
        for ref in self._cluster.wait(list(asked), LOOK_S):
            state = asked[ref]
            if state not in self._states:  # has died since
                continue
            try:
                answer = self._cluster.answer(ref)
            except WorkerDied as death:
                self._on_death(state, str(death))
                continue
            if ref is state.look:
                state.look = None
                if answer > state.frames:
                    state.frames, state.since = answer, time.monotonic()
            elif state.call is None:
                self._on_opened(state, answer)
            else:
                self._on_answer(state, state.call, answer)

    def _on_opened(self, state: _WorkerState, answer: Any) -> None:
        """Handle a worker's answer to being opened."""
        state.asked = None
        if isinstance(answer, Opened):
            log.debug("a worker is ready: process %d on %s", answer.process, answer.host)
            self._opened += 1
            self._failed_starts = 0
            self._began = self._began or time.monotonic()
            return
        assert isinstance(answer, Failed)
        if answer.trace:
            log.debug("%s", answer.trace)
        self._states.remove(state)
        self._cluster.stop(state.worker)
        if not self._states:
            raise DeviceError(answer.reason)
        self._most = len(self._states)  # the others continue: a cluster's machines may differ
        log.error("%s; continuing with %d workers", answer.reason, self._most)

    def _on_answer(self, state: _WorkerState, call: Call, answer: Any) -> None:
        """Handle the answer of a worker that has finished its call."""
        state.asked = state.call = None
        if isinstance(answer, Tracked):
            self._frames += answer.frames
            self._worked += call.weight * call.task.size
        if isinstance(answer, Failed) and answer.trace:
            log.debug("%s: %s", call.task.video.name, answer.trace)
        unfinished = call.task.result is None
        self._queue.extendleft(reversed(call.task.answered(call, answer)))
        if unfinished:
            self._record_result(call.task)

    def _on_death(self, state: _WorkerState, how: str) -> None:
        """Handle the death of a worker."""
        self._states.remove(state)
        self._cluster.stop(state.worker)  # in case it has only lost its connection
        call = state.call
        if call is None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise DeviceError(f"Ray: {STARTS} workers {how} before they were ready; -v -v shows Ray's messages")
            return
        log.warning("a worker %s; it was processing %s", how, call.task.video.name)
        unfinished = call.task.result is None
        self._queue.extend(call.task.died(call, how))
        if unfinished:
            self._record_result(call.task)

    def _record_result(self, task: Task) -> None:
        """Record a video's result if it has ended."""
        result = task.result
        if result is None:
            return
        name = task.video.name
        if isinstance(result, Failure):
            log.error("%s: %s", name, result.reason)
            self._queue = deque(call for call in self._queue if call.task is not task)
        else:
            for warning in result.warnings:
                log.warning("%s: %s", name, warning)
        self._results.note(task.video, result)

    def _write_summary(self, now: bool = False) -> None:
        try:
            self._results.write_summary(now)
        except OutputError as error:
            if not self._summary_fails:
                log.error("%s; it will be tried again", error)
            self._summary_fails = True

    def _progress(self) -> BatchProgress:
        """The progress of the batch."""
        frames, worked = self._frames, self._worked
        for state in self._states:
            if state.call is not None and state.call.frames:
                frames += state.frames
                part = min(1.0, state.frames / state.call.frames)
                worked += part * state.call.weight * state.call.task.size
        over = [task.result for task in self.tasks if task.result is not None]
        without = sum(task.size for task in self.tasks if isinstance(task.result, Failure) or task.kept)
        total = self._total - without
        progress = BatchProgress(len(self.tasks), share=min(1.0, worked / total) if total > 0 else 1.0)
        progress.done = sum(isinstance(result, Record) for result in over)
        progress.failed = len(over) - progress.done
        progress.workers = self._opened
        if self._began is not None:
            seconds = time.monotonic() - self._began
            progress.fps = frames / seconds if seconds > 0 else 0.0
            if progress.share > 0:
                progress.seconds_left = seconds * (1 - progress.share) / progress.share
        return progress
