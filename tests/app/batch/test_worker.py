"""A worker's answers, without Ray around it."""

from __future__ import annotations

import os

import cv2
import pytest

from edge_tracker import __version__
from edge_tracker.app.batch.results import Stamp, stamp_of
from edge_tracker.app.batch.video_settings import settings_of
from edge_tracker.app.batch.worker import BatchWorker, Failed, Opened
from edge_tracker.app.config.loading import load_config
from edge_tracker.app.run.pipeline import Pipeline
from tests.app.batch.squares import configuration, video

FRAMES = 60


@pytest.fixture
def worker(tmp_path):
    """An open one."""
    settings = settings_of(load_config(configuration(tmp_path), needs_source=False), None)
    worker = BatchWorker(settings.config.model_dump(), __version__, 1)
    threads = cv2.getNumThreads()
    assert worker.open() == Opened(os.getpid(), os.uname().nodename)
    yield worker
    cv2.setNumThreads(threads)


def track(worker, path, folder, **part):
    folder.mkdir()
    stamp = worker.examine(path).stamp
    return worker.track(path, stamp, {"mot": folder / "t.txt", "jsonl": folder / "t.jsonl"}, **part)


def test_one_video_after_the_other_is_as_each_by_itself(worker, tmp_path):
    for n, name in enumerate("aba"):
        path = video(tmp_path / f"{name}.avi", FRAMES, seed=ord(name))
        folder = tmp_path / f"results {n}"
        answer = track(worker, path, folder)
        assert (answer.frames, answer.tracks, answer.warnings) == (FRAMES, 2, [])
        assert answer.seconds > 0
        alone = tmp_path / "alone.txt"
        with Pipeline(load_config(tmp_path / "cam.yaml", [f"outputs.mot={alone}"], str(path))) as pipeline:
            pipeline.run()
        assert (folder / "t.txt").read_bytes() == alone.read_bytes()


def test_a_part_of_a_video_keeps_its_numbers(worker, tmp_path):
    path = video(tmp_path / "a.avi", FRAMES)
    answer = track(worker, path, tmp_path / "part", first=21, count=20)
    assert answer.frames == 20
    lines = (tmp_path / "part" / "t.jsonl").read_text().splitlines()
    assert lines[0].startswith('{"schema":1,"frame":21,"time":2.0,')
    assert lines[-1].startswith('{"schema":1,"frame":40,"time":3.9,')
    assert track(worker, path, tmp_path / "beyond", first=99) == Failed(
        f"ended after {FRAMES} frames, before those that were asked for"
    )


def test_what_is_noted_of_a_video_is_not_noted_of_the_next(worker, tmp_path):
    path = video(tmp_path / "a.avi", FRAMES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    answer = track(worker, path, tmp_path / "short")
    (warning,) = answer.warnings
    assert f"of {FRAMES} frames" in warning
    assert 0 < answer.frames < FRAMES
    path.write_bytes(whole)
    assert track(worker, path, tmp_path / "whole").warnings == []


def test_a_video_that_changes_while_it_is_read(worker, tmp_path):
    path = video(tmp_path / "a.avi", FRAMES)
    before = Stamp(size=1, mtime_ns=2, inode=3)
    answer = worker.track(path, before, {"mot": tmp_path / "t.txt"})
    assert answer == Failed("was changed while it was read; is it still being written?")
    assert stamp_of(path) != before


def test_results_that_cannot_be_written(worker, tmp_path):
    path = video(tmp_path / "a.avi", FRAMES)
    answer = worker.track(path, stamp_of(path), {"mot": path / "below a file" / "t.txt"})
    assert "outputs.mot: " in answer.reason
    assert "is not a folder" in answer.reason
    assert answer.trace == ""


def test_a_worker_that_cannot_open(tmp_path):
    config = settings_of(load_config(configuration(tmp_path), needs_source=False), None).config.model_dump()
    answer = BatchWorker({**config, "detector": {"model": "gone.onnx"}}, __version__, 1).open()
    assert answer == Failed(f"worker on {os.uname().nodename}: detector.model: gone.onnx: no such model file")
    other = BatchWorker(config, "0.0.1", 1).open()
    assert other.reason.endswith(f": edge-tracker {__version__} is installed there, not 0.0.1")
