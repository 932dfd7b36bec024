"""`edge-tracker replay`: the same tracks again, with other settings, and what it says of what is wrong."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_tracker.app.commands.exit_codes import BAD_INPUT, NOT_THERE, OK
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.open_tracker import open_tracker
from edge_tracker.app.outputs.sinks import JsonlSink, MotSink
from edge_tracker.app.replay.recordfile import FIRST_LINE, packed, read_records
from edge_tracker.app.replay.recording import Recorder
from edge_tracker.app.replay.replaying import Recording, Replay
from edge_tracker.app.sources.frames import Frame
from edge_tracker.cli import main
from tests.app.recorded import FPS, configuration, frames_of, record, track
from tests.conftest import ROOT


def replayed(path: Path, *overrides: str) -> Replay:
    replay = Replay(Recording(path), overrides)
    for _ in replay:
        pass
    return replay


def rewrite(folder: Path, change) -> None:
    """Write a recording again, each record as `change(content, arrays)` leaves it."""
    (path,) = folder.glob("*.rec")
    records = list(read_records(path))
    for content, arrays in records:
        change(content, arrays)
    path.write_bytes(FIRST_LINE + b"".join(packed(content, arrays) for content, arrays in records))


@pytest.mark.parametrize("sequence", ["PETS09-S2L1", "TUD-Stadtmitte"])
@pytest.mark.parametrize("method", ["edge", "deepsort"])
@pytest.mark.parametrize("lead", [0, 70])
def test_a_run_is_reproduced_bit_for_bit(
    tmp_path: Path, shared_data: Path, sequence: str, method: str, lead: int
) -> None:
    for appearance in (False, True) if sequence == "PETS09-S2L1" else (False,):
        folder = tmp_path / str(appearance)
        count = 100 if sequence == "TUD-Stadtmitte" else 300
        answers = record(folder, shared_data, sequence, method, count, appearance, lead=lead, dt=1.5)
        replay = Replay(Recording(folder))
        for answer, (frame, tracks) in zip(answers, replay, strict=True):
            assert frame.dt == 1.5
            for name in TRACK_ARRAYS:
                assert getattr(tracks, name).tobytes() == getattr(answer, name).tobytes(), (frame.index, name)
        assert replay.result.difference is None
        assert replay.result.frames == count
        assert replay.result.missing == 0
        if lead:
            assert len(next(iter(Recording(folder))).state["id"]) > 0


TRACK_ARRAYS = ("ids", "ltrb", "class_ids", "confidence", "time_since_update", "detection", "confirmed")


@pytest.mark.parametrize("settings", [{"max_embeddings": 1}, {"selective": False}, {"class_aware": True}])
def test_the_settings_of_the_run_are_those_of_the_replay(tmp_path: Path, shared_data: Path, settings: dict) -> None:
    record(tmp_path, shared_data, count=200, appearance=True, **settings)
    replay = replayed(tmp_path)
    assert (replay.result.difference, replay.result.missing) == (None, 0)
    if "max_embeddings" in settings:
        assert replay.result.embedded <= replay.result.frames


def test_a_real_network_is_replayed_without_it(tmp_path: Path, shared_data: Path, engines: Path) -> None:
    from edge_tracker.embedding.embedder import Embedder

    config = configuration("edge")
    embedder = Embedder(engines / "mobilenetv2.onnx", device="cpu", threads=1)
    tracker = open_tracker(config, embedder, FPS["PETS09-S2L1"])
    with Recorder(tmp_path, tracker, config.model_dump(), frame_rate=FPS["PETS09-S2L1"]) as recorder:
        for index, found, image in frames_of(shared_data, "PETS09-S2L1", 100, True):
            tracks = track(tracker, found, image)
            recorder.write(
                index, 0.0, 1.0, image.shape, found.ltwh, found.confidence, found.class_id, found.names, tracks
            )
    embedder.close()
    replay = replayed(tmp_path)
    assert replay.recording.header["dimension"] == 1280
    assert (replay.result.frames, replay.result.difference) == (100, None)
    assert replay.result.embedded > 20


def test_results_are_those_of_the_run(tmp_path: Path, shared_data: Path, capsys) -> None:
    folder = tmp_path / "recording"
    answers = record(folder, shared_data, count=120)
    sinks = [MotSink(tmp_path / "run.txt"), JsonlSink(tmp_path / "run.jsonl")]
    for index, answer in enumerate(answers, 1):
        shown = answer[answer.confirmed & (answer.detection >= 0)]
        tracks = FrameTracks(shown.ids, shown.ltrb, shown.class_ids, shown.confidence, ("person",))
        for sink in sinks:
            sink.write(Frame(index, (index - 1) / FPS["PETS09-S2L1"], None), tracks)
    for sink in sinks:
        sink.close()
    mot, jsonl = tmp_path / "again.txt", tmp_path / "again.jsonl"
    assert main(["replay", str(folder), "--check", "--mot", str(mot), "--jsonl", str(jsonl)]) == OK
    assert mot.read_bytes() == (tmp_path / "run.txt").read_bytes() != b""
    assert jsonl.read_bytes() == (tmp_path / "run.jsonl").read_bytes()
    said = capsys.readouterr().out
    assert "reproduced bit for bit: 120 frames" in said
    assert str(mot) in said
    assert str(jsonl) in said


def test_the_first_difference_is_told(tmp_path: Path, shared_data: Path, capsys) -> None:
    def change(content, arrays) -> None:
        if content.get("frame", 0) >= 60:
            arrays["ltrb"][2, 1] = np.nextafter(arrays["ltrb"][2, 1], np.inf)  # the least there can be
        elif content["kind"] == "header":
            content["versions"]["numpy"] = "1.0.0"

    record(tmp_path, shared_data, count=80)
    number = next(frame.tracks["ids"][2] for frame in Recording(tmp_path) if frame.index == 60)
    rewrite(tmp_path, change)
    assert main(["replay", str(tmp_path), "--check"]) == NOT_THERE
    said = capsys.readouterr().out
    assert f"first difference at frame 60: track {number}: box (ltrb) recorded [" in said
    assert f"numpy {np.__version__} instead of 1.0.0" in said
    assert platform.machine() not in said
    assert main(["replay", str(tmp_path)]) == OK


@pytest.mark.parametrize("name", ["ids", "detection", "confirmed"])
def test_every_kind_of_difference_is_seen(tmp_path: Path, shared_data: Path, name: str) -> None:
    def change(content, arrays) -> None:
        if content.get("frame") == 20:
            arrays[name][0] = not arrays[name][0] if name == "confirmed" else arrays[name][0] + 50

    record(tmp_path, shared_data, count=30)
    rewrite(tmp_path, change)
    difference = replayed(tmp_path).result.difference
    assert difference is not None
    assert difference.frame == 20


def test_other_settings_give_what_a_run_with_them_gives(tmp_path: Path, shared_data: Path) -> None:
    # Exact mode embeds everything, so whatever another setting asks for is there.
    recorded, other = tmp_path / "a", tmp_path / "b"
    record(recorded, shared_data, method="deepsort", count=300, appearance=True)
    answers = record(
        other, shared_data, method="deepsort", count=300, appearance=True, max_age=5, max_cosine_distance=0.1
    )
    replay = Replay(Recording(recorded), ["tracker.max_age=5", "tracker.max_cosine_distance=0.1"])
    for answer, (_, tracks) in zip(answers, replay, strict=True):
        assert tracks.ltrb.tobytes() == answer.ltrb.tobytes()
        assert tracks.ids.tolist() == answer.ids.tolist()
    assert replay.result.missing == 0


@pytest.mark.slow
def test_other_settings_hold_across_files(tmp_path: Path, shared_data: Path) -> None:
    settings = {"method": "deepsort", "count": 700, "appearance": True, "nn_budget": 5}
    record(tmp_path / "a", shared_data, limit=1, **settings)
    assert len(list((tmp_path / "a").glob("*.rec"))) > 1
    answers = record(tmp_path / "b", shared_data, max_age=3, **settings)
    frames = [(f, tracks) for f, tracks in Replay(Recording(tmp_path / "a"), ["tracker.max_age=3"])]
    first = frames[0][0].index
    # The first file that is left has tracks in its state that max_age=3 had ended; once these have gone, all is alike.
    for frame, tracks in frames[50:]:
        answer = answers[frame.index - 1]
        assert len(tracks) == len(answer), (first, frame.index)
        assert np.array_equal(tracks.detection, answer.detection)


def test_features_that_were_not_recorded_are_counted_under_other_settings(
    tmp_path: Path, shared_data: Path, capsys
) -> None:
    record(tmp_path, shared_data, count=100, appearance=True)
    replay = replayed(tmp_path, "tracker.selective=false")
    assert replay.result.embedded == replay.result.detections
    recorded = sum(len(frame.asked) for frame in Recording(tmp_path))
    assert replay.result.missing == replay.result.detections - recorded > 0
    assert main(["replay", str(tmp_path), "--set", "tracker.selective=false"]) == OK
    assert f"{replay.result.missing} of {replay.result.embedded} features" in capsys.readouterr().err


def test_features_that_are_missing_without_other_settings_are_an_error(
    tmp_path: Path, shared_data: Path, capsys
) -> None:
    def change(content, arrays) -> None:
        if content["kind"] == "frame":
            arrays["asked"], arrays["features"] = arrays["asked"][:0], arrays["features"][:0]

    record(tmp_path, shared_data, count=50, appearance=True)
    rewrite(tmp_path, change)
    assert main(["replay", str(tmp_path)]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "the tracker requests the feature of the box" in line
    assert main(["replay", str(tmp_path), "--check"]) == NOT_THERE
    assert "first difference at frame" in capsys.readouterr().out


@pytest.mark.parametrize(("recorded", "other"), [("edge", "deepsort"), ("deepsort", "edge")])
def test_the_other_method_begins_without_tracks(
    tmp_path: Path, shared_data: Path, recorded: str, other: str, caplog
) -> None:
    record(tmp_path, shared_data, method=recorded, count=100, appearance=True, lead=50)
    replay = replayed(tmp_path, f"tracker.method={other}")
    assert "begins with" in caplog.text
    assert "tracks of another method" in caplog.text
    assert replay.result.tracks > 3


def test_an_end_that_is_not_whole_is_left_out_with_a_warning(tmp_path: Path, shared_data: Path, capsys) -> None:
    record(tmp_path, shared_data, count=20)
    (path,) = tmp_path.glob("*.rec")
    path.write_bytes(path.read_bytes()[:-300])
    assert main(["replay", str(tmp_path), "--check"]) == OK
    said = capsys.readouterr()
    assert "the last record is incomplete" in said.err
    assert "reproduced bit for bit" in said.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--check", "--set", "tracker.max_age=3"], "--check with --set"),
        (["--json"], "--json needs --explain"),
        (["--frames", "1:2"], "--frames needs --explain"),
        (["--set", "detector.confidence=0.5"], "set keys of tracker only"),
        (["--set", "tracker.max_ege=3"], "did you mean tracker.max_age?"),
        (["--set", "tracker.max_age=-3"], "tracker.max_age: -3 is not valid; expected a whole number"),
        (["--run", "7"], "has no run 7; it has run 1"),
        (["--explain", "12345"], "the recording has no such track"),
        (["--mot", "{folder}"], "is a folder; give a file in it"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    tmp_path: Path, shared_data: Path, capsys, arguments: list[str], complaint: str
) -> None:
    record(tmp_path, shared_data, count=10)
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    assert main(["replay", str(tmp_path), *arguments]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edge-tracker: error: ")
    assert complaint in line


@pytest.mark.parametrize("text", ["a:b", ":", "5:3", "1:2:3"])
def test_frames_that_are_no_frames_are_refused(tmp_path: Path, capsys, text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replay", str(tmp_path), "--explain", "1", "--frames", text])
    assert caught.value.code == BAD_INPUT
    assert "expected frames such as 100:120" in capsys.readouterr().err


def test_a_configuration_of_another_version_is_told(tmp_path: Path, shared_data: Path, capsys) -> None:
    def change(content, arrays) -> None:
        if content["kind"] == "header":
            content["config"]["tracker"]["patience"] = 9

    record(tmp_path, shared_data, count=10)
    rewrite(tmp_path, change)
    assert main(["replay", str(tmp_path)]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "recorded by another version of edge-tracker" in line
    assert "tracker.patience: unknown key" in line


def test_explaining_in_text_and_in_json(tmp_path: Path, shared_data: Path, capsys) -> None:
    record(tmp_path, shared_data, count=60)
    assert main(["replay", str(tmp_path), "--explain", "2", "--frames", "10:12", "--check"]) == OK
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("frame ")] == [
        "frame 10", "frame 11", "frame 12",
    ]  # fmt: skip
    assert "reproduced bit for bit: 60 frames" in said
    assert main(["replay", str(tmp_path), "--explain", "2", "--frames", "11", "--json"]) == OK
    (line,) = capsys.readouterr().out.splitlines()
    one = json.loads(line)
    assert (one["frame"], one["track"]) == (11, 2)
    assert one["candidates"][0]["numbers"]["iou"] > 0


def test_it_needs_no_model_no_video_and_no_runtime(tmp_path: Path, shared_data: Path) -> None:
    record(tmp_path, shared_data, count=30, appearance=True)
    script = (
        "import sys\nfor name in ('onnxruntime', 'tensorrt', 'torch'): sys.modules[name] = None\n"
        f"from edge_tracker.cli import main\nsys.exit(main(['replay', {str(tmp_path)!r}, '--check']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "EDGE_TRACKER_ENGINES": str(tmp_path / "none")},
    )  # fmt: skip
    assert run.returncode == OK, run.stderr
    assert "reproduced bit for bit: 30 frames" in run.stdout


@pytest.mark.slow
def test_records_that_are_whole_but_wrong_never_end_in_a_traceback(tmp_path: Path, shared_data: Path, capsys) -> None:
    record(tmp_path, shared_data, count=6, appearance=True)
    (path,) = tmp_path.glob("*.rec")
    records = list(read_records(path))
    header, frame = records[0], records[3]
    codes = []
    for place, (content, arrays) in ((0, header), (3, frame)):
        for part, name in [(0, name) for name in content] + [(1, name) for name in arrays]:
            for wrong in (None, "x", [1], {}, -1, 1e300) if part == 0 else (np.zeros(1), np.full((2, 3), 9), None):
                changed = (dict(content), dict(arrays))
                if part == 1 and wrong is None:
                    del changed[1][name]
                else:
                    changed[part][name] = wrong
                again = [*records[:place], changed, *records[place + 1 :]]
                path.write_bytes(FIRST_LINE + b"".join(packed(*one) for one in again))
                for extra in ([], ["--set", "tracker.selective=false"]):
                    code = main(
                        ["replay", str(tmp_path), "--check"] if not extra else ["replay", str(tmp_path), *extra]
                    )
                    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
                    assert code in (OK, NOT_THERE, BAD_INPUT)
                    assert len(errors) == (code == BAD_INPUT)
                    codes.append(code)
    assert codes.count(BAD_INPUT) > len(codes) / 3
