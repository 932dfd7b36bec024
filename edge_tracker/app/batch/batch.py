"""Hands the videos out to workers, and replaces workers that die."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_tracker import __version__
from edge_tracker.app.batch.cluster import Cluster, Shares, WorkerDied
from edge_tracker.app.batch.progress import Standing
from edge_tracker.app.batch.results import Failure, Record, Results
from edge_tracker.app.batch.settings import Settings
from edge_tracker.app.batch.task import Call, Task
from edge_tracker.app.batch.worker import Failed, Opened, Tracked
from edge_tracker.app.run.signals import Signals
from edge_tracker.errors import DeviceError, OutputError

log = logging.getLogger(__name__)

STARTS = 3  # workers in succession that may die before they are ready
LOOK_S = 0.2
ASK_EVERY_S = 1.0  # to ask the workers for their progress
STALL_S = 600.0  # without a frame, then a worker counts as hung: a decoder may never return from a damaged file


@dataclass(eq=False)
class _Slot:
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
        self, settings: Settings, results: Results, cluster: Cluster, shares: Shares, tasks: Sequence[Task]
    ) -> None:
        self.tasks = tasks
        self._settings, self._results, self._cluster, self._shares = settings, results, cluster, shares
        self._queue = deque(task.begin() for task in tasks)
        self._slots: list[_Slot] = []
        self._most = shares.workers
        self._opened = self._failed_starts = 0
        self._frames, self._worked = 0, 0.0  # bytes of all videos, to compute the share that is done
        self._total = sum(task.size for task in tasks)
        self._began: float | None = None
        self._summary_fails = False

    def run(self, signalled: Signals, show: Callable[[Standing], None]) -> None:
        """Work until all videos are done, or a signal ends it. Videos in progress are then left as if never started.

        Raises:
            DeviceError: no worker can be started.
        """
        next_question = 0.0
        try:
            while self._queue or any(slot.call is not None for slot in self._slots):
                if signalled.stop is not None or signalled.take_hangup():
                    return
                self._hand_out()
                if time.monotonic() >= next_question:
                    next_question = time.monotonic() + ASK_EVERY_S
                    self._ask_how_far()
                    show(self._standing())
                self._wait()
                self._write_summary()
            show(self._standing())
        finally:
            for slot in self._slots:
                self._cluster.stop(slot.worker)

    def _hand_out(self) -> None:
        """Start missing workers, and give idle ones something to do."""
        busy = sum(slot.call is not None for slot in self._slots)
        most = min(self._most, busy + len(self._queue))
        if not self._opened and self._settings.config.device != "cpu":
            most = min(most, 1)  # the first may build engines, which the others then find
        while len(self._slots) < most:
            config = self._settings.config.model_dump()
            worker = self._cluster.start(self._shares, config, __version__, self._shares.threads)
            self._slots.append(_Slot(worker, self._cluster.ask(worker, "open")))
        for slot in self._slots:
            if slot.asked is None and self._queue:
                slot.call, slot.frames, slot.since = self._queue.popleft(), 0, time.monotonic()
                slot.asked = self._cluster.ask(slot.worker, slot.call.method, *slot.call.arguments)

    def _ask_how_far(self) -> None:
        """Ask the workers that track for their progress, and give up those that have made none for too long."""
        for slot in list(self._slots):
            if slot.call is None or slot.call.method != "track":
                continue
            if time.monotonic() - slot.since > STALL_S:
                self._lose(slot, "hung")
            elif slot.look is None:
                slot.look = self._cluster.ask(slot.worker, "look")

    def _wait(self) -> None:
        """Handle the answers that have arrived."""
        asked = {ref: slot for slot in self._slots for ref in (slot.asked, slot.look) if ref is not None}
        for ref in self._cluster.wait(list(asked), LOOK_S):
            slot = asked[ref]
            if slot not in self._slots:  # has died since
                continue
            try:
                answer = self._cluster.answer(ref)
            except WorkerDied as death:
                self._lose(slot, str(death))
                continue
            if ref is slot.look:
                slot.look = None
                if answer > slot.frames:
                    slot.frames, slot.since = answer, time.monotonic()
            elif slot.call is None:
                self._take_up(slot, answer)
            else:
                self._take(slot, slot.call, answer)

    def _take_up(self, slot: _Slot, answer: Any) -> None:
        """Handle a worker's answer to being opened."""
        slot.asked = None
        if isinstance(answer, Opened):
            log.debug("a worker is ready: process %d on %s", answer.process, answer.host)
            self._opened += 1
            self._failed_starts = 0
            self._began = self._began or time.monotonic()
            return
        assert isinstance(answer, Failed)
        if answer.trace:
            log.debug("%s", answer.trace)
        self._slots.remove(slot)
        self._cluster.stop(slot.worker)
        if not self._slots:
            raise DeviceError(answer.reason)
        self._most = len(self._slots)  # the others continue: a cluster's machines may differ
        log.error("%s; continuing with %d workers", answer.reason, self._most)

    def _take(self, slot: _Slot, call: Call, answer: Any) -> None:
        """Handle the answer of a worker that has finished its call."""
        slot.asked = slot.call = None
        if isinstance(answer, Tracked):
            self._frames += answer.frames
            self._worked += call.weight * call.task.size
        if isinstance(answer, Failed) and answer.trace:
            log.debug("%s: %s", call.task.video.name, answer.trace)
        unfinished = call.task.result is None
        self._queue.extendleft(reversed(call.task.answered(call, answer)))
        if unfinished:
            self._look_at(call.task)

    def _lose(self, slot: _Slot, how: str) -> None:
        """Handle the death of a worker."""
        self._slots.remove(slot)
        self._cluster.stop(slot.worker)  # in case it has only lost its connection
        call = slot.call
        if call is None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise DeviceError(f"Ray: {STARTS} workers {how} before they were ready; -v -v shows Ray's messages")
            return
        log.warning("a worker %s; it was processing %s", how, call.task.video.name)
        unfinished = call.task.result is None
        self._queue.extend(call.task.died(call, how))
        if unfinished:
            self._look_at(call.task)

    def _look_at(self, task: Task) -> None:
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

    def _standing(self) -> Standing:
        """The progress of the batch."""
        frames, worked = self._frames, self._worked
        for slot in self._slots:
            if slot.call is not None and slot.call.frames:
                frames += slot.frames
                part = min(1.0, slot.frames / slot.call.frames)
                worked += part * slot.call.weight * slot.call.task.size
        over = [task.result for task in self.tasks if task.result is not None]
        without = sum(task.size for task in self.tasks if isinstance(task.result, Failure) or task.kept)
        total = self._total - without
        standing = Standing(len(self.tasks), share=min(1.0, worked / total) if total > 0 else 1.0)
        standing.done = sum(isinstance(result, Record) for result in over)
        standing.failed = len(over) - standing.done
        standing.workers = self._opened
        if self._began is not None:
            seconds = time.monotonic() - self._began
            standing.fps = frames / seconds if seconds > 0 else 0.0
            if standing.share > 0:
                standing.seconds_left = seconds * (1 - standing.share) / standing.share
        return standing
