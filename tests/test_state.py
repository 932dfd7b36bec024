"""Saved state: goes on in another process, frame for frame, and comes as plain arrays."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.errors import InputError
from tests.tracking.scenes import crowd, raw
from tests.tracking.states import assert_same_state, values_of

ARGUMENTS = {"embedder": None, "max_age": 6, "nn_budget": 20, "max_cosine_distance": 0.4}
FRAMES = [
    (ltwh, features)
    for ltwh, features, _ in crowd(12, 60, 8, seed=11, width=500, height=400, occlusions=True, unit=False)
]


def tracker_after(frames: int, **arguments) -> EdgeDeepSort:
    tracker = EdgeDeepSort(**{**ARGUMENTS, **arguments})
    for ltwh, features in FRAMES[:frames]:
        tracker.update_tracks(raw(ltwh), embeds=features)
    return tracker


def rest_of(tracker: EdgeDeepSort, first: int) -> list:
    """The tracks of every frame from the given one on."""
    return [values_of(tracker.update_tracks(raw(ltwh), embeds=features)) for ltwh, features in FRAMES[first:]]


# Goes on in a process of its own, and prints the values of the tracks on every further frame.
GO_ON = """
import json, sys
import numpy as np
from edge_tracker import EdgeDeepSort
from tests.test_state import ARGUMENTS, rest_of
tracker = EdgeDeepSort(**ARGUMENTS)
if sys.argv[1] == "savez":
    with np.load(sys.argv[2], allow_pickle=False) as archive:
        tracker.load_state_dict(archive)
else:
    tracker.load_state(sys.argv[2])
print(json.dumps(rest_of(tracker, int(sys.argv[3]))))
"""


@pytest.mark.parametrize("how", ["savez", "save_state"])
def test_another_process_goes_on_with_the_same_tracks(tmp_path: Path, how: str) -> None:
    first = 30
    tracker, path = tracker_after(first), tmp_path / "state.npz"
    if how == "savez":
        np.savez(path, **tracker.state_dict())
    else:
        tracker.save_state(path)
    run = subprocess.run(
        [sys.executable, "-c", GO_ON, how, str(path), str(first)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    there = [[tuple(track) for track in frame] for frame in json.loads(run.stdout)]
    assert there == rest_of(tracker, first)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_state_is_plain_arrays(tmp_path: Path, compressed: bool) -> None:
    state = tracker_after(20).state_dict()
    for name, array in state.items():
        assert type(array) is np.ndarray, name
        assert not array.dtype.hasobject, name
    (np.savez_compressed if compressed else np.savez)(tmp_path / "state.npz", **state)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as archive:
        assert_same_state(dict(archive), state)
    meta = json.loads(str(state["meta"]))
    assert (meta["format"], meta["version"]) == ("edge-tracker-state", 1)


def test_the_state_is_a_copy() -> None:
    tracker, other = tracker_after(20), tracker_after(20)
    state = tracker.state_dict()
    for array in state.values():
        if array.dtype.kind in "if":
            array[...] = 1
    assert rest_of(tracker, 20) == rest_of(other, 20)
    state = other.state_dict()
    before = {name: array.copy() for name, array in state.items()}
    resumed = EdgeDeepSort(**ARGUMENTS)
    resumed.load_state_dict(state)
    resumed.update_tracks(raw(FRAMES[0][0]), embeds=FRAMES[0][1])
    assert_same_state(state, before)


def test_the_state_of_a_new_tracker() -> None:
    for make in (lambda: EdgeDeepSort(**ARGUMENTS), lambda: tracker_after(20)):
        tracker = make()
        tracker.load_state_dict(EdgeDeepSort(**ARGUMENTS).state_dict())
        assert tracker.tracker.tracks == []
        assert rest_of(tracker, 0) == rest_of(EdgeDeepSort(**ARGUMENTS), 0)


def test_a_tracker_whose_tracks_have_all_died_goes_on_counting() -> None:
    tracker = tracker_after(20)
    for _ in range(10):
        tracker.update_tracks([], embeds=[])
    resumed = EdgeDeepSort(**ARGUMENTS)
    resumed.load_state_dict(tracker.state_dict())
    # Nothing is held, so features may be of another length from here on.
    (track,) = resumed.update_tracks([([0, 0, 10, 20], 0.9, "cat")], embeds=[[1.0, 2.0]])
    assert int(track.track_id) > 12
    assert track.track_id == tracker.update_tracks([([0, 0, 10, 20], 0.9, "cat")], embeds=[[1.0, 2.0]])[0].track_id


def test_read_only_arrays_can_be_loaded() -> None:
    tracker = tracker_after(20)
    state = tracker.state_dict()
    for array in state.values():
        array.flags.writeable = False
    resumed = EdgeDeepSort(**ARGUMENTS)
    resumed.load_state_dict(state)
    assert rest_of(resumed, 20) == rest_of(tracker, 20)


def test_tracks_handed_out_before_loading_keep_their_values() -> None:
    tracker = tracker_after(20)
    held = tracker.tracker.tracks
    before = values_of(held)
    tracker.load_state_dict(tracker_after(40).state_dict())
    rest_of(tracker, 40)
    assert values_of(held) == before
    assert not set(map(id, held)) & set(map(id, tracker.tracker.tracks))


CLASSES = ["person", "car", "", "größer\n\"'", 0, 7, 2**40, -3, 2**70, 1.5, True, None, np.int64(9), np.int64(-9),
           np.float32(0.5), np.str_("bus")]  # fmt: skip


@pytest.mark.parametrize("by_two", [False, True])
def test_classes_survive(tmp_path: Path, by_two: bool) -> None:
    tracker = EdgeDeepSort(embedder=None, n_init=1)
    classes = CLASSES[::2] if by_two else CLASSES
    detections = [([100 * k, 0, 30, 60], 0.9, det_class) for k, det_class in enumerate(classes)]
    for _ in range(3):
        # Classes of tracks that are gone again take numbers, too.
        tracker.update_tracks([*detections, ([-500, 0, 9, 9], 0.9, "gone")], embeds=np.eye(len(detections) + 1))
        tracks = tracker.update_tracks(detections, embeds=np.eye(len(detections) + 1)[:-1])
    assert [track.get_det_class() for track in tracks] == classes
    for _ in range(40):
        if tracker.tracker.tracks[-1].get_det_class() != "gone":
            break
        tracker.update_tracks(detections, embeds=np.eye(len(detections) + 1)[:-1])
    tracker.save_state(tmp_path / "state.npz")
    resumed = EdgeDeepSort(embedder=None, n_init=1)
    resumed.update_tracks([([0, 0, 9, 9], 0.9, "other")], embeds=[[1.0]])
    resumed.load_state(tmp_path / "state.npz")
    assert [track.get_det_class() for track in resumed.tracker.tracks] == classes
    assert_same_state(resumed.state_dict(), tracker.state_dict())


def test_a_class_that_is_neither_text_nor_number_cannot_be_saved(tmp_path: Path) -> None:
    tracker = EdgeDeepSort(embedder=None)
    tracker.update_tracks([([0, 0, 30, 60], 0.9, ("a", "tuple"))], embeds=[[1.0]])
    with pytest.raises(InputError, match="tuple"):
        tracker.save_state(tmp_path / "state.npz")
    assert list(tmp_path.iterdir()) == []


def test_daily_ids_survive() -> None:
    def day(k: int) -> date:
        return date(2030, 5, 1 + k)

    def see(tracker: EdgeDeepSort, objects: int, today: date) -> list[str]:
        boxes = [([100 * k, 0, 30, 60], 0.9, "cat") for k in range(objects)]
        return [t.track_id for t in tracker.update_tracks(boxes, embeds=np.eye(9)[:objects], today=today)]

    tracker = EdgeDeepSort(embedder=None, today=day(0))
    for k in range(3):
        see(tracker, 2 + k, day(k))
    resumed = EdgeDeepSort(embedder=None)  # the state knows that ids are daily
    resumed.load_state_dict(tracker.state_dict())
    for k in (2, 3, 4):
        ids = see(tracker, 4 + k, day(k))
        assert see(resumed, 4 + k, day(k)) == ids
    assert ids[:2] == ["2030-05-01_1", "2030-05-01_2"]
    assert ids[-1] == "2030-05-05_1"


def change(state: dict, **meta) -> dict:
    return {**state, "meta": np.array(json.dumps({**json.loads(str(state["meta"])), **meta}))}


@pytest.mark.parametrize(
    "broken",
    [
        lambda state: change(state, version=2),
        lambda state: change(state, format="something else"),
        lambda state: change(state, days=[]),
        lambda state: change(state, days=None),
        lambda state: change(state, classes=[]),
        lambda state: change(state, classes=[["unhashable"]]),
        lambda state: change(state, classes=3),
        lambda state: change(state, today="yesterday"),
        lambda state: {**state, "meta": np.array("{")},
        lambda state: {**state, "meta": np.array("[]")},
        lambda state: {**state, "meta": np.zeros(3)},
        lambda state: {name: array for name, array in state.items() if name != "meta"},
        lambda state: {},
    ],
)
def test_what_is_not_such_a_state_is_refused_and_changes_nothing(broken) -> None:
    tracker = tracker_after(20)
    held, before = tracker.tracker.tracks, tracker.state_dict()
    with pytest.raises(InputError, match="state"):
        tracker.load_state_dict(broken(tracker_after(10).state_dict()))
    assert tracker.tracker.tracks == held
    assert_same_state(tracker.state_dict(), before)


def test_files_that_are_not_such_a_state_are_refused_by_name(tmp_path: Path) -> None:
    tracker = tracker_after(20)
    path = tmp_path / "state.npz"
    tracker.save_state(path)
    whole, before = path.read_bytes(), tracker.state_dict()
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{**before, "hits": before["hits"].astype(object)})
    contents = {
        "empty": b"",
        "text": b"not a state at all",
        "cut": whole[: len(whole) // 2],
        "overwritten": whole[:300] + b"\xff" * 200 + whole[500:],
        "pickled": pickled.read_bytes(),
    }
    for name, content in contents.items():
        bad = tmp_path / f"{name}.bin"
        bad.write_bytes(content)
        with pytest.raises(InputError, match=name):
            tracker.load_state(bad)
        assert_same_state(tracker.state_dict(), before)
    one = tmp_path / "one.npy"
    np.save(one, np.zeros(3))
    with pytest.raises(InputError, match="one"):
        tracker.load_state(one)
    with pytest.raises(OSError, match="missing"):
        tracker.load_state(tmp_path / "missing.npz")
    tracker.load_state(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, path = tracker_after(20), tmp_path / "state"
    tracker.save_state(path)  # under exactly this name
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    assert zipfile.is_zipfile(path)
    before = path.read_bytes()

    def full(*_, **__) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="space"):
        tracker.save_state(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == before


def test_masks_and_payloads_are_not_part_of_it() -> None:
    tracker = EdgeDeepSort(embedder=None)
    tracker.update_tracks([([0, 0, 30, 60], 0.9, "cat")], embeds=[[1.0]], others=[{"a": object()}])
    resumed = EdgeDeepSort(embedder=None)
    resumed.load_state_dict(tracker.state_dict())
    (track,) = resumed.tracker.tracks
    assert track.others is None
    assert (track.get_det_conf(), track.get_det_class()) == (0.9, "cat")
    np.testing.assert_array_equal(track.to_ltwh(orig=True, orig_strict=True), [0, 0, 30, 60])


@pytest.mark.parametrize("method", ["deepsort", "edge"])
def test_a_state_saved_before_tracks_were_in_one_table_goes_on(method: str) -> None:
    """Written by version 0.1.0 after 25 of these frames. The rest comes out as if there had been no break."""
    scene = crowd(6, 40, 4, seed=11, width=200, height=150, occlusions=True)
    frames = [(ltwh, np.full(len(ltwh), 0.9), np.arange(len(ltwh)) % 2, features) for ltwh, features, _ in scene]
    loaded, whole = (EdgeDeepSort(method=method, embedder=None) for _ in range(2))
    loaded.load_state(Path(__file__).with_name("saved") / f"state-0.1.0-{method}.npz")
    for frame in frames[:25]:
        whole.update(*frame)
    for frame in frames[25:]:
        tracks, expected = loaded.update(*frame), whole.update(*frame)
        assert tracks.ids.tolist() == expected.ids.tolist()
        assert tracks.detection.tolist() == expected.detection.tolist()
        np.testing.assert_allclose(tracks.ltrb, expected.ltrb, rtol=1e-9)
    state, reference = loaded.state_dict(), whole.state_dict()
    assert state.keys() == reference.keys()
    np.testing.assert_allclose(state["gallery_unit"], reference["gallery_unit"], rtol=1e-5, atol=1e-6)
