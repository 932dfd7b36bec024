"""Recordings: what is written, how much of it, and what stays of it when the writer is stopped."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.app.replay.recordfile import FIRST_LINE, packed, read_records
from edge_tracker.app.replay.recording import MIB, Recorder, RecordingEmbedder, without_secrets
from edge_tracker.app.replay.replaying import Recording, Replay
from edge_tracker.errors import OutputError, SourceError
from tests.app.recorded import SmallEmbedder, configuration, frames_of, record, track
from tests.conftest import ROOT


def replayed(path: Path, run: int | None = None) -> Replay:
    replay = Replay(Recording(path, run))
    for _ in replay:
        pass
    return replay


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.rec"))


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in segments(folder))


def empty_run(folder: Path, frames: int = 3, **arguments) -> None:
    """A run without detections."""
    tracker = EdgeDeepSort(embedder=None)
    with Recorder(folder, tracker, configuration("deepsort").model_dump(), **arguments) as recorder:
        for index in range(1, frames + 1):
            nothing = np.empty((0, 4))
            tracks = tracker.update(nothing)
            recorder.write(index, 0.0, 1.0, None, nothing, np.empty(0), np.empty(0, np.int64), (), tracks)


def test_arrays_and_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrays = {
        "f8": np.concatenate([rng.normal(size=50), [np.nan, -0.0, np.inf, 5e-324]]),
        "f4": rng.normal(size=(7, 3)).astype(np.float32),
        "i8": np.array([[2**62, -1]]),
        "i1": np.array([1, 2, 3], np.int8),
        "bool": np.array([True, False]),
        "text": np.array("größer\n\x00x"),
        "scalar": np.float64(0.1) + np.zeros(()),
        "empty": np.empty((0, 4)),
        "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
        "big-endian": np.arange(3, dtype=">f8"),
    }
    content = {"time": 0.1 + 0.2, "name": "größer\n"}
    path = tmp_path / "a.rec"
    path.write_bytes(FIRST_LINE + packed(content, arrays) + packed({}, {}))
    (read, back), _ = read_records(path)
    assert read == content
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].shape == array.shape
        assert back[name].dtype.isnative
        assert back[name].flags.writeable
        np.testing.assert_array_equal(back[name], array)
        assert np.array_equal(np.signbit(back["f8"]), np.signbit(arrays["f8"]))


def test_objects_are_not_recorded() -> None:
    with pytest.raises(TypeError, match="object"):
        packed({}, {"a": np.array([object()])})


def test_a_written_type_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    for kind in ("|O", "|V8", "nonsense"):
        record_ = packed({}, {"a": np.zeros(1)}).replace(b"<f8", kind.encode())
        payload = record_[12:]
        import struct
        import zlib

        path.write_bytes(FIRST_LINE + struct.pack("<4sII", b"REC\n", len(payload), zlib.crc32(payload)) + payload)
        with pytest.raises(SourceError, match=r"a\.rec: record 1 is not one of a recording"):
            list(read_records(path))


def test_the_header_says_what_ran_and_holds_no_secret(tmp_path: Path) -> None:
    config = configuration("edge").model_dump()
    config["source"]["uri"] = "rtsp://admin:hunter2@10.0.0.5/stream?token=hunter2"
    config["broker"] = {"password": "hunter2", "username": "hunter2", "port": 1883, "url": "mqtt://u:hunter2@host"}
    tracker = EdgeDeepSort(embedder=None, method="edge", frame_rate=12.5)
    Recorder(tmp_path, tracker, config, camera="yard", frame_rate=12.5).close()
    (path,) = segments(tmp_path)
    assert b"hunter2" not in path.read_bytes()
    assert b"admin" not in path.read_bytes()
    header = Recording(path).header
    assert (header["camera"], header["frame_rate"], header["method"], header["dimension"]) == (
        "yard", 12.5, "edge", None,
    )  # fmt: skip
    assert header["config"]["source"]["uri"] == "rtsp://***@10.0.0.5/stream?token=***"
    assert header["config"]["broker"]["port"] == 1883
    assert header["config"]["tracker"]["method"] == "edge"
    assert header["versions"]["numpy"] == np.__version__


def test_secrets_by_name_and_by_form() -> None:
    given = {"api_key": 7, "auth": ["a", {"x": "b"}], "keys": ["http://a:b@c/"], "n": None, "on": True, "f": 0.5}
    assert without_secrets(given) == {
        "api_key": "***", "auth": ["***", {"x": "b"}], "keys": ["http://***@c/"], "n": None, "on": True, "f": 0.5,
    }  # fmt: skip


def test_a_pipeline_text_is_not_written() -> None:
    given = {"source": {"uri": "gst:rtspsrc location=rtsp://h/ user-id=u user-pw=hunter2 ! appsink", "fps": 5.0}}
    assert without_secrets(given) == {"source": {"uri": "gst:***", "fps": 5.0}}


def test_only_what_was_embedded_is_recorded(tmp_path: Path, shared_data: Path) -> None:
    record(tmp_path, shared_data, count=100, appearance=True)
    frames = list(Recording(tmp_path))
    found = sum(len(frame.ltwh) for frame in frames)
    features = sum(len(frame.features) for frame in frames)
    assert 0 < features < found / 2
    assert all(len(frame.asked) == len(frame.features) for frame in frames)
    assert frames[0].ltwh.dtype == np.float32  # as the detector gives them, not twice as large
    assert frames[0].size == (576, 768)
    assert frames[50].names == ("person",)


def test_features_are_those_of_the_boxes_asked_for(shared_data: Path) -> None:
    _, found, image = next(frames_of(shared_data, "PETS09-S2L1", 1, True))
    boxes = np.concatenate([found.ltwh, found.ltwh[:2]]).astype(np.float64)  # two boxes twice
    small = SmallEmbedder()
    tap = RecordingEmbedder(small)  # type: ignore[arg-type]
    wanted = np.array([0, 2, len(boxes) - 2])
    tap.embed(image, boxes[:0])
    answer = tap.embed(image, boxes[wanted])
    places, features = tap.take(boxes)
    assert np.array_equal(boxes[places], boxes[wanted])
    assert len(set(places.tolist())) == 3
    assert np.array_equal(features, answer)
    answer[:] = 0  # the caller's to change
    assert features.any()
    # What was asked for in a frame that was then refused is not the next one's.
    tap.embed(image, boxes[:1] + 1)
    places, features = tap.take(boxes)
    assert places.shape == (0,)
    assert features.shape == (0, small.dimension)


def test_the_tracker_gets_its_embedder_back(tmp_path: Path) -> None:
    small = SmallEmbedder()
    tracker = EdgeDeepSort(embedder=small, method="edge")  # type: ignore[arg-type]
    with Recorder(tmp_path, tracker, {}):
        assert tracker.embedder is not small
    assert tracker.embedder is small


def test_runs_follow_each_other_in_a_folder(tmp_path: Path) -> None:
    for frames in (3, 5):
        empty_run(tmp_path, frames)
    assert [path.name for path in segments(tmp_path)] == ["000001-000001.rec", "000002-000001.rec"]
    assert replayed(tmp_path).result.frames == 5
    assert replayed(tmp_path, 1).result.frames == 3
    assert replayed(segments(tmp_path)[0]).result.frames == 3


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    first = Recorder(tmp_path, EdgeDeepSort(embedder=None), {})
    with pytest.raises(OutputError, match="another run records into this folder"):
        Recorder(tmp_path, EdgeDeepSort(embedder=None), {})
    first.close()
    first.close()
    Recorder(tmp_path, EdgeDeepSort(embedder=None), {}).close()


@pytest.mark.parametrize("method", ["edge", "deepsort"])
def test_a_limit_keeps_the_end_of_a_run(tmp_path: Path, shared_data: Path, method: str) -> None:
    answers = record(tmp_path, shared_data, method=method, count=700, appearance=True, limit=1)
    paths = segments(tmp_path)
    assert MIB // 2 < taken(tmp_path) <= MIB
    if method == "deepsort":
        assert paths[0].name != "000001-000001.rec"
    replay = Replay(Recording(tmp_path))
    frames = [(frame, tracks) for frame, tracks in replay]
    assert replay.result.difference is None
    last, tracks = frames[-1]
    assert last.index == 700
    assert np.array_equal(tracks.ltrb, answers[-1].ltrb)
    if method == "deepsort":
        assert 50 < len(frames) < 700
    # Each file by itself, from the state in its header.
    counts = [replayed(path).result.frames for path in paths]
    assert sum(counts) == len(frames)
    assert all(replayed(path).result.difference is None for path in paths)


def test_a_limit_counts_earlier_runs_and_removes_them_first(tmp_path: Path, shared_data: Path) -> None:
    for _ in range(3):
        record(tmp_path, shared_data, method="deepsort", count=300, appearance=True, limit=1)
        assert taken(tmp_path) <= MIB
    assert segments(tmp_path)[-1].name.startswith("000003-")
    assert not list(tmp_path.glob("000001-*"))
    assert replayed(tmp_path).result.difference is None


def test_a_state_beyond_the_limit_is_told_and_recording_goes_on(tmp_path: Path, caplog) -> None:
    tracker = EdgeDeepSort(embedder=None, n_init=1, nn_budget=None)
    boxes = np.array([[100.0 * k, 0, 50, 100] for k in range(20)])
    features = np.random.default_rng(1).normal(size=(20, 512)).astype(np.float32)
    for _ in range(30):
        tracker.update(boxes, features=features)
    with Recorder(tmp_path, tracker, configuration("deepsort").model_dump(), limit=1) as recorder:
        nothing = np.empty((0, 4))
        for index in range(5):
            tracks = tracker.update(nothing)
            recorder.write(index, 0.0, 1.0, None, nothing, np.empty(0), np.empty(0, np.int64), (), tracks)
    assert "limit of 1 MiB cannot be kept" in caplog.text
    assert caplog.text.count("cannot be kept") == 1
    assert len(segments(tmp_path)) == 1


def test_what_else_changes_the_tracks_begins_a_new_file(tmp_path: Path, shared_data: Path) -> None:
    tracker = EdgeDeepSort(embedder=None, method="edge", frame_rate=7)
    config = configuration("edge").model_dump()
    with Recorder(tmp_path, tracker, config, frame_rate=7) as recorder:
        for index, found, _ in frames_of(shared_data, "PETS09-S2L1", 60, False):
            if index == 30:
                tracker.delete_all_tracks()
                recorder.new_segment()
            tracks = track(tracker, found, None)
            recorder.write(index, 0.0, 1.0, None, found.ltwh, found.confidence, found.class_id, found.names, tracks)
    replay = replayed(tmp_path)
    assert (replay.result.frames, replay.result.difference) == (60, None)


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tests.app.recorded import record
print("ready", flush=True)
while True:
    record(Path(sys.argv[1]), Path(sys.argv[2]), count=700, appearance=True)
"""


def test_a_killed_run_can_be_replayed(tmp_path: Path, shared_data: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), str(shared_data)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        while not (taken(tmp_path) > 100_000):
            assert process.poll() is None
            signal.sigtimedwait([], 0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    replay = replayed(tmp_path, 1)
    assert replay.result.difference is None
    assert replay.result.frames > 20
    empty_run(tmp_path)  # the lock has died with it
    assert len(segments(tmp_path)) >= 2


@pytest.mark.slow
def test_wherever_the_end_is_cut_off_the_rest_is_read(tmp_path: Path, shared_data: Path, caplog) -> None:
    record(tmp_path, shared_data, count=12, method="deepsort")
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    # The places where records begin, found by the framing alone.
    starts, at = [], len(FIRST_LINE)
    while at < len(whole):
        starts.append(at)
        at += 12 + int.from_bytes(whole[at + 4 : at + 8], "little")
    frames = starts[1:-1]
    assert len(frames) == 12
    for end in range(frames[-2], len(whole)):
        path.write_bytes(whole[:end])
        caplog.clear()
        expected = sum(start <= end for start in [*frames[1:], starts[-1]])
        result = replayed(tmp_path).result
        assert (result.frames, result.difference) == (expected, None)
        assert ("record is incomplete" in caplog.text) == (end not in starts)


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"REC\n" + b"\xff" * 100, os.urandom(3000)])
def test_an_end_of_rubbish_is_left_out(tmp_path: Path, tail: bytes, caplog) -> None:
    empty_run(tmp_path)
    with segments(tmp_path)[0].open("ab") as file:
        file.write(tail)
    assert replayed(tmp_path).result.frames == 3
    assert "record is incomplete" in caplog.text


def test_a_last_file_that_was_cut_off_at_once_is_left_out(tmp_path: Path, caplog) -> None:
    empty_run(tmp_path)
    for content in (b"", FIRST_LINE[:5], FIRST_LINE, b"\0" * 100):
        (tmp_path / "000001-000002.rec").write_bytes(content)
        assert replayed(tmp_path).result.frames == 3


def test_damage_in_the_middle_is_an_error_that_names_the_file(tmp_path: Path, shared_data: Path) -> None:
    record(tmp_path, shared_data, count=30)
    (path,) = segments(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(SourceError, match=r"000001-000001\.rec: record \d+, at byte \d+, is damaged.*copy it again"):
        replayed(tmp_path)


def test_a_missing_file_in_the_middle_is_told(tmp_path: Path, shared_data: Path, caplog) -> None:
    record(tmp_path, shared_data, method="deepsort", count=700, appearance=True, limit=1, nn_budget=5)
    paths = segments(tmp_path)
    assert len(paths) >= 3
    paths[1].unlink()
    replay = replayed(tmp_path)
    assert "frames before it are missing" in caplog.text
    assert replay.result.difference is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"frame,id\n1,2\n" * 9, "not a recording; give what"),
        (b"\x89PNG\r\n\x1a\n" + b"\1" * 80, "not a recording; give what"),
        (b"edge-tracker-recording 2\n" + b"\1" * 80, "a recording of format 2, but this version reads 1; replay it"),
        (FIRST_LINE + packed({"kind": "frame"}, {}), "does not begin with the header"),
        (FIRST_LINE, "has no frames in it"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "000001-000001.rec"
    path.write_bytes(content)
    for given in (path, tmp_path):
        with pytest.raises(SourceError, match=r"000001-000001\.rec: .*" + complaint) as caught:
            replayed(given)
        assert "\n" not in str(caught.value)


def test_folders_that_are_no_recording_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        Recording(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"not a recording: it has no \.rec files"):
        Recording(tmp_path)
    empty_run(tmp_path)
    with pytest.raises(SourceError, match="has no run 4; it has run 1"):
        Recording(tmp_path, 4)
    with pytest.raises(SourceError, match="omit --run"):
        Recording(segments(tmp_path)[0], 1)


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be recorded to"):
        Recorder(tmp_path / "file", EdgeDeepSort(embedder=None), {})


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from edge_tracker.errors import OutputError
from tests.app.recorded import record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
try:
    record(Path(sys.argv[1]), Path(sys.argv[2]), count=400, appearance=True)
except OutputError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_whole_records(tmp_path: Path, shared_data: Path, caplog) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(shared_data)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "000001-000001.rec: cannot be written: File too large" in run.stdout
    result = replayed(tmp_path).result
    assert result.frames > 10
    assert result.difference is None
    assert "record is incomplete" not in caplog.text


def test_the_lines_can_be_read_without_this_package(tmp_path: Path) -> None:
    empty_run(tmp_path)
    records = segments(tmp_path)[0].read_bytes().split(b"REC\n")[1:]
    assert [json.loads(record[8:].split(b"\n")[0])["kind"] for record in records] == [
        "header",
        "frame",
        "frame",
        "frame",
        "end",
    ]
