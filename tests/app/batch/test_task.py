"""The steps of a video, whatever its workers do."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from edge_tracker.app.batch.inputs import Video
from edge_tracker.app.batch.results import Failure, Record, Results, stamp_of
from edge_tracker.app.batch.task import ATTEMPTS, Task, tasks_for
from edge_tracker.app.batch.video_settings import BatchSettings, Cut
from edge_tracker.app.batch.worker import BatchWorker, Examined, Failed, Tracked
from edge_tracker.app.config.schema import Config
from edge_tracker.errors import EdgeTrackerError


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a video")
    return Video(path, PurePath("a.mp4"))


def settings(cut: Cut | None = None, key: str = "k") -> BatchSettings:
    return BatchSettings(Config(), cut, key, ())


def examined(video: Video, sha256: str = "ab" * 32) -> Examined:
    return Examined(sha256, stamp_of(video.path), 300, 10.0)


def track(call, frames=300, text="1,1,0,0,9,9\n"):
    """Do what a worker does for the call."""
    for path in call.arguments[2].values():
        path.write_text(text)
    return Tracked(frames, 1, 2.0, [])


def finish(task: Task) -> None:
    (call,) = task.answered(task.begin(), examined(task.video))
    assert task.answered(call, track(call)) == []


def test_a_whole_video(video, results):
    task = Task(video, settings(), results)
    finish(task)
    assert task.result == results.record_of(video)
    assert (task.result.frames, task.result.tracks, task.result.segments) == (300, 1, 1)
    assert not list((results.folder / ".batch" / "work").iterdir())


def test_a_failure_is_reported_and_leaves_nothing(video, results):
    task = Task(video, settings(), results)
    (call,) = task.answered(task.begin(), examined(video))
    track(call)
    assert task.answered(call, Failed("it is bad")) == []
    assert task.result == Failure("it is bad", "ab" * 32)
    assert not results.place_of(video).exists()
    assert not list((results.folder / ".batch" / "work").iterdir())


def test_a_worker_that_died_is_followed_by_another_in_another_folder(video, results):
    task = Task(video, settings(), results)
    (first,) = task.answered(task.begin(), examined(video))
    (second,) = task.died(first, "died")
    assert second.folder != first.folder
    assert (second.method, second.weight, second.frames) == (first.method, first.weight, first.frames)
    assert task.answered(second, track(second)) == []
    assert isinstance(task.result, Record)


def test_a_video_that_kills_its_workers_fails_in_the_end(video, results):
    task = Task(video, settings(), results)
    calls = [task.begin()]
    for _ in range(ATTEMPTS):
        assert task.result is None
        calls = task.died(calls[0], "died")
    assert calls == []
    assert task.result == Failure(f"{ATTEMPTS} workers that processed it died")


def test_segments_are_all_tracked_and_then_joined(video, results):
    task = Task(video, settings(Cut(10, 2)), results, compare=True)
    calls = task.answered(task.begin(), examined(video))
    assert [(call.arguments[3], call.arguments[4]) for call in calls] == [(1, 120), (101, 120), (201, None), (1, None)]
    assert sum(call.weight for call in calls) == pytest.approx(1)
    assert [call.frames for call in calls] == [120, 120, 100, 300]
    (again,) = task.died(calls[1], "died")
    assert again.arguments[3:] == calls[1].arguments[3:]
    frame = iter((1, 230, 150, 1))
    follow = [task.answered(c, track(c, c.frames, f"{next(frame)},1,0,0,9,9,1,-1,-1,-1\n")) for c in
              (calls[0], calls[2], again, calls[3])]  # fmt: skip
    assert follow[:3] == [[], [], []]
    ((join,),) = follow[3:]
    assert join.method == "join"
    assert task.answered(join, BatchWorker({}, "", 1).join(*join.arguments)) == []
    record = results.record_of(video)
    assert record == task.result
    assert (record.frames, record.segments, record.tracks, record.difference.uncut) == (300, 3, 3, 1)
    assert list(record.outputs) == ["tracks.txt"]


def test_answers_after_a_failure_change_nothing(video, results):
    task = Task(video, settings(Cut(10, 2)), results)
    calls = task.answered(task.begin(), examined(video))
    task.answered(calls[0], Failed("it is bad"))
    assert task.answered(calls[1], Tracked(120, 1, 2.0)) == []
    assert task.died(calls[2], "died") == []
    assert task.result == Failure("it is bad", "ab" * 32)


def first(video: Video, results: Results, given: BatchSettings, compare: bool = False) -> Task | Record:
    ((_, what),) = tasks_for([video], given, results, compare)
    return what


def test_what_is_finished_is_known(video, results):
    finish(first(video, results, settings()))
    assert isinstance(first(video, results, settings()), Record)
    assert isinstance(first(video, results, settings(key="other")), Task)
    (results.place_of(video) / "tracks.txt").unlink()
    assert isinstance(first(video, results, settings()), Task)


def test_a_file_that_was_only_touched_is_read_but_not_tracked_again(video, results):
    finish(first(video, results, settings()))
    video.path.touch()
    task = first(video, results, settings())
    assert isinstance(task, Task)
    assert task.answered(task.begin(), examined(video)) == []
    assert task.kept
    assert isinstance(first(video, results, settings()), Record), "its new time is noted"


def test_other_content_is_tracked_again(video, results):
    finish(first(video, results, settings()))
    video.path.write_bytes(b"another video")
    task = first(video, results, settings())
    (call,) = task.answered(task.begin(), examined(video, "cd" * 32))
    task.answered(call, track(call, 200))
    assert results.record_of(video).sha256 == "cd" * 32
    assert results.record_of(video).frames == 200


def test_a_video_that_has_gone_is_left_to_a_worker_to_report(video, results):
    finish(first(video, results, settings()))
    video.path.unlink()
    task = first(video, results, settings())
    task.answered(task.begin(), BatchWorker({}, "", 1).examine(video.path))
    assert task.result == Failure("cannot be read: No such file or directory")


def test_a_worker_answers_with_what_is_wrong(tmp_path, video):
    worker = BatchWorker({}, "", 1)
    assert worker.open().reason.endswith("is installed there, not ")
    answer = worker.examine(video.path)
    assert answer == Failed("cannot be opened as a video: damaged, or of a kind that this OpenCV cannot read")
    bug = worker.track(video.path, stamp_of(video.path), {})
    assert bug.reason.startswith("failed: AssertionError")
    assert "Traceback" in bug.trace
    assert not issubclass(AssertionError, EdgeTrackerError)
    assert worker.look() == 0
