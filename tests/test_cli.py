"""The command line as a user meets it: a process of its own, its output and its exit code."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_tracker import __version__
from edge_tracker.cli import main
from tests.waiting import COMPILING_S, wait_for

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments: object, **options) -> subprocess.Popen:
    """Start `edge-tracker`."""
    return subprocess.Popen(
        [sys.executable, "-m", "edge_tracker", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Signals as a terminal's foreground process has them, however the tests are run.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def run(*arguments: object, **options) -> tuple[int, str, str]:
    """Run `edge-tracker` to its end: exit code, stdout, stderr."""
    process = command(*arguments, **options)
    out, err = process.communicate(timeout=COMPILING_S)
    return process.returncode, out, err


@pytest.fixture
def write(tmp_path):
    """Writes text to cam.yaml and returns its path."""

    def _write(text: str) -> Path:
        path = tmp_path / "cam.yaml"
        path.write_text(text)
        return path

    return _write


@pytest.fixture
def replay(write, tmp_path):
    """A configuration that needs neither video nor models: two objects for 60 frames."""
    rows = [f"{i},-1,{10 + i},{20},30,60,0.9\n{i},-1,{300 - i},{100},30,60,0.8\n" for i in range(1, 61)]
    (tmp_path / "det.txt").write_text("".join(rows))
    return write(
        "detector: {mot: det.txt}\nembedder: {model: null}\ntracker: {method: deepsort}\n"
        "outputs: {mot: out/t.txt, jsonl: out/t.jsonl}\n"
    )


# ---- what a user can put right: one line, exit code 2, no traceback --------------------------------------------------


def fake_model(path: Path, shape: list[int | str]) -> Path:
    """An ONNX model that gives back its one input."""
    onnx = pytest.importorskip("onnx")
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("some_in", "some_out")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["some_in"], ["some_out"])], "g", *[[t] for t in tensors]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


VALID = "source: {uri: video.avi}\ndetector: {model: model.onnx}\nembedder: {model: null}\noutputs: {mot: t.txt}\n"


REPLAYED = "source: {uri: video.avi}\ndetector: {mot: det.txt}\noutputs: {mot: t.txt}\n"


@pytest.fixture
def things(tmp_path):
    """A folder with a video, a file that is no video, and models that are none or do something else."""
    writer = cv2.VideoWriter(str(tmp_path / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for _ in range(5):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    (tmp_path / "broken.avi").write_bytes(bytes(range(256)) * 40)
    fake_model(tmp_path / "model.onnx", [1, 3, 32, 32])
    fake_model(tmp_path / "flat.onnx", ["n", 7])
    (tmp_path / "corrupt.onnx").write_bytes(b"\x08\x07nothing of the kind" * 99)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "corrupt.engine").write_bytes(b"ftrt" * 99)
    (tmp_path / "folder").mkdir()
    (tmp_path / "det.txt").write_text("1,-1,1,1,10,20,0.9\n")
    return tmp_path


BAD = {
    "a YAML syntax error": ("source: [1\n", [], ["cam.yaml:2:1", "not valid YAML"]),
    "an unknown key": (VALID + "tracker: {max_agee: 3}", [], ["cam.yaml:5", "tracker.max_agee", "tracker.max_age?"]),
    "a wrong type": (VALID + "tracker: {max_age: old}", [], ["cam.yaml:5", "tracker.max_age", '"old"', "whole number"]),
    "an impossible value": (VALID, ["--set", "detector.confidence=30"], ["detector.confidence", "30", "from 0 to 1"]),
    "a missing model file": (
        VALID,
        ["--set", "detector.model=no.onnx"],
        ["detector.model", "no.onnx", "no such model file"],
    ),
    "an unknown model": (VALID, ["--set", "detector.model=yolo99"], ["yolo99", "make export"]),
    "an unknown embedder": (REPLAYED, ["--set", "embedder.model=nonet"], ["embedder.model", "nonet", "make export"]),
    "a model that is no embedder": (REPLAYED, ["--set", "embedder.model=model.onnx"], ["embedder.model", "some_in"]),
    "a model that is no detector": (VALID, [], ["model.onnx", "some_in", "some_out"]),
    "a model without an image input": (
        VALID,
        ["--set", "detector.model=flat.onnx"],
        ["flat.onnx", "some_in", "some_out"],
    ),
    "a corrupt ONNX file": (VALID, ["--set", "detector.model=corrupt.onnx"], ["corrupt.onnx"]),
    "an empty ONNX file": (VALID, ["--set", "detector.model=empty.onnx"], ["empty.onnx"]),
    "a corrupt engine": (VALID, ["--set", "detector.model=corrupt.engine"], []),
    "a folder as a model": (VALID, ["--set", "detector.model=folder.onnx"], ["folder.onnx"]),
    "an unreadable video": (
        VALID,
        ["--source", "broken.avi"],
        ["source.uri", "broken.avi", "cannot be opened as a video"],
    ),
    "a missing video": (VALID, ["--source", "no.avi"], ["no.avi", "no such file"]),
    "a missing camera": (VALID, ["--source", "99"], ["camera 99", "cannot be opened"]),
    "an unwritable output": (VALID, ["--set", "outputs.mot=folder"], ["outputs.mot", "folder", "is a folder"]),
    "an output below a file": (VALID, ["--set", "outputs.jsonl=video.avi/t"], ["video.avi is not a folder"]),
    "an output over the source": (VALID, ["--set", "outputs.mot=video.avi"], ["outputs.mot", "overwritten"]),
    "missing detections": ("detector: {mot: no.txt}\nembedder: {model: null}", [], ["detector.mot", "no.txt"]),
    "detections that are none": ("detector: {mot: cam.yaml}\nembedder: {model: null}", [], ["cam.yaml", "line 1"]),
    "a broker's missing password file": (
        REPLAYED + "embedder: {model: null}\nmqtt: {host: h, username: u, password_file: no.txt}",
        [],
        ["mqtt: password_file", "no.txt", "cannot be read"],
    ),
    "a page without a token": (
        REPLAYED + "embedder: {model: null}\nserver: {host: 0.0.0.0}",
        [],
        ["server.token_file", "missing", "0.0.0.0"],
    ),
    "an unknown option": (VALID, ["--nonsense"], ["--nonsense"]),
    "no frames": (VALID, ["--max-frames", "0"], ["--max-frames", "'0'"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, things, write):
    text, arguments, parts = BAD[name]
    write(text)
    code, out, err = run("--config", "cam.yaml", *arguments, cwd=things)
    assert code == 2, err
    assert out == ""
    assert err.startswith("edge-tracker: error: ")
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert not (things / "t.txt").exists(), "nothing was written"


def test_a_missing_configuration(tmp_path):
    code, out, err = run("--config", tmp_path / "no.yaml")
    assert (code, out) == (2, "")
    assert (
        err
        == f"edge-tracker: error: {tmp_path}/no.yaml: no such file; give a YAML file (configs/cam.yaml is an example)\n"
    )


def test_an_unknown_command():
    code, out, err = run("runn", "--config", "cam.yaml")
    assert (code, out) == (2, "")
    assert "'runn'" in err
    assert all(command in err for command in ("run", "eval", "batch"))
    assert err.count("\n") == 1


@pytest.mark.slow
def test_an_output_that_fails_in_the_middle_of_a_run_is_told_after_the_summary(replay):
    code, out, err = run("--config", replay, "--set", "outputs.mot=/dev/full")
    assert code == 2
    assert int(re.search(r"^frames +(\d+)$", out, re.M).group(1)) < 20, "the rest of the 60 is not tracked"
    assert err.splitlines()[-1] == "edge-tracker: error: /dev/full: cannot be written: No space left on device"


def test_all_problems_are_listed_a_line_each(write):
    code, _, err = run("--config", write("tracker: {max_age: 0, n_innit: 1}\nsource: {uri: 0}"))
    assert code == 2
    assert len(err.splitlines()) == 2
    assert all(line.startswith("edge-tracker: error: ") for line in err.splitlines())


# ---- commands --------------------------------------------------------------------------------------------------------


def test_version_and_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"edge-tracker {__version__}\n"
    for arguments in ([], ["--help"], ["-h"], ["run", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert "--max-frames" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["eval"], ["run", "--max-frames", "0"]])
def test_help_and_complaints_load_nothing_heavy(arguments):
    program = (
        "import sys; from edge_tracker.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print([name for name in ('numpy', 'numba', 'cv2', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_run_may_be_left_out(replay):
    first = run("--config", replay, "--max-frames", 20)
    second = run("run", "-c", replay, "--max-frames", 20)
    assert first[0] == second[0] == 0
    assert "frames      20\n" in first[1]
    assert "frames      20\n" in second[1]


def test_check_writes_nothing(replay):
    code, out, err = run("--config", replay, "--check")
    assert (code, err) == (0, "")
    assert out == f"{replay}: valid\n"
    assert not (replay.parent / "out").exists()


def test_check_lists_all_that_is_missing(write, tmp_path):
    (tmp_path / "folder").mkdir()
    path = write(
        "source: {uri: no.avi}\ndetector: {model: no.onnx}\nembedder: {model: no.engine}\noutputs: {mot: folder}\n"
    )
    code, _, err = run("--config", path, "--check")
    assert code == 2
    lines = err.splitlines()
    assert [line.split(": ")[2] for line in lines] == ["source.uri", "detector.model", "embedder.model", "outputs.mot"]


@pytest.mark.slow
def test_warmup():
    code, out, err = run("warmup")
    assert (code, err) == (0, "")
    assert "compiled" in out


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_replay_without_video_and_models(replay):
    code, out, err = run("--config", replay)
    assert code == 0
    assert "det.txt" in err, "what runs is said once all is open"
    assert "frames      60\n" in out
    assert "tracks      2\n" in out
    for name in ("t.txt", "t.jsonl"):
        assert str(replay.parent / "out" / name) in out
    records = [json.loads(line) for line in (replay.parent / "out/t.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(1, 61))
    assert [len(record["tracks"]) for record in records] == [0, 0] + [2] * 58, "confirmed by the third match"
    assert {track["id"] for record in records for track in record["tracks"]} == {1, 2}
    assert len((replay.parent / "out/t.txt").read_text().splitlines()) == 2 * 58


@pytest.mark.slow
def test_no_outputs_is_allowed_and_said(replay):
    code, out, err = run("--config", replay, "--set", "outputs={}")
    assert code == 0
    assert "tracks      2\n" in out
    assert "no outputs" in err


@pytest.mark.slow
def test_output_to_a_pipe_that_closes(replay):
    """`edge-tracker ... | head -1` ends quietly."""
    script = f'"{sys.executable}" -m edge_tracker --config "{replay}" | true'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=COMPILING_S)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.fixture
def long_run(demo_video, tmp_path):
    """A run over the real video with all outputs, which takes some seconds: recorded detections, no models."""
    path = tmp_path / "cam.yaml"
    rows = [f"{i},-1,{100 * k + i % 100},{90 * k},40,80,0.9\n" for i in range(1, 796) for k in range(5)]
    (tmp_path / "det.txt").write_text("".join(rows))
    path.write_text(
        f"source: {{uri: {demo_video}}}\ndetector: {{mot: det.txt}}\nembedder: {{model: null}}\n"
        "outputs: {mot: t.txt, jsonl: t.jsonl, video: v.mp4}\n"
    )
    return path


def wait_until_written(process, path, lines):
    """Until a running program has written more than so many lines."""

    def written():
        assert process.poll() is None, process.stderr.read()
        return path.exists() and path.read_text().count("\n") > lines

    wait_for(written, path.name, COMPILING_S)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 0, "SIGTERM")])
def test_a_signal_leaves_valid_files(long_run, number, code, name):
    folder = long_run.parent
    process = command("--config", long_run)
    try:
        wait_until_written(process, folder / "t.txt", 40)
        process.send_signal(number)
        out, err = process.communicate(timeout=COMPILING_S)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert "Traceback" not in err
    (line,) = [line for line in out.splitlines() if line.startswith("frames")]
    frames = int(line.split()[1])
    assert 3 < frames < 795, "in the middle of the run"
    assert f"stopped by {name}" in line

    records = [json.loads(line) for line in (folder / "t.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(1, frames + 1))
    rows = (folder / "t.txt").read_text()
    assert rows.endswith("\n")
    assert {len(row.split(",")) for row in rows.splitlines()} == {10}
    assert rows.count("\n") == sum(len(record["tracks"]) for record in records)
    capture = cv2.VideoCapture(str(folder / "v.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == frames


def test_a_killed_run_leaves_whole_lines(long_run):
    """SIGKILL, or a power cut: what is written is whole, but for a last line that it may fall into."""
    folder = long_run.parent
    process = command("--config", long_run)
    try:
        wait_until_written(process, folder / "t.txt", 40)
        wait_until_written(process, folder / "t.jsonl", 0)
    finally:
        process.kill()
        process.communicate()
    frames, rows = ((folder / name).read_text().split("\n")[:-1] for name in ("t.jsonl", "t.txt"))
    assert [json.loads(line)["frame"] for line in frames] == list(range(1, len(frames) + 1))
    assert len(rows) > 40
    assert {len(row.split(",")) for row in rows} == {10}


@pytest.mark.slow
def test_progress_is_a_bar_on_a_terminal(replay):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_tracker", "--config", str(replay)], stdout=subprocess.PIPE, stderr=slave
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    process.communicate(timeout=COMPILING_S)
    assert process.returncode == 0
    assert b"60/60" in seen
    assert b"2 tracks" in seen


def test_nothing_heavy_is_needed_to_complain(tmp_path):
    """A wrong configuration is told without OpenCV and ONNX Runtime being loaded."""
    script = (
        "import sys; from edge_tracker.cli import main; code = main(['--config', sys.argv[1]]);"
        "print(code, sorted({'cv2', 'onnxruntime', 'torch', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "no.yaml")], capture_output=True, text=True, timeout=COMPILING_S
    )
    assert done.stdout == "2 []\n"
