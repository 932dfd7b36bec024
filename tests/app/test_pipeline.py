"""Whole runs: several cameras at once, frames left out, files that change meanwhile, what fails and what goes on."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from edge_tracker.app.config.loading import load_config
from edge_tracker.app.config.schema import DetectorConfig
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.sinks import JsonlSink
from edge_tracker.app.outputs.writer import Writer, openers_of
from edge_tracker.app.run.cadence import Cadence
from edge_tracker.app.run.pipeline import Pipeline
from edge_tracker.app.run.supervision import needs_restart
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats
from edge_tracker.detection.result import Detections
from edge_tracker.errors import OutputError, SourceError
from tests.app.street import MjpegCamera
from tests.waiting import COMPILING_S, wait_for, wait_for_program

FRAMES = 30


@pytest.fixture(scope="module")
def clips(demo_video, tmp_path_factory):
    """Three pieces of the demo video, from different places of it."""
    folder = tmp_path_factory.mktemp("clips")
    capture = cv2.VideoCapture(str(demo_video))
    paths = []
    for piece in range(3):
        path = folder / f"{piece}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (768, 576))
        for _ in range(FRAMES):
            writer.write(capture.read()[1])
        writer.release()
        paths.append(path)
    return paths


def run(folder, config, **arguments):
    """Run a configuration, written to a file as users do; the pipeline after it."""
    path = folder / "cam.yaml"
    path.write_text(yaml.safe_dump(config))
    with Pipeline(load_config(path)) as pipeline:
        pipeline.run(**arguments)
    return pipeline


def basics(engines):
    return {
        "device": "cpu",
        "detector": {"model": str(engines / "yolov3-tiny.onnx"), "classes": ["person"]},
        "embedder": {"model": str(engines / "mobilenetv2.onnx")},
    }


def records(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.slow
def test_several_cameras_give_what_each_gives_alone(engines, clips, tmp_path):
    config = basics(engines)
    cameras = [{"name": f"c{i}", "source": {"uri": str(clip)}} for i, clip in enumerate(clips)]
    together = run(tmp_path, {**config, "cameras": cameras, "outputs": {"jsonl": str(tmp_path / "all-{camera}.jsonl")}})
    stats = together.summary.stats
    assert together.summary.frames == 3 * FRAMES
    assert all(camera.ended and not camera.connected for camera in together.summary.cameras)
    assert stats.detector_frames == 3 * FRAMES
    assert stats.detector_calls < 3 * FRAMES, "frames of several cameras go through the model together"
    assert stats.embedder_cameras >= stats.embedder_calls > 0
    for i, clip in enumerate(clips):
        alone = tmp_path / f"one-{i}.jsonl"
        run(tmp_path, {**config, "source": {"uri": str(clip)}, "outputs": {"jsonl": str(alone)}})
        ours, theirs = records(tmp_path / f"all-c{i}.jsonl"), records(alone)
        assert [r["frame"] for r in ours] == [r["frame"] for r in theirs] == list(range(1, FRAMES + 1))
        for one, other in zip(ours, theirs, strict=True):
            assert [t["id"] for t in one["tracks"]] == [t["id"] for t in other["tracks"]]
            for a, b in zip(one["tracks"], other["tracks"], strict=True):
                np.testing.assert_allclose(a["box"], b["box"], atol=0.05)  # batches round differently


@pytest.mark.slow
def test_one_cameras_failure_touches_no_other(engines, clips, tmp_path, caplog):
    broken = tmp_path / "broken.avi"
    whole = clips[0].read_bytes()
    broken.write_bytes(whole)
    config = basics(engines)
    full = {"name": "full", "source": {"uri": str(broken)}, "outputs": {"mot": "/dev/full"}}
    good = {"name": "good", "source": {"uri": str(clips[1])}, "outputs": {"jsonl": str(tmp_path / "good.jsonl")}}
    with pytest.raises(OutputError, match="/dev/full"):
        run(tmp_path, {**config, "cameras": [full, good]})
    assert len(records(tmp_path / "good.jsonl")) == FRAMES


@pytest.mark.slow
def test_tracks_that_coast_are_reported_as_such(engines, clips, tmp_path):
    lines = {}
    for coast in (0, 4):
        out = tmp_path / f"{coast}.jsonl"
        outputs = {"jsonl": str(out), "coast": coast}
        run(tmp_path, {**basics(engines), "source": {"uri": str(clips[0])}, "outputs": outputs})
        lines[coast] = records(out)
    alone: dict[int, int] = {}  # frames since an object was last seen
    for plain, coasting in zip(lines[0], lines[4], strict=True):
        seen = {t["id"]: t for t in plain["tracks"]}
        alone = {i: since + 1 for i, since in alone.items()} | dict.fromkeys(seen, 0)
        shown = {t["id"]: t for t in coasting["tracks"]}
        assert {i: t for i, t in shown.items() if "predicted" not in t} == seen
        for i, track in shown.items():
            assert track.get("predicted", False) == (alone[i] > 0)
            assert alone[i] <= 4
    assert any("predicted" in track for line in lines[4] for track in line["tracks"])


@pytest.mark.slow
def test_every_third_frame_is_detected_and_the_rest_predicted(engines, clips, tmp_path):
    config = basics(engines)
    config["detector"]["every"] = 3
    out = tmp_path / "t.jsonl"
    pipeline = run(tmp_path, {**config, "source": {"uri": str(clips[0])}, "outputs": {"jsonl": str(out)}})
    assert pipeline.summary.stats.detector_frames == FRAMES / 3
    lines = records(out)
    assert [bool(r.get("predicted")) for r in lines] == [i % 3 != 0 for i in range(FRAMES)]
    moved = 0
    for before, after in pairwise(lines):
        boxes = {t["id"]: t["box"] for t in before["tracks"]}
        for track in after["tracks"] if after.get("predicted") else ():
            assert track["id"] in boxes, "a predicted frame shows the tracks of the last detected one"
            step = np.abs(np.subtract(track["box"], boxes[track["id"]])).max()
            assert step < 20
            moved += step > 0
    assert moved


def test_the_cadence_holds_a_frame_rate():
    cadence = Cadence(DetectorConfig(hold_fps=10.0))
    assert cadence.due(), "nothing is known before the first"
    for _ in range(50):
        cadence.took(0.25)
    assert cadence.every == 3
    assert [cadence.due() for _ in range(9)] == [False, False, True] * 3
    for _ in range(50):
        cadence.took(0.01)
    assert cadence.every == 1
    assert Cadence(DetectorConfig(every=4)).every == 4


# ---- outputs that are slow or fail -----------------------------------------------------------------------------------


def frame_tracks(index):
    boxes = np.array([[1.0, 2, 30, 40]])
    return Frame(index, index / 10, None), FrameTracks(np.array([1]), boxes, np.array([0]), np.array([0.5]), ("a",))


class Outputs:
    """A stand-in for the outputs of a configuration: one sink that does as it is told."""

    def __init__(self, path):
        self.path, self.broken, self.gate, self.written = path, False, threading.Event(), []
        self.gate.set()

    def openers(self):
        def opener():
            if self.broken:
                raise OutputError(f"{self.path}: cannot be written: disk full")
            return self

        return {"jsonl": opener}

    def write(self, frame, tracks):
        assert self.gate.wait(60)
        if self.broken:
            raise OutputError(f"{self.path}: cannot be written: disk full")
        self.written.append(frame.index)

    def close(self):
        pass


def test_a_slow_output_of_a_live_source_loses_frames_and_holds_nothing_up(tmp_path):
    outputs, stats = Outputs(tmp_path / "t"), CameraStats("a")
    writer = Writer(outputs.openers(), live=True, stats=stats)
    assert stats.lost == {"jsonl": 0, "queue": 0}, "counted from 0, for those who watch how much it grows"
    outputs.gate.clear()
    writer.start()
    for index in range(100):
        writer.write(*frame_tracks(index))  # would wait for ever if it waited
    outputs.gate.set()
    writer.finish(60)
    assert outputs.written == sorted(outputs.written)
    assert len(outputs.written) + stats.lost["queue"] == 100
    assert stats.lost["queue"] >= 100 - 10


def test_a_change_does_not_wait_for_the_outputs_of_a_live_source_that_hang(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("edge_tracker.app.outputs.writer.CHANGE_S", 0.1)
    outputs = Outputs(tmp_path / "t")
    writer = Writer(outputs.openers(), live=True, stats=CameraStats("a"))
    outputs.gate.clear()
    writer.start()
    writer.write(*frame_tracks(0))
    wait_for(lambda: writer._queue.qsize() == 0, "the first is in hand")
    for index in range(1, 100):
        writer.write(*frame_tracks(index))
    writer.reopen(outputs.openers())  # would wait for ever if it waited
    assert "a: the outputs hang, so they stay as they were" in caplog.text
    outputs.gate.set()
    writer.finish(60)


def test_a_full_disk_costs_a_live_source_frames_and_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("edge_tracker.app.outputs.writer.TRY_AGAIN_S", 0.0)
    caplog.set_level(logging.INFO)
    outputs, stats = Outputs(tmp_path / "t"), CameraStats("a")
    writer = Writer(outputs.openers(), live=True, stats=stats)
    writer.start()

    for index in range(12):
        outputs.broken = 4 <= index < 8
        writer.write(*frame_tracks(index))
        wait_for(lambda n=index + 1: len(outputs.written) + stats.lost["jsonl"] == n, "it is dealt with")
        wait_for(lambda n=index: ("jsonl" in stats.failing) == (4 <= n < 8), "and how it stands is said")
    writer.finish(60)
    assert outputs.written == [0, 1, 2, 3, 8, 9, 10, 11]
    assert stats.lost["jsonl"] == 4
    assert caplog.text.count("tracking continues") == 1
    assert "can be written again; 4 frames were lost" in caplog.text


def test_a_file_waits_for_its_outputs_and_ends_with_their_error(tmp_path):
    outputs, stats = Outputs(tmp_path / "t"), CameraStats("a")
    writer = Writer(outputs.openers(), live=False, stats=stats)
    writer.start()
    for index in range(50):
        writer.write(*frame_tracks(index))
    outputs.broken = True

    def write_on():
        for index in range(50, 100):
            writer.write(*frame_tracks(index))

    with pytest.raises(OutputError, match="disk full"):
        write_on()
    with pytest.raises(OutputError, match="disk full"):
        writer.finish(60)
    assert outputs.written[:41] == list(range(41)), "nothing was left out before it failed"


def test_a_file_whose_outputs_hang_at_the_end_is_not_complete(tmp_path):
    outputs = Outputs(tmp_path / "t")
    writer = Writer(outputs.openers(), live=False, stats=CameraStats("a"))
    outputs.gate.clear()
    writer.start()
    for index in range(4):
        writer.write(*frame_tracks(index))
    wait_for(lambda: writer._queue.qsize() == 3)
    with pytest.raises(OutputError, match="a: the outputs are too slow; 4 frames are lost"):
        writer.finish(0.1)
    outputs.gate.set()


@pytest.mark.slow
def test_a_run_of_a_file_waits_for_slow_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_tracker.app.run.pipeline.DRAIN_S", 0.0)
    write = JsonlSink.write
    monkeypatch.setattr(JsonlSink, "write", lambda *arguments: time.sleep(0.3) or write(*arguments))
    path, _ = long_run(tmp_path, 12)
    with Pipeline(load_config(path)) as pipeline:
        pipeline.run()
    assert [record["frame"] for record in records(tmp_path / "first.jsonl")] == list(range(1, 13))


def test_outputs_are_changed_in_mid_run(tmp_path):
    from edge_tracker.app.config.schema import OutputsConfig

    first, second = (OutputsConfig(jsonl=str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl"))
    writer = Writer(openers_of(first, 10.0, True), live=False, stats=CameraStats("a"))
    writer.start()
    writer.write(*frame_tracks(1))
    writer.reopen(openers_of(second, 10.0, True))
    writer.write(*frame_tracks(2))
    writer.reopen(openers_of(OutputsConfig(jsonl="/proc/no/such.jsonl"), 10.0, True))
    writer.write(*frame_tracks(3))
    writer.finish(60)
    assert [r["frame"] for r in records(tmp_path / "a.jsonl")] == [1]
    assert [r["frame"] for r in records(tmp_path / "b.jsonl")] == [2, 3], "an impossible change changes nothing"


def test_a_frame_that_a_detector_spoils_costs_a_live_camera_that_frame(tmp_path, caplog):
    picture = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "det.txt").write_text("1,-1,5,5,20,30,0.95\n")
    looked = 0

    class Spoils:
        name = "a detector"

        def find(self, frame):
            nonlocal looked
            looked += 1
            ltwh = np.array([[5, 5, 20, np.nan if looked == 3 else 30]], np.float32)
            return Detections(ltwh, np.float32([0.95]), np.int64([0]), ["person"])

    camera = MjpegCamera(lambda: picture)
    config = {"source": {"uri": camera.uri, "fps": 10.0}, "detector": {"mot": "det.txt"}, "embedder": {"model": None}}
    path = tmp_path / "cam.yaml"
    path.write_text(yaml.safe_dump({**config, "state": {"every": 0}}))
    try:
        with Pipeline(load_config(path)) as pipeline:
            (stats,) = pipeline.summary.cameras
            assert stats.lost == {"queue": 0, "frames": 0}
            pipeline.cameras[0]._finder = Spoils()
            pipeline.run(max_frames=6)
    finally:
        camera.unplug()
    assert (stats.frames, stats.lost["frames"]) == (looked - 1, 1)
    assert "is left out: " in caplog.text


# ---- a configuration that changes ----------------------------------------------------------------------------------


def test_what_needs_a_restart(tmp_path):
    def config(**changes):
        base = {
            "cameras": [{"name": "a", "source": {"uri": 0}}, {"name": "b", "source": {"uri": 1}}],
            "detector": {"every": 1},
        }
        return load_config({**base, **changes})

    before = config()
    zones = [
        {"name": "a", "source": {"uri": 0}, "zones": {"z": {"polygon": [[0, 0], [9, 0], [9, 9]]}}},
        {"name": "b", "source": {"uri": 1}},
    ]
    assert needs_restart(before, config(cameras=zones, detector={"every": 2})) == []
    changed = config(device="cpu", detector={"confidence": 0.5})
    assert needs_restart(before, changed) == ["device", "detector.confidence"]
    moved = config(cameras=[{"name": "a", "source": {"uri": 2}}, {"name": "c", "source": {"uri": 1}}])
    assert sorted(needs_restart(before, moved)) == ["camera a: source", "camera b", "camera c"]


def long_run(tmp_path, frames=600_000, every=1):
    """A run by replayed detections, of every n-th frame, that takes long enough to do something meanwhile."""
    rows = [f"{f},-1,{100 + 50 * np.sin(f / 40):.1f},50,40,90,0.95" for f in range(every, frames + 1, every)]
    (tmp_path / "det.txt").write_text("\n".join(rows) + "\n")
    config = {
        "detector": {"mot": "det.txt"},
        "embedder": {"model": None},
        "outputs": {"jsonl": "first.jsonl"},
    }
    path = tmp_path / "cam.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, config


@pytest.mark.slow
def test_a_changed_configuration_is_taken_up_if_it_is_valid(tmp_path):
    path, config = long_run(tmp_path)
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_tracker", "--config", str(path), "--log-format", "json"],
            stderr=stderr,
            stdout=subprocess.DEVNULL,
            # It heeds the signal, however the tests are run.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
    try:
        first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
        wait_for_program(lambda: first.exists() and first.stat().st_size > 10_000, "it runs")
        path.write_text("tracker: {max_agee: 3}\n")
        process.send_signal(signal.SIGHUP)
        wait_for_program(lambda: "max_agee: unknown key" in log.read_text(), "what is wrong is said")
        config["outputs"] = {"jsonl": "second.jsonl"}
        config["zones"] = {"door": {"polygon": [[0, 0], [500, 0], [500, 500], [0, 500]]}}
        config["threads"] = 1
        path.write_text(yaml.safe_dump(config))
        process.send_signal(signal.SIGHUP)
        wait_for_program(lambda: second.exists() and second.stat().st_size > 10_000, "the new output is written")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    told = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert "the configuration was reloaded" in told
    assert "threads: the change needs a restart" in told
    before, after = records(first), records(second)
    assert [r["frame"] for r in [*before, *after]] == list(range(1, len(before) + len(after) + 1))
    assert {t["id"] for r in [*before, *after] for t in r["tracks"]} == {1}
    assert after[-1]["tracks"][0]["zones"] == ["door"]


def test_a_files_last_objects_end_with_it(tmp_path):
    path, _ = long_run(tmp_path, 50)
    told = []
    with Pipeline(load_config(path)) as pipeline:
        pipeline._audience.append(lambda camera, frame, tracks: told.extend(tracks.events))
        pipeline.run()
    assert [event.type for event in told if event.type != "update"] == ["new", "end"]


def test_duration_ends_a_run(tmp_path):
    path, _ = long_run(tmp_path, every=100)
    with Pipeline(load_config(path)) as pipeline:
        pipeline.run(duration=0.5)
    assert 0 < pipeline.summary.frames < 600_000
    assert len(records(tmp_path / "first.jsonl")) == pipeline.summary.frames


def test_systemd_is_told(tmp_path, monkeypatch):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(COMPILING_S)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        path, _ = long_run(tmp_path, every=100)
        heard = []

        def listen():
            while not heard or heard[-1] != b"STOPPING=1":
                heard.append(listener.recv(100))
                if heard.count(b"WATCHDOG=1") == 3:
                    pipeline.cameras[0].stop()

        with Pipeline(load_config(path)) as pipeline:
            thread = threading.Thread(target=listen)
            thread.start()
            pipeline.run()
            thread.join()
    assert heard[0] == b"READY=1"
    assert set(heard[1:-1]) == {b"WATCHDOG=1"}


@pytest.mark.slow
def test_a_replaced_model_is_told_and_the_run_goes_on(engines, clips, tmp_path, caplog, monkeypatch):
    import shutil

    monkeypatch.setattr("edge_tracker.app.run.supervision.LOOK_AT_FILES_S", 0.0)
    model = tmp_path / "yolov3-tiny.onnx"
    shutil.copy(engines / "yolov3-tiny.onnx", model)
    config = {**basics(engines), "source": {"uri": str(clips[0])}}
    config["detector"]["model"] = str(model)
    path = tmp_path / "cam.yaml"
    path.write_text(yaml.safe_dump(config))
    with Pipeline(load_config(path)) as pipeline:
        other = tmp_path / "other"
        other.write_bytes(b"rubbish")
        pipeline._audience.append(lambda camera, frame, tracks: frame.index == 5 and other.replace(model))
        pipeline.run()
    assert pipeline.summary.frames == FRAMES
    assert pipeline.summary.stats.models_changed == 1
    assert "was replaced" in caplog.text


@pytest.mark.slow
def test_a_recorded_run_is_reproduced(engines, clips, tmp_path):
    def edge_tracker(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "edge_tracker", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=COMPILING_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    path = tmp_path / "cam.yaml"
    path.write_text(yaml.safe_dump({**basics(engines), "outputs": {"mot": str(tmp_path / "t.txt")}}))
    edge_tracker("--config", path, "--source", clips[0], "--record", tmp_path / "rec", "--record-limit", 64)
    said = edge_tracker("replay", tmp_path / "rec", "--check", "--mot", tmp_path / "again.txt")
    assert f"reproduced bit for bit: {FRAMES} frames" in said
    assert (tmp_path / "again.txt").read_text() == (tmp_path / "t.txt").read_text()


def test_a_source_that_is_not_there_ends_before_any_result_is_touched(engines, tmp_path):
    out = tmp_path / "t.jsonl"
    out.write_text("earlier")
    with pytest.raises(SourceError, match="no such file"):
        run(tmp_path, {**basics(engines), "source": {"uri": "no.avi"}, "outputs": {"jsonl": str(out)}})
    assert out.read_text() == "earlier"
