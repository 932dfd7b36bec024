"""Handing out videos to scripted workers, which finish, fail, hang or die as they are told."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import PurePath

import pytest

from edge_tracker.app.batch import scheduling as batch_module
from edge_tracker.app.batch.cluster import Shares, WorkerDied
from edge_tracker.app.batch.inputs import Video
from edge_tracker.app.batch.results import Failure, Record, Results, stamp_of
from edge_tracker.app.batch.scheduling import Batch
from edge_tracker.app.batch.task import Task
from edge_tracker.app.batch.video_settings import BatchSettings
from edge_tracker.app.batch.worker import Examined, Failed, Opened, Tracked
from edge_tracker.app.config.schema import Config
from edge_tracker.app.run.signals import Signals
from edge_tracker.errors import DeviceError

DIES, HANGS = object(), object()


@dataclass(eq=False)
class Asked:
    method: str
    arguments: tuple
    answer: object


class Workers:
    """Stands for `Cluster`.

    Args:
        behave: of a worker and a method, gives the answer; None for that of a worker to whom all goes well.

    Attributes:
        log: what was asked of whom.
        alive: workers.
        most: that were alive at a time.
        ready: for each worker, how many had opened when it was started.
    """

    def __init__(self, behave=lambda worker, method: None):
        self.log: list[tuple[int, str]] = []
        self.alive: set[int] = set()
        self.most = self._opened = 0
        self.ready: list[int] = []
        self._behave, self._numbers = behave, itertools.count(1)

    def start(self, shares, *arguments):
        worker = next(self._numbers)
        self.ready.append(self._opened)
        self.alive.add(worker)
        self.most = max(self.most, len(self.alive))
        return worker

    def ask(self, worker, method, *arguments):
        assert worker in self.alive
        self.log.append((worker, method))
        answer = self._behave(worker, method)
        return Asked(method, arguments, answer)

    def wait(self, asked, seconds):
        answered = [each for each in asked if each.answer is not HANGS]
        if not answered:
            time.sleep(0.01)
        return answered[-1:]

    def answer(self, asked):
        method, arguments, answer = asked.method, asked.arguments, asked.answer
        if answer is DIES:
            raise WorkerDied("died")
        if answer is not None:
            return answer
        if method == "open":
            self._opened += 1
            return Opened(1, "here")
        if method == "look":
            return 0
        if method == "examine":
            return Examined("ab" * 32, stamp_of(arguments[0]), 10, 10.0)
        for path in arguments[2].values():
            path.write_text("1,1,0,0,9,9\n")
        return Tracked(10, 1, 0.5, [])

    def stop(self, worker):
        self.alive.discard(worker)


class Shown:
    def __init__(self):
        self.last = None

    def __call__(self, standing):
        self.last = standing


@pytest.fixture
def run(tmp_path):
    """Runs a batch of so many videos on such workers; gives the results."""

    def _run(workers: Workers, videos: int = 4, most: int = 2, device: str = "cpu"):
        settings = BatchSettings(Config(device=device), None, "k", ())
        with Results(tmp_path / "results") as results:
            tasks = []
            for n in range(videos):
                (tmp_path / f"{n}.mp4").write_bytes(b"x" * 100)
                tasks.append(Task(Video(tmp_path / f"{n}.mp4", PurePath(f"{n}.mp4")), settings, results))
            shown = Shown()
            try:
                Batch(settings, results, workers, Shares(most, 1, 0), tasks).run(Signals(), shown)
            finally:
                assert not workers.alive, "all are ended, whatever happened"
        assert workers.most <= most
        assert (shown.last.done + shown.last.failed, shown.last.share) == (videos, 1)
        return [task.result for task in tasks]

    return _run


def test_all_goes_well(run):
    workers = Workers()
    assert all(isinstance(result, Record) for result in run(workers))
    methods = [method for _, method in workers.log if method != "look"]
    assert sorted(methods) == ["examine"] * 4 + ["open"] * 2 + ["track"] * 4


def test_no_more_workers_than_videos(run):
    workers = Workers()
    run(workers, videos=1)
    assert workers.most == 1


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(run, monkeypatch):
    monkeypatch.setattr(batch_module, "STALL_S", 2.0)
    monkeypatch.setattr(batch_module, "ASK_EVERY_S", 0.1)
    workers = Workers(lambda worker, method: HANGS if (worker, method) == (1, "track") else None)
    assert all(isinstance(result, Record) for result in run(workers, most=1))
    assert [worker for worker, method in workers.log if method == "open"] == [1, 2]


def test_one_video_that_fails_stops_nothing(run):
    examined = itertools.count()
    workers = Workers(
        lambda worker, method: Failed("bad", "trace") if method == "examine" and next(examined) == 1 else None
    )
    results = run(workers)
    assert results.count(Failure("bad")) == 1
    assert sum(isinstance(result, Record) for result in results) == 3


def test_workers_that_cannot_open(run):
    with pytest.raises(DeviceError, match="no GPU there"):
        run(Workers(lambda worker, method: Failed("no GPU there") if method == "open" else None), most=1)


def test_one_of_several_that_cannot_open_is_done_without(run, caplog):
    workers = Workers(lambda worker, method: Failed("no GPU there") if (worker, method) == (2, "open") else None)
    assert all(isinstance(result, Record) for result in run(workers))
    assert "no GPU there; continuing with 1 workers" in caplog.text
    assert [worker for worker, method in workers.log if method == "open"] == [1, 2]


def test_workers_that_die_before_they_are_ready(run):
    workers = Workers(lambda worker, method: DIES if method == "open" else None)
    with pytest.raises(DeviceError, match="3 workers died before they were ready"):
        run(workers, most=1)
    assert len(workers.log) == 3


def test_where_engines_may_be_built_the_first_worker_opens_alone(run):
    workers = Workers()
    run(workers, most=3, device="auto")
    assert workers.ready == [0, 1, 1]


def test_a_signal_ends_it_at_once(tmp_path):
    signalled = Signals()
    signalled.note(15)
    workers = Workers()
    settings = BatchSettings(Config(), None, "k", ())
    with Results(tmp_path / "results") as results:
        task = Task(Video(tmp_path / "0.mp4", PurePath("0.mp4")), settings, results)
        Batch(settings, results, workers, Shares(1, 1, 0), [task]).run(signalled, Shown())
    assert workers.log == []
    assert task.result is None
