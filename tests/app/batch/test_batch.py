"""Batches on a real Ray: workers and batches that are killed, and results as single runs have them."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import pytest

from edge_tracker.app.config.loading import load_config
from edge_tracker.app.run.pipeline import Pipeline
from tests.app.batch.squares import configuration, video
from tests.waiting import COMPILING_S, wait_for

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'edge-tracker[ray]'"),
    pytest.mark.slow,
]

LONG = 200_000  # frames that take longer than anything here waits for


class Command:
    """A running `edge-tracker batch` in a session of its own, with what it says."""

    def __init__(self, folder: Path, *arguments: object, environment: dict[str, str] | None = None):
        self._log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_tracker", "batch", "-v", "--output", "results", *map(str, arguments)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            # Signals as a terminal's foreground process has them, however the tests are run.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def workers(self) -> list[int]:
        """The workers that have been ready so far, by process."""
        return [int(number) for number in re.findall(r"a worker is ready: process (\d+)", self.log)]

    def wait_for(self, condition) -> object:
        """Wait until something is true; gives it."""

        def look() -> object:
            ended = self.process.poll() is not None
            found = condition()
            assert found or not ended, f"ended too early: {self.log}"
            return found

        return wait_for(look, lambda: self.log, COMPILING_S)

    def end(self) -> tuple[int, str]:
        """Wait for the end: exit code, and what it printed."""
        try:
            out, _ = self.process.communicate(timeout=COMPILING_S)
        finally:
            self.kill()
        assert "Traceback" not in self.log + out
        return self.process.returncode, out

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self._log.close()


@pytest.fixture(scope="module")
def ray_instance():
    """The address of a Ray instance, and the variables that let one in."""
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-these-tests",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the loopback address is taken as it is
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.app.batch.ray_instance"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("127.0.0.1:")
        yield address, environment
    finally:
        process.communicate(timeout=COMPILING_S)
        assert process.returncode == 0


@pytest.fixture
def batch(ray_instance, tmp_path):
    """Starts batches on that instance, in `tmp_path`, which holds cam.yaml and the folder archive."""
    address, environment = ray_instance
    configuration(tmp_path)
    started: list[Command] = []

    def _batch(*arguments: object) -> Command:
        given = ("--config", "cam.yaml", "--inputs", "archive", "--address", address, "--cpus", 1, *arguments)
        started.append(Command(tmp_path, *given, environment=environment))
        return started[-1]

    yield _batch
    for command in started:
        command.kill()


def single_run(config: Path, source: Path, folder: Path) -> Path:
    """What `edge-tracker --config CONFIG --source SOURCE` writes, into a folder."""
    sets = [f"outputs.mot={folder / 'tracks.txt'}", f"outputs.jsonl={folder / 'tracks.jsonl'}"]
    with Pipeline(load_config(config, sets, str(source))) as pipeline:
        pipeline.run()
    return folder


def assert_same(results: Path, single: Path) -> None:
    """Byte for byte, but for the time of day at which an event was worked on."""
    assert (results / "tracks.txt").read_bytes() == (single / "tracks.txt").read_bytes()
    assert (results / "tracks.txt").stat().st_size
    clock = re.compile(rb'"(time|started|ended)":1\d{9}\.?\d*')
    lines = [clock.sub(b"", (folder / "tracks.jsonl").read_bytes()) for folder in (results, single)]
    assert lines[0] == lines[1]


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results" / "summary.csv").open(newline="") as file:
        return {row["results"]: row for row in csv.DictReader(file)}


def in_hand(folder: Path, text: str = "tracks.txt") -> bool:
    """Whether a worker has written something of an unfinished video."""
    found = False
    for path in (folder / "results" / ".batch" / "work").glob(f"*/{text}"):
        with suppress(FileNotFoundError):  # it has just been finished
            found |= path.stat().st_size > 0
    return found


def descendants(process: int) -> set[int]:
    """The processes that one has started, and those that these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


def listening(processes: set[int]) -> dict[str, list[str]]:
    """The local addresses that processes listen at, as the kernel writes them."""
    sockets = set()
    for process in processes:
        try:
            sockets |= {os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()}
        except OSError:
            continue
    found: dict[str, list[str]] = {}
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        found[table] = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return found


def test_eight_videos_one_bad_one_and_a_worker_that_is_killed(engines, demo_video, tmp_path):
    clip = tmp_path / "archive" / "monday" / "0.avi"
    clip.parent.mkdir(parents=True)
    capture = cv2.VideoCapture(str(demo_video))
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (768, 576))
    for _ in range(40):
        writer.write(capture.read()[1])
    writer.release()
    copies = [clip, *(tmp_path / "archive" / day / f"{n}.avi" for day in ("monday", "tuesday") for n in range(4))]
    for copy in copies[2:]:
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(clip, copy)
    (tmp_path / "archive" / "bad.avi").write_bytes(clip.read_bytes()[:1000])
    config = tmp_path / "cam.yaml"
    config.write_text(
        f"device: cpu\ndetector: {{model: {engines}/yolov3-tiny.onnx, every: 2}}\n"
        f"embedder: {{model: {engines}/mobilenetv2.onnx}}\n"
        "outputs: {mot: tracks.txt, jsonl: tracks.jsonl, coast: 2}\n"
        "zones: {street: {polygon: [[100, 100], [600, 100], [600, 500]]}}\n"
    )
    arguments = ("--config", config, "--inputs", "archive/**/*.avi", "--workers", 2)
    command = Command(tmp_path, *arguments)
    try:
        first, _ = command.wait_for(lambda: len(command.workers()) == 2 and command.workers())
        assert set(command.workers()) <= descendants(command.process.pid)
        where = listening(descendants(command.process.pid))
        command.wait_for(lambda: in_hand(tmp_path))
        os.kill(first, signal.SIGKILL)
        code, out = command.end()
    finally:
        command.kill()
    assert code == 1, command.log
    assert "videos      8 tracked, 1 failed" in out
    assert len(command.workers()) in (2, 3), "the other may have done all before a third is ready"
    assert re.search(r"a worker died; it was processing \S+\.avi", command.log)
    # Ray itself says nothing.
    assert {line.split()[0] for line in out.splitlines()} == {"videos", "frames", "speed", "failed", "results"}
    assert [line for line in command.log.splitlines() if not re.match(r"[A-Z]+ edge_tracker\.app\.", line)] == []

    # Nothing that Ray starts can be reached from elsewhere: 127.0.0.1, also in its IPv6 form.
    assert sum(map(len, where.values())) > 3
    assert set(where["tcp"]) <= {"0100007F"}
    assert set(where["tcp6"]) <= {"0000000000000000FFFF00000100007F"}

    rows = summary(tmp_path)
    assert rows.pop("bad.avi")["status"] == "failed"
    assert sorted(rows) == sorted(str(path.relative_to(tmp_path / "archive")) for path in set(copies))
    single = single_run(config, clip, tmp_path / "single")
    for place, row in rows.items():
        assert (row["status"], row["frames"], row["reason"]) == ("done", "40", "")
        assert_same(tmp_path / "results" / place, single)
    (tmp_path / "archive" / "bad.avi").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*/*/*")}
    again = Command(tmp_path, *arguments)
    code, out = again.end()
    assert (code, "videos      8 finished before" in out) == (0, True), again.log
    assert again.workers() == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*/*/*")} == before


def test_a_batch_that_is_stopped_or_killed_goes_on(batch, tmp_path):
    for name in ("a", "b"):
        video(tmp_path / "archive" / f"{name}.avi", 50, seed=ord(name))
    endless = video(tmp_path / "archive" / "c.avi", LONG)
    stopped = batch("--workers", 1)
    stopped.wait_for(lambda: len(list((tmp_path / "results").glob("?.avi"))) == 2 and in_hand(tmp_path))
    second = batch()
    code, _ = second.end()
    assert code == 2
    assert "another batch (process" in (tmp_path / "log").read_text()
    os.killpg(stopped.process.pid, signal.SIGINT)
    code, out = stopped.end()
    assert code == 130
    assert "videos      2 tracked, 1 left" in out
    assert sorted(summary(tmp_path)) == ["a.avi", "b.avi"]
    wait_for(lambda: not list((tmp_path / "results" / ".batch" / "work").glob("*")), "the unfinished work stays")
    assert not (tmp_path / "results" / "c.avi").exists()

    killed = batch("--workers", 1)
    killed.wait_for(lambda: in_hand(tmp_path))
    killed.kill()
    assert not (tmp_path / "results" / "c.avi").exists()

    video(endless, 60)
    (tmp_path / "archive" / "b.avi").touch()
    last = batch("--workers", 1)
    code, out = last.end()
    assert code == 0, last.log
    assert "videos      1 tracked, 2 finished before" in out
    for name in "abc":
        single = single_run(tmp_path / "cam.yaml", tmp_path / "archive" / f"{name}.avi", tmp_path / f"single {name}")
        assert_same(tmp_path / "results" / f"{name}.avi", single)

    other = batch("--workers", 1, "--set", "detector.confidence=0.6")
    code, out = other.end()
    assert code == 0, other.log
    assert "videos      3 tracked" in out


def test_a_video_that_kills_its_workers_is_reported(batch, tmp_path):
    video(tmp_path / "archive" / "bad.avi", LONG)
    command = batch("--workers", 1)
    for attempt in range(1, 4):
        command.wait_for(lambda n=attempt: len(command.workers()) == n and in_hand(tmp_path))
        os.kill(command.workers()[-1], signal.SIGKILL)
        command.wait_for(lambda n=attempt: command.log.count("a worker died") == n)
    code, out = command.end()
    assert code == 1
    assert "videos      1 failed" in out
    assert summary(tmp_path)["bad.avi"]["reason"] == "3 workers that processed it died"


def test_a_cut_video_is_joined_and_compared(batch, tmp_path):
    path = video(tmp_path / "archive" / "a.avi", 300, squares=4)
    command = batch("--workers", 2, "--cut", 8, "--overlap", 2, "--compare-uncut")
    code, out = command.end()
    assert code == 0, command.log
    place = tmp_path / "results" / "a.avi"
    assert sorted(os.listdir(place)) == ["batch.json", "tracks.jsonl", "tracks.txt"]
    record = json.loads((place / "batch.json").read_text())
    assert (record["frames"], record["segments"]) == (300, 4)
    single = single_run(tmp_path / "cam.yaml", path, tmp_path / "single")
    # The first segment is what it is uncut; and of the squares, which nothing hides, none is lost at a cut.
    uncut, cut = ((folder / "tracks.txt").read_text().splitlines() for folder in (single, place))
    of_first = [row for row in uncut if int(row.split(",")[0]) <= 100]
    assert cut[: len(of_first)] == of_first
    frames = [json.loads(line)["frame"] for line in (place / "tracks.jsonl").read_text().splitlines()]
    assert frames == list(range(1, 301))
    said = re.search(
        r"cut         \S+/a\.avi: 4 identities in 4 segments, 4 uncut; \d the same, 0 switches, IDF1 (\S+)", out
    )
    assert said, out
    assert float(said.group(1)) > 95
    assert record["difference"]["uncut"] == len({row.split(",")[1] for row in uncut})


def test_a_configuration_that_no_worker_can_open(batch, tmp_path):
    video(tmp_path / "archive" / "a.avi", 20)
    (tmp_path / "squares.onnx").write_bytes(b"no model")
    command = batch("--workers", 1)
    code, _ = command.end()
    assert code == 2
    last = command.log.splitlines()[-1]
    assert last.startswith("edge-tracker: error: worker on ")
    assert "detector.model" in last


def test_an_address_where_nobody_is(tmp_path, ray_instance):
    configuration(tmp_path)
    video(tmp_path / "archive" / "a.avi", 20)
    _, environment = ray_instance
    command = Command(
        tmp_path, "--config", "cam.yaml", "--inputs", "archive", "--address", "nowhere", environment=environment
    )
    code, out = command.end()
    assert code == 2
    assert command.log.splitlines()[-1].startswith("edge-tracker: error: Ray: no cluster can be reached at nowhere: ")
    assert "videos      1 left" in out
