"""The whole program as an appliance: a camera that goes and comes, a process that is killed, identities that go on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from itertools import pairwise

import pytest
import yaml

from edge_tracker.app.run.camera_run import GIVEN_SINCE
from edge_tracker.app.run.state import load
from tests.app.programs import needs_gstreamer
from tests.app.street import StreetCamera
from tests.waiting import COMPILING_S, free_port
from tests.waiting import wait_for_program as wait_for


@contextmanager
def program(path, log, *arguments):
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_tracker", "--config", str(path), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def records(path):
    """The frames of a JSON lines file; every line must be whole."""
    text = path.read_text() if path.exists() else ""
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def ids(lines):
    return {track["id"] for line in lines for track in line["tracks"]}


@pytest.mark.slow
def test_identities_go_on_after_the_process_was_killed(engines, demo_video, tmp_path):
    camera = StreetCamera(demo_video)
    out, log, path = tmp_path / "out/t.jsonl", tmp_path / "log", tmp_path / "cam.yaml"
    config = {
        "device": "cpu",
        "source": {"uri": camera.uri, "fps": 10.0},
        "detector": {"model": str(engines / "yolov3-tiny.onnx"), "classes": ["person"]},
        "embedder": {"model": str(engines / "mobilenetv2.onnx")},
        "tracker": {"method": "deepsort", "max_age": 9000},
        "zones": {"all": {"polygon": [[-50, -50], [900, -50], [900, 700], [-50, 700]]}},
        "outputs": {"jsonl": str(out)},
        "state": {"folder": str(tmp_path / "state"), "every": 0.2, "resume_within": 900.0},
    }
    path.write_text(yaml.safe_dump(config))
    try:
        with program(path, log) as process:
            wait_for(lambda: len(ids(whole_lines(out))) >= 3, log.read_text)
            state = tmp_path / "state/camera.npz"
            seen = wait_for(lambda: state.exists() and state.stat().st_mtime_ns, "a state is saved")
            wait_for(lambda: state.stat().st_mtime_ns != seen, "and again")
            process.send_signal(signal.SIGKILL)
            process.wait()
        first = records(out)
        meta = load(state).meta
        next_id = meta["next_id"]
        with program(path, log) as process:
            wait_for(lambda: (lines := whole_lines(out)) and ids(lines) and lines[0]["frame"] > 1, log.read_text)
            wait_for(lambda: len(whole_lines(out)) > 15, log.read_text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(COMPILING_S) == 0, log.read_text()
    finally:
        camera.unplug()
    (old,) = [file for file in out.parent.iterdir() if file != out]
    assert records(old) == first, "what the killed process had written is still there"
    second = records(out)
    assert second[0]["frame"] == meta["frames"] + 1, "the count of frames goes on from the last state"
    before, after = ids(first), ids(second)
    assert before & after, f"someone who is still there kept the number: {before}, {after}"
    # Smaller ones are of candidates that the state holds; those from there on may have been given before the end.
    assert all(number < next_id or number >= next_id + GIVEN_SINCE for number in after - before)
    assert "continuing from a saved state" in log.read_text()
    entered = [e for line in [*first, *second] for e in line.get("events", []) if e["type"] == "enter"]
    kept = before & after
    assert all(sum(e["id"] == number for e in entered) <= 1 for number in kept), "who stayed has not entered anew"


def whole_lines(path):
    """The frames so far of a file that is being written."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def get(port, path):
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def metric(text, name):
    """The value of a metric, of whatever labels, if it has been said; summed."""
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith((name + "{", name + " ")) and not line.startswith("#")
    ]
    return sum(values) if values else None


@pytest.mark.slow
@needs_gstreamer
def test_a_camera_that_goes_and_comes_beside_one_that_stays(engines, rtsp, demo_video, tmp_path):
    pytest.importorskip("uvicorn")
    street = StreetCamera(demo_video)
    port, log, path = free_port(), tmp_path / "log", tmp_path / "cam.yaml"
    rtsp.start(320, 240, 10, "viewer", "hunter2")
    config = {
        "device": "cpu",
        "cameras": [
            {"name": "street", "source": {"uri": street.uri, "fps": 10.0}},
            {"name": "ball", "source": {"uri": rtsp.uri("viewer:hunter2")}},
        ],
        "detector": {"model": str(engines / "yolov3-tiny.onnx"), "hold_fps": 5.0},
        "embedder": {"model": str(engines / "mobilenetv2.onnx")},
        "outputs": {"jsonl": str(tmp_path / "out/{camera}.jsonl")},
        "server": {"port": port},
        "state": {"folder": str(tmp_path / "state"), "every": 1.0},
    }
    path.write_text(yaml.safe_dump(config))

    def answered(status, page):
        """The text of a page if it is answered so; "" otherwise."""
        got, text = get(port, page)
        return text if got == status else ""

    try:
        with program(path, log, "--log-format", "json") as process:
            wait_for(lambda: answered(200, "/readyz"), log.read_text)
            wait_for(lambda: len(whole_lines(tmp_path / "out/ball.jsonl")) > 3, log.read_text)
            rtsp.kill()
            said = wait_for(lambda: "ball" in (text := answered(503, "/readyz")) and text, "the camera's absence shows")
            assert "hunter2" not in said
            count = len(whole_lines(tmp_path / "out/street.jsonl"))
            wait_for(lambda: len(whole_lines(tmp_path / "out/street.jsonl")) > count + 5, "the other camera goes on")
            wait_for(lambda: answered(200, "/healthz"), "one camera's absence is no illness")
            rtsp.start(320, 240, 10, "viewer", "hunter2")
            wait_for(lambda: answered(200, "/readyz"), "the camera is back")
            text = wait_for(lambda: answered(200, "/metrics"), "the figures")
            assert metric(text, 'edge_tracker_reconnects_total{camera="ball"}') >= 1
            assert metric(text, "edge_tracker_frames_total") > 10
            process.send_signal(signal.SIGTERM)
            assert process.wait(COMPILING_S) == 0, log.read_text()
            summary = process.stdout.read()
    finally:
        street.unplug()
    lines = records(tmp_path / "out/ball.jsonl")
    steps = [b["time"] - a["time"] for a, b in pairwise(lines)]
    assert min(steps) >= 0
    assert max(steps) > 1.0, "the time without the camera has passed in its stream, too"
    assert [line["frame"] for line in lines] == list(range(1, len(lines) + 1))
    assert re.search(r"reconnects: [1-9]", summary)
    for told in (log.read_text(), summary, *(file.read_text() for file in (tmp_path / "out").iterdir())):
        assert "hunter2" not in told
    assert all(json.loads(line)["level"] for line in log.read_text().splitlines())
