"""The arrays method: time steps, classes, motion alone, and what comes out."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort, TrackArrays
from edge_tracker.errors import InputError
from tests.graphs import mean_colour
from tests.tracking.scenes import crowd
from tests.tracking.states import assert_same_state

BOX = np.array([[10.0, 20.0, 30.0, 60.0]])


def moved(right: float, down: float = 0) -> np.ndarray:
    return BOX + np.array([right, down, 0, 0])


def far_apart(*steps: float) -> np.ndarray:
    return np.concatenate([moved(1000.0 * k, step) for k, step in enumerate(steps)])


def test_arrays_in_arrays_out() -> None:
    tracker = EdgeDeepSort(embedder=None)
    boxes = far_apart(0, 0, 0)
    for _ in range(3):
        tracks = tracker.update(boxes, np.array([0.5, 0.6, 0.7]), np.array([2, 0, 7]), np.eye(3, dtype=np.float32))
    assert isinstance(tracks, TrackArrays)
    assert len(tracks) == 3
    expected = {
        "ids": np.array([1, 2, 3]),
        "class_ids": np.array([2, 0, 7]),
        "confidence": np.array([0.5, 0.6, 0.7]),
        "time_since_update": np.zeros(3),
        "detection": np.array([0, 1, 2]),
        "confirmed": np.ones(3, dtype=bool),
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(getattr(tracks, name), array)
        assert getattr(tracks, name).dtype == array.dtype
    np.testing.assert_allclose(tracks.ltrb, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
    assert tracks.ltrb.dtype == np.float64

    tracks = tracker.update(boxes[[2, 1]], np.array([0.9, 0.8]), np.array([7, 0]), np.eye(3, dtype=np.float32)[[2, 1]])
    assert tracks.detection.tolist() == [-1, 1, 0]
    assert tracks.time_since_update.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(tracks.confidence, [np.nan, 0.8, 0.9])
    assert tracks.class_ids.tolist() == [2, 0, 7]


def test_what_is_left_out_is_unknown() -> None:
    tracker = EdgeDeepSort(embedder=None)
    tracks = tracker.update(BOX)
    assert tracks.class_ids.tolist() == [-1]
    assert np.isnan(tracks.confidence).all()
    assert len(tracker.update(np.empty((0, 4)))) == 0
    assert tracker.update_tracks([], embeds=[]) == []


def test_some_of_the_tracks() -> None:
    tracker = EdgeDeepSort(embedder=None, n_init=2)
    tracker.update(far_apart(0, 0))
    tracks = tracker.update(far_apart(0, 0, 0))
    assert tracks[tracks.confirmed].ids.tolist() == [1, 2]
    assert tracks[::-1].detection.tolist() == [2, 1, 0]
    assert tracks[[1]].ltrb.shape == (1, 4)


def test_what_comes_out_is_the_callers() -> None:
    tracker = EdgeDeepSort(embedder=None)
    first = tracker.update(BOX)
    kept = first.ltrb.copy()
    before = tracker.state_dict()
    tracker.update(moved(5))
    np.testing.assert_array_equal(first.ltrb, kept)
    tracker.load_state_dict(before)
    first.ltrb[:] = -1
    first.ids[:] = 0
    assert_same_state(tracker.state_dict(), before)


def test_any_kind_of_numbers_goes_in() -> None:
    boxes = far_apart(0, 3)
    features = np.array([[1, 2, 3], [3, 2, 1]])
    expected = None
    for convert in (
        lambda array: array,
        lambda array: array.tolist(),
        lambda array: array.astype(np.float32),
        lambda array: array.astype(np.int32),
        lambda array: np.asfortranarray(array),
        lambda array: np.repeat(array, 2, axis=0)[::2],
        lambda array: np.broadcast_to(array, (2, *array.shape))[0],
    ):
        tracker = EdgeDeepSort(embedder=None)
        for _ in range(4):
            tracker.update(convert(boxes), [1, 1], np.array([2, 5], dtype=np.uint8), convert(features))
        expected = expected or tracker.state_dict()
        assert_same_state(tracker.state_dict(), expected)


def test_the_callers_arrays_are_not_modified() -> None:
    tracker = EdgeDeepSort(embedder=None, nms_max_overlap=0.5)
    for ltwh, features, _ in crowd(20, 20, 8, width=300, height=300, unit=False):
        arrays = [ltwh, np.linspace(0, 1, len(ltwh)), np.arange(len(ltwh)), features]
        copies = [array.copy() for array in arrays]
        tracker.update(*arrays)
        for array, copy in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("read_only", [False, True])
def test_read_only_arrays_go_in(read_only: bool) -> None:
    arrays = [BOX.copy(), np.array([0.5]), np.array([1]), np.ones((1, 3), dtype=np.float32)]
    for array in arrays:
        array.flags.writeable = not read_only
    assert len(EdgeDeepSort(embedder=None).update(*arrays)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ltwh": np.zeros((2, 5))}, "ltwh"),
        ({"ltwh": np.zeros(4)}, "ltwh"),
        ({"ltwh": [["a", "b", "c", "d"]]}, "ltwh"),
        ({"ltwh": BOX, "confidence": np.ones(2)}, "confidence"),
        ({"ltwh": BOX, "confidence": np.ones((1, 1))}, "confidence"),
        ({"ltwh": BOX, "class_ids": np.ones(3)}, "class_ids"),
        ({"ltwh": BOX, "class_ids": [-2]}, "detection 0.*class"),
        ({"ltwh": BOX, "class_ids": ["cat"]}, "class_ids"),
        ({"ltwh": BOX, "features": np.ones((2, 3))}, "2 for 1"),
        ({"ltwh": BOX, "features": np.ones(3)}, "3 for 1"),
        ({"ltwh": BOX, "features": np.ones((1, 3, 1))}, "shape"),
        ({"ltwh": BOX, "features": np.ones((1, 0))}, "shape"),
        ({"ltwh": BOX, "features": np.ones((1, 5))}, "5 values.*3"),
        ({"ltwh": BOX * np.nan}, "detection 0.*box"),
        ({"ltwh": BOX, "confidence": [np.nan]}, "detection 0.*confidence"),
        ({"ltwh": far_apart(0, 0), "features": [[1, 2, 3], [1, np.inf, 3]]}, "detection 1.*feature"),
        ({"ltwh": BOX, "dt": 0}, "dt=0"),
        ({"ltwh": BOX, "dt": -1.0}, "dt=-1"),
        ({"ltwh": BOX, "dt": np.nan}, "dt=nan"),
        ({"ltwh": BOX, "dt": np.inf}, "dt=inf"),
        ({"ltwh": BOX, "dt": "1"}, "dt='1'"),
        ({"ltwh": BOX, "dt": None}, "dt=None"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(arguments: dict, words: str) -> None:
    tracker = EdgeDeepSort(embedder=None)
    for _ in range(4):
        tracker.update(BOX, features=[[1.0, 2, 3]])
    before = tracker.state_dict()
    with pytest.raises(InputError, match=words):
        tracker.update(**arguments)
    assert_same_state(tracker.state_dict(), before)


# --- motion alone -----------------------------------------------------------------------------------------------------


def test_without_features_boxes_that_overlap_are_matched() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=5)
    ids = None
    for frame in range(30):
        boxes = BOX + np.outer([0, 1, 2], [200.0, 0, 0, 0]) + [3.0 * frame, 0, 0, 0]
        tracks = tracker.update(boxes[frame % 3 :] if frame > 4 else boxes)
        ids = tracks.ids.tolist() if ids is None else ids
        assert tracks.ids.tolist() == ids  # also through two frames without a detection: age does not matter here
    assert tracks.time_since_update.tolist() == [2, 1, 0]


def test_motion_and_appearance_may_take_turns() -> None:
    tracker = EdgeDeepSort(embedder=None)
    for frame in range(12):
        tracks = tracker.update(moved(2.0 * frame), features=None if frame % 2 else [[1.0, 2.0]])
        assert tracks.ids.tolist() == [1]
    assert tracker.state_dict()["features"].tolist() == [6]


def test_with_an_embedder_features_come_from_the_frame(tmp_path) -> None:
    path = mean_colour(tmp_path / "mean.onnx", layout="NHWC", dtype="uint8")
    tracker = EdgeDeepSort(embedder_wts=path, embedder_gpu=False)
    frame = np.zeros((100, 100, 3), dtype=np.uint8)
    frame[20:80, 10:40] = (200, 100, 50)
    with pytest.raises(InputError, match="frame"):
        tracker.update(BOX)
    for _ in range(3):
        tracks = tracker.update(BOX, frame=frame)
    assert tracks.ids.tolist() == [1]
    np.testing.assert_allclose(tracker.tracker.tracks[0].get_feature(), [200, 100, 50], rtol=1e-5)
    tracker.update(BOX, features=[[1.0, 2.0, 3.0]])  # given ones come first
    np.testing.assert_allclose(tracker.tracker.tracks[0].get_feature(), [1, 2, 3], rtol=1e-5)


# --- time steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_motion", [False, True])
def test_a_step_of_one_frame_is_the_same_to_the_bit(by_motion: bool) -> None:
    plain, stepped = (EdgeDeepSort(embedder=None, max_age=5) for _ in range(2))
    for ltwh, features, _ in crowd(15, 50, 8, seed=1, width=600, height=400, seen=0.8):
        given = {} if by_motion else {"features": features}
        plain.update(ltwh, **given)
        stepped.update(ltwh, dt=1.0, **given)
        assert_same_state(stepped.state_dict(), plain.state_dict())


def test_a_step_of_three_frames_is_three_frames_without_detections() -> None:
    scene = list(crowd(12, 30, 8, seed=2, width=800, height=600))
    one_by_one, at_once = (EdgeDeepSort(embedder=None, max_age=40) for _ in range(2))
    for tracker in (one_by_one, at_once):
        for ltwh, features, _ in scene:
            tracker.update(ltwh, features=features)
    for _ in range(3):
        expected = one_by_one.update(np.empty((0, 4)))
    found = at_once.update(np.empty((0, 4)), dt=3)
    np.testing.assert_array_equal(found.ltrb, expected.ltrb)
    assert_same_state(at_once.state_dict(), one_by_one.state_dict())


def test_a_skipped_object_is_found_where_it_has_gone_to() -> None:
    """At twice the pace per frame, and half the frames, with dt=2 nothing is lost; without, it is."""
    kept, lost = (EdgeDeepSort(embedder=None) for _ in range(2))
    for frame in range(6):
        for tracker in (kept, lost):
            tracker.update(moved(10.0 * frame))
    for frame in range(10, 40, 5):
        assert kept.update(moved(10.0 * frame), dt=5).ids.tolist() == [1]
        lost.update(moved(10.0 * frame))
    assert len(lost.update(BOX)) > 1


def test_a_fraction_of_a_frame() -> None:
    tracker = EdgeDeepSort(embedder=None)
    for frame in range(8):
        tracker.update(moved(8.0 * frame))
    (track,) = tracker.tracker.tracks
    before = track.mean
    tracks = tracker.update(np.empty((0, 4)), dt=0.25)
    np.testing.assert_allclose(track.mean[:4], before[:4] + before[4:] / 4, rtol=1e-12)
    assert (track.age, track.time_since_update) == (8.25, 0.25)
    assert tracks.time_since_update.tolist() == [0.25]
    for _ in range(3):
        tracker.update(np.empty((0, 4)), dt=0.25)
    assert (track.age, track.time_since_update) == (9, 1)
    assert isinstance(track.age, int)
    np.testing.assert_allclose(track.mean[:4], before[:4] + before[4:], rtol=1e-12)


def test_age_is_counted_in_frames_not_calls() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=10)
    for _ in range(4):
        tracker.update(BOX)
    assert len(tracker.update(np.empty((0, 4)), dt=5.5)) == 1
    assert len(tracker.update(np.empty((0, 4)), dt=4.5)) == 1
    assert len(tracker.update(np.empty((0, 4)), dt=0.5)) == 0


@pytest.mark.parametrize("dt", [12.0, 1e6, 1e300])
@pytest.mark.parametrize("by_motion", [False, True])
def test_a_step_longer_than_a_life_ends_all_tracks(dt: float, by_motion: bool) -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=10)
    given = {} if by_motion else {"features": [[1.0, 2.0]]}
    for _ in range(4):
        tracker.update(BOX, **given)
    assert tracker.update(BOX, dt=dt, **given).ids.tolist() == [2]


def test_update_tracks_takes_time_steps_too() -> None:
    objects, arrays = (EdgeDeepSort(embedder=None) for _ in range(2))
    for frame in (0, 1, 2, 4, 7, 7.5):
        dt = 1 if frame < 3 else {4: 2, 7: 3, 7.5: 0.5}[frame]
        box = moved(5.0 * frame)
        objects.update_tracks([(box[0], 0.5)], embeds=[[1.0, 2.0]], dt=dt)
        arrays.update(box, [0.5], features=[[1.0, 2.0]], dt=dt)
        assert_same_state(objects.state_dict(), arrays.state_dict())
    (track,) = objects.tracker.tracks
    assert track.age == 8.5
    with pytest.raises(InputError, match="dt"):
        objects.update_tracks([], embeds=[], dt=-1)


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [None, [[1.0, 2.0]]])
def test_classes_are_kept_apart_if_wanted(features) -> None:
    for class_aware in (False, True):
        tracker = EdgeDeepSort(embedder=None, class_aware=class_aware)
        for _ in range(4):
            tracker.update(BOX, class_ids=[0], features=features)
        tracks = tracker.update(BOX, class_ids=[2], features=features)
        if class_aware:  # a car does not turn a person into a car
            assert tracks.ids.tolist() == [1, 2]
            assert tracks.class_ids.tolist() == [0, 2]
            assert tracks.detection.tolist() == [-1, 0]
        else:
            assert tracks.ids.tolist() == [1]
            assert tracks.class_ids.tolist() == [2]


def test_classes_by_name_are_kept_apart_too() -> None:
    tracker = EdgeDeepSort(embedder=None, class_aware=True)
    box = BOX[0].tolist()
    for _ in range(4):
        person, car = tracker.update_tracks(
            [(box, 0.9, "person"), ([11, 20, 30, 60], 0.9, "car")], embeds=[[1.0, 2.0]] * 2
        )
    for order in (1, -1):
        tracks = tracker.update_tracks(
            [(box, 0.9, "car"), (box, 0.9, "person"), (box, 0.9)][::order], embeds=[[1.0, 2.0]] * 3
        )
        assert tracks[:2] == [person, car]
        assert [track.get_det_class() for track in tracks] == ["person", "car", None]


# --- supervision ------------------------------------------------------------------------------------------------------


def three_tracks() -> TrackArrays:
    tracker = EdgeDeepSort(embedder=None, n_init=1)
    for _ in range(3):
        tracker.update(far_apart(0, 0, 0), [0.5, 0.6, 0.7], [4, 5, 6])
    return tracker.update(far_apart(0, 0), [0.8, 0.9], [4, 5])


def test_to_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    tracks = three_tracks()
    detections = tracks.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == 3
    np.testing.assert_allclose(detections.xyxy, tracks.ltrb, rtol=1e-6)
    assert detections.tracker_id.tolist() == [1, 2, 3]
    assert len(detections[detections.confidence > 0.85]) == 1


def test_to_supervision_gives_what_its_constructor_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("supervision")
    stand_in.Detections = lambda **arguments: arguments
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    tracks = three_tracks()
    arguments = tracks.to_supervision()
    np.testing.assert_allclose(arguments["xyxy"], tracks.ltrb, rtol=1e-6)
    np.testing.assert_allclose(arguments["confidence"], [0.8, 0.9, 0])
    assert arguments["class_id"].tolist() == [4, 5, 6]
    assert arguments["tracker_id"].tolist() == [1, 2, 3]
    assert arguments["data"]["detection"].tolist() == [0, 1, -1]
    assert arguments["data"]["time_since_update"].tolist() == [0, 0, 1]
