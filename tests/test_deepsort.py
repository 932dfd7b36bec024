"""EdgeDeepSort: construction, `update_tracks`, and none of the reference's bugs."""

from __future__ import annotations

import copy
import gc
import inspect
import tracemalloc
from collections import deque
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort, Track
from edge_tracker.embedding.models import CHOICES, model_name
from edge_tracker.errors import ConfigError, EdgeTrackerError, InputError, ModelError
from tests.graphs import mean_colour, relu
from tests.tracking.scenes import crowd, raw
from tests.tracking.states import assert_same_state, values_of

BOX = [20.0, 10.0, 30.0, 60.0]
FEATURE = [1.0, 2.0, 3.0]
NAN, INF = float("nan"), float("inf")


def motion_tracker(**arguments: Any) -> EdgeDeepSort:
    return EdgeDeepSort(embedder=None, **arguments)


@pytest.fixture
def colours(tmp_path: Path) -> Callable[..., EdgeDeepSort]:
    """Makes trackers whose embedder gives a crop's mean colour, BGR."""
    path = mean_colour(tmp_path / "colours.onnx", layout="NHWC", dtype="uint8", size=(8, 8))
    return lambda **arguments: EdgeDeepSort(embedder_wts=path, embedder_gpu=False, **arguments)


# --- construction -----------------------------------------------------------------------------------------------------


def test_the_constructor_takes_what_the_references_takes() -> None:
    reference = pytest.importorskip("deep_sort_realtime.deepsort_tracker").DeepSort
    for method in ("__init__", "update_tracks", "delete_all_tracks"):
        theirs = inspect.signature(getattr(reference, method)).parameters
        ours = list(inspect.signature(getattr(EdgeDeepSort, method)).parameters.values())
        for parameter, expected in zip(ours, theirs.values(), strict=False):
            default = 100 if expected.name == "nn_budget" else expected.default
            assert (parameter.name, parameter.default, parameter.kind) == (expected.name, default, expected.kind)
        # What is ours alone goes by name.
        assert all(parameter.kind == parameter.KEYWORD_ONLY for parameter in ours[len(theirs) :])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_iou_distance", -0.1),
        ("max_iou_distance", "0.7"),
        ("max_age", -1),
        ("max_age", NAN),
        ("n_init", 0),
        ("n_init", 2.5),
        ("nms_max_overlap", -1),
        ("max_cosine_distance", None),
        ("nn_budget", 0),
        ("nn_budget", 1.5),
        ("nn_budget", True),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name}="):
        motion_tracker(**{name: value})


@pytest.mark.parametrize(("budget", "held"), [({}, 100), ({"nn_budget": None}, 130), ({"nn_budget": 7}, 7)])
def test_the_budget_is_a_hundred_unless_told(budget: dict, held: int) -> None:
    tracker = motion_tracker(**budget)
    for _ in range(130):
        tracker.update_tracks([(BOX, 0.9)], embeds=[FEATURE])
    assert tracker.state_dict()["features"].tolist() == [held]


@pytest.mark.parametrize("embedder", CHOICES)
def test_an_embedder_is_the_exported_model_of_that_name(
    embedder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=f"make export MODELS={model_name(embedder)}"):
        EdgeDeepSort(embedder=embedder, embedder_gpu=False)
    (tmp_path / "models").mkdir()
    path = mean_colour(tmp_path / "models" / f"{model_name(embedder)}.onnx", layout="NHWC", dtype="uint8", size=(8, 8))
    tracker = EdgeDeepSort(embedder=embedder, embedder_gpu=False)
    assert tracker.embedder is not None
    assert tracker.embedder.model.path == path
    assert tracker.embedder.dimension == 3


def test_the_model_of_torchreid_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(tmp_path))
    path = mean_colour(tmp_path / "osnet_x0_25.onnx", layout="NHWC", dtype="uint8", size=(8, 8))
    tracker = EdgeDeepSort(embedder="torchreid", embedder_model_name="osnet_x0_25", embedder_gpu=False)
    assert tracker.embedder is not None
    assert tracker.embedder.model.path == path
    with pytest.raises(ConfigError, match="torchreid"):
        EdgeDeepSort(embedder="mobilenet", embedder_model_name="osnet_x0_25")


def test_weights_by_path(colours: Callable, tmp_path: Path) -> None:
    assert colours().embedder.dimension == 3
    for path, words in (
        (tmp_path / "missing.onnx", "no such"),
        (relu(tmp_path / "relu.onnx"), "image input"),
        (tmp_path, "no model named"),
    ):
        with pytest.raises(ModelError, match=words):
            EdgeDeepSort(embedder_wts=path, embedder_gpu=False)


def test_an_embedder_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(tmp_path))
    with pytest.raises(EdgeTrackerError, match="resnet9000"):
        EdgeDeepSort(embedder="resnet9000")


def test_without_embedder_and_features_the_exact_method_refuses(colours: Callable) -> None:
    for detections in ([(BOX, 0.9, "cat")], []):
        with pytest.raises(InputError, match=r"embeds is missing.*embedder=None"):
            motion_tracker().update_tracks(detections, frame=np.zeros((9, 9, 3), dtype=np.uint8))
        with pytest.raises(InputError, match="frame is missing"):
            colours().update_tracks(detections)


# --- update_tracks ----------------------------------------------------------------------------------------------------


def test_the_class_is_optional() -> None:
    tracker = motion_tracker()
    for detections in ([(BOX, 0.9)], [(BOX, 0.9, "cat")], [[BOX, 0.9]], [(tuple(BOX), 1)], [(np.array(BOX), 0.5, 3)]):
        (track,) = tracker.update_tracks(detections, embeds=[FEATURE])
        assert track.get_det_class() == (detections[0][2] if len(detections[0]) == 3 else None)
        assert track.get_det_conf() == detections[0][1]
    tracks = tracker.update_tracks([(BOX, 0.9, "cat"), ([500, 0, 9, 9], 0.9)], embeds=[FEATURE, FEATURE])
    assert [track.get_det_class() for track in tracks] == ["cat", None]


def test_tracks_come_in_the_order_in_which_they_started_and_new_ones_in_order_of_detection() -> None:
    tracker = motion_tracker()
    boxes = [([300.0 - 100 * k, 0, 20, 40], 0.9, k) for k in range(3)]
    tracks = tracker.update_tracks(boxes, embeds=np.eye(3))
    assert [(track.track_id, track.get_det_class()) for track in tracks] == [("1", 0), ("2", 1), ("3", 2)]
    later = tracker.update_tracks([([900, 0, 20, 40], 0.9, 7), *boxes[::-1]], embeds=np.eye(4, 3)[[3, 2, 1, 0]])
    assert [(track.track_id, track.get_det_class()) for track in later] == [("1", 0), ("2", 1), ("3", 2), ("4", 7)]


def test_the_list_of_tracks_is_the_callers() -> None:
    tracker = motion_tracker()
    tracks = tracker.update_tracks([(BOX, 0.9)], embeds=[FEATURE])
    assert tracker.tracker.tracks == tracks
    tracks.clear()
    assert len(tracker.tracker.tracks) == 1


def test_delete_all_tracks_counts_from_one_again() -> None:
    tracker = motion_tracker()
    for _ in range(3):
        for k in range(4):
            tracker.update_tracks(raw(np.add(BOX, np.outer(range(k + 1), [99, 0, 0, 0]))), embeds=np.eye(4)[: k + 1])
        assert [track.track_id for track in tracker.tracker.tracks] == ["1", "2", "3", "4"]
        tracker.delete_all_tracks()
        assert tracker.tracker.tracks == []
    # Features may have another length now.
    (track,) = tracker.update_tracks([(BOX, 0.9)], embeds=[[1.0] * 7])
    assert (track.track_id, track.hits, track.get_feature().shape) == ("1", 1, (7,))


def test_daily_ids() -> None:
    def see(*boxes: float, today: date) -> list[str]:
        listed = [([x, 0, 30, 60], 0.9) for x in boxes]
        return [t.track_id for t in tracker.update_tracks(listed, embeds=[FEATURE] * len(boxes), today=today)]

    first, second = date(2030, 12, 31), date(2031, 1, 1)
    tracker = motion_tracker(today=first)
    assert see(0, 100, today=first) == ["2030-12-31_1", "2030-12-31_2"]
    assert see(0, 100, 200, today=second) == ["2030-12-31_1", "2030-12-31_2", "2031-01-01_1"]
    assert see(0, 100, 200, 300, today=second)[-1] == "2031-01-01_2"
    tracker.delete_all_tracks()
    assert see(0, today=second) == ["2031-01-01_1"]


def test_daily_ids_go_by_the_computers_date_if_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        day = 1

        @classmethod
        def now(cls) -> Any:
            return type("Now", (), {"date": staticmethod(lambda: date(2040, 1, cls.day))})

    monkeypatch.setattr("edge_tracker.object_tracker.datetime", Clock)
    tracker = motion_tracker(today=date(2040, 1, 1))
    tracker.update_tracks([(BOX, 0.9)], embeds=[FEATURE])
    Clock.day = 2
    tracks = tracker.update_tracks([(BOX, 0.9), ([500, 0, 9, 9], 0.9)], embeds=[FEATURE] * 2)
    assert [track.track_id for track in tracks] == ["2040-01-01_1", "2040-01-02_1"]


def test_without_a_first_date_ids_are_numbers() -> None:
    (track,) = motion_tracker().update_tracks([(BOX, 0.9)], embeds=[FEATURE], today=date(2030, 1, 1))
    assert track.track_id == "1"


def test_supplementary_payloads_and_masks_go_with_their_detections() -> None:
    tracker = motion_tracker()
    boxes = [([100.0 * k, 0, 20, 40], 0.9) for k in range(4)]
    payloads, masks = [object() for _ in boxes], [np.full((2, 2), k % 2, dtype=bool) for k in range(4)]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0], [0, 2]):
        tracks = tracker.update_tracks(
            [boxes[k] for k in order],
            embeds=np.eye(4)[order],
            others=[payloads[k] for k in order],
            instance_masks=[masks[k] for k in order],
        )
        for k, track in enumerate(tracks):
            assert track.get_det_supplementary() is (payloads[k] if k in order else None)
            assert track.get_instance_mask() is (masks[k] if k in order else None)
    for track in tracker.update_tracks(boxes, embeds=np.eye(4)):  # none given: none kept
        assert track.get_det_supplementary() is track.get_instance_mask() is None


# --- features from the frame ------------------------------------------------------------------------------------------


def painted(*areas: tuple[slice, slice, tuple[int, int, int]]) -> np.ndarray:
    frame = np.zeros((100, 120, 3), dtype=np.uint8)
    for rows, columns, colour in areas:
        frame[rows, columns] = colour
    return frame


def test_features_are_computed_from_the_frame(colours: Callable) -> None:
    frame = painted((slice(10, 50), slice(5, 25), (200, 100, 50)), (slice(30, 90), slice(60, 100), (10, 20, 30)))
    tracks = colours().update_tracks(
        [([60, 30, 40, 60], 0.9, "b"), ([1, 1, 0, 5], 0.9, "no area"), ([5, 10, 20, 40], 0.8, "a")], frame=frame
    )
    assert [track.get_det_class() for track in tracks] == ["b", "a"]
    np.testing.assert_allclose([t.get_feature() for t in tracks], [(10, 20, 30), (200, 100, 50)], rtol=1e-5)
    (track,) = colours(bgr=False).update_tracks([([5, 10, 20, 40], 0.8, "a")], frame=frame)
    np.testing.assert_allclose(track.get_feature(), (50, 100, 200), rtol=1e-5)


def test_given_features_come_before_the_frame(colours: Callable) -> None:
    (track,) = colours().update_tracks([(BOX, 0.9)], embeds=[FEATURE], frame=painted())
    np.testing.assert_allclose(track.get_feature(), FEATURE, rtol=1e-6)


def test_masks_hide_the_background(colours: Callable) -> None:
    frame = painted((slice(None), slice(0, 40), (200, 100, 50)), (slice(None), slice(40, None), (0, 250, 250)))
    mask = np.zeros(frame.shape[:2], dtype=bool)
    mask[:, :40] = True
    # The box without area comes first: the masks must not shift.
    detections = [([0, 0, 0, 10], 0.9), ([20, 10, 40, 40], 0.9)]
    (track,) = colours().update_tracks(detections, frame=frame, instance_masks=[~mask, mask])
    half_background = np.add((200, 100, 50), (123, 116, 103)) / 2
    np.testing.assert_allclose(track.get_feature(), half_background, rtol=1e-5)
    assert track.get_instance_mask() is mask


def test_polygons(colours: Callable) -> None:
    frame = painted((slice(None), slice(None), (100, 200, 40)))
    triangle = [10, 10, 49, 10, 10, 49]
    square = [60, 20, 99, 20, 99, 59, 60, 59]
    tracker = colours(polygon=True)
    for _ in range(3):
        tracks = tracker.update_tracks([[triangle, square], ["t", "s"], [0.5, 0.6]], frame=frame)
    assert [(t.get_det_class(), t.get_det_conf()) for t in tracks] == [("t", 0.5), ("s", 0.6)]
    assert tracks[0].get_det_supplementary() is triangle
    np.testing.assert_allclose([t.to_ltwh(orig=True) for t in tracks], [(10, 10, 40, 40), (60, 20, 40, 40)])
    lower, full = tracks[0].get_feature(), tracks[1].get_feature()
    np.testing.assert_allclose(full, (100, 200, 40), rtol=1e-5)
    np.testing.assert_allclose(lower, np.multiply((100, 200, 40), 0.5), rtol=0.15)  # black outside the triangle
    assert len(tracker.update_tracks([], frame=frame)) == 2
    assert len(tracker.update_tracks([[], [], []], frame=frame)) == 2


def test_polygons_in_other_forms() -> None:
    expected = None
    square = np.array([60.9, 20.2, 99.5, 20.0, 99.0, 59.0, 60.0, 59.9])
    for polygon in (square, square.tolist(), square.reshape(4, 2), square.reshape(4, 2).tolist(), square.tolist() * 2):
        tracker = motion_tracker(polygon=True)
        for parts in (
            [[polygon], ["a"], [0.5]],
            ([polygon], ("a",), np.array([0.5])),
            (iter(part) for part in ([polygon], "a", [0.5])),
        ):
            (track,) = tracker.update_tracks(parts, embeds=[FEATURE])
            assert track.others is polygon
        expected = expected or tracker.state_dict()
        assert_same_state(tracker.state_dict(), expected)


@pytest.mark.parametrize(
    ("detections", "words"),
    [
        ([[BOX * 2], ["a"]], "2 parts"),
        ([[BOX * 2], ["a", "b"], [0.5]], "1 polygons, 2 classes, 1 conf"),
        ([[BOX * 2, [1, 2, 3]], ["a", "b"], [0.5, 0.5]], "polygon 1"),
        ([[BOX * 2, [1, 2, 3, 4]], ["a", "b"], [0.5, 0.5]], "polygon 1"),
        ([[BOX * 2, "text"], ["a", "b"], [0.5, 0.5]], "polygon 1"),
        ([[BOX * 2, [1, 2, 3, NAN, 5, 6]], ["a", "b"], [0.5, 0.5]], "detection 1"),
        ([[BOX * 2, [1, 2, 3, -INF, 5, 6]], ["a", "b"], [0.5, 0.5]], "detection 1"),
        ([[BOX * 2], ["a"], ["high"]], "confidences"),
        ([[BOX * 2], ["a"], [NAN]], "detection 0.*confidence"),
    ],
)
def test_bad_polygons_are_refused(detections: list, words: str) -> None:
    tracker = motion_tracker(polygon=True)
    before = tracker.state_dict()
    with pytest.raises(InputError, match=words):
        tracker.update_tracks(detections, embeds=[FEATURE] * len(detections[0]))
    assert_same_state(tracker.state_dict(), before)


# --- the reference's bugs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[0, 0, 0, 50], [0, 0, 50, 0], [10, 10, -5, 5], [0, 0, 5, -0.1], [0, 0, 1e-60, 5],
                                 [0, 0, 5, 1e-60]])  # fmt: skip
def test_boxes_without_area_go_with_all_that_belongs_to_them(bad: list[float]) -> None:
    tracker = motion_tracker()
    masks = [np.full((2, 2), k, dtype=np.uint8) for k in range(4)]
    for _ in range(3):
        tracks = tracker.update_tracks(
            [(bad, 0.1, "no"), ([0, 0, 20, 40], 0.5, "first"), (bad, 0.2, "no"), ([100, 0, 20, 40], 0.6, "second")],
            embeds=[[9, 9], [1, 0], [9, 9], [0, 1]],
            others=["no", "its first", "no", "its second"],
            instance_masks=masks,
        )
    assert [(t.get_det_class(), t.get_det_conf(), t.others) for t in tracks] == [
        ("first", 0.5, "its first"),
        ("second", 0.6, "its second"),
    ]
    np.testing.assert_allclose([t.get_feature() for t in tracks], np.eye(2))
    assert tracks[0].get_instance_mask() is masks[1]
    assert tracks[1].get_instance_mask() is masks[3]
    assert tracker.update(np.array([bad, [0, 0, 20, 40]]), features=[[9, 9], [1, 0]]).detection.tolist() == [1, -1]


OFF_FRAME = [
    [-50, 10, 30, 60],  # to the left: the reference's slice wraps round to the right edge
    [10, -80, 30, 60],
    [130, 10, 30, 60],
    [10, 110, 30, 60],
    [-1e7, -1e7, 30, 60],
    [1e5, 10, 30, 60],
    [10.2, 10, 0.5, 60],  # narrower than a pixel
    [10, 10.2, 30, 0.7],
]


@pytest.mark.parametrize("box", OFF_FRAME)
def test_a_box_without_pixels_has_no_appearance_and_is_tracked_all_the_same(colours: Callable, box: list) -> None:
    frame = painted((slice(None), slice(None), (200, 100, 50)))
    tracker = colours()
    for _ in range(5):
        tracks = tracker.update_tracks([(box, 0.9), ([40, 20, 20, 40], 0.9)], frame=frame)
        assert [t.track_id for t in tracks] == ["1", "2"]
    assert tracks[0].get_feature() is None
    assert tracks[0].is_confirmed()
    np.testing.assert_allclose(tracks[0].to_ltwh(), box, rtol=1e-5)
    np.testing.assert_allclose(tracks[1].get_feature(), (200, 100, 50), rtol=1e-5)


def test_a_box_across_the_edge_is_cropped_at_the_edge(colours: Callable) -> None:
    frame = painted((slice(0, 20), slice(0, 20), (200, 100, 50)), (slice(80, 100), slice(100, 120), (10, 20, 30)))
    tracks = colours().update_tracks([([-30, -30, 50, 50], 0.9), ([100, 80, 500, 500], 0.9)], frame=frame)
    np.testing.assert_allclose([t.get_feature() for t in tracks], [(200, 100, 50), (10, 20, 30)], rtol=1e-5)


GOOD = ([300.0, 10.0, 30.0, 60.0], 0.8, "dog")
BAD_VALUES: dict[str, tuple[Any, list[float], str]] = {
    "NaN box": (([NAN, 10, 30, 60], 0.9, "cat"), FEATURE, "box"),
    "NaN width": (([10, 10, NAN, 60], 0.9, "cat"), FEATURE, "box"),
    "infinite box": (([10, INF, 30, 60], 0.9, "cat"), FEATURE, "box"),
    "NaN in a box without area": (([NAN, 10, 0, 60], 0.9, "cat"), FEATURE, "box"),
    "box beyond float32": (([10, 10, 1e39, 60], 0.9, "cat"), FEATURE, "box"),
    "NaN confidence": ((BOX, NAN, "cat"), FEATURE, "confidence"),
    "infinite confidence": ((BOX, -INF, "cat"), FEATURE, "confidence"),
    "no confidence": ((BOX, None, "cat"), FEATURE, "confidence"),
    "NaN feature": ((BOX, 0.9, "cat"), [1, NAN, 3], "feature"),
    "infinite feature": ((BOX, 0.9, "cat"), [1, 2, INF], "feature"),
}


@pytest.mark.parametrize("what", BAD_VALUES)
def test_values_that_are_not_finite_are_refused_with_the_index(what: str) -> None:
    bad, feature, word = BAD_VALUES[what]
    tracker = motion_tracker()
    for _ in range(3):
        tracker.update_tracks([(BOX, 0.9, "cat"), GOOD], embeds=[FEATURE, FEATURE])
    before = tracker.state_dict()
    with pytest.raises(InputError, match=f"detection 2: {word}.*drop_invalid"):
        tracker.update_tracks([GOOD, (BOX, 0.9), bad, bad], embeds=[FEATURE, FEATURE, feature, feature])
    assert_same_state(tracker.state_dict(), before)


@pytest.mark.parametrize("what", BAD_VALUES)
def test_values_that_are_not_finite_are_dropped_if_wanted(what: str) -> None:
    bad, feature, _ = BAD_VALUES[what]
    tracker, clean = motion_tracker(drop_invalid=True), motion_tracker()
    for _ in range(5):
        tracks = tracker.update_tracks([bad, GOOD, bad], embeds=[feature, FEATURE, feature], others="abc")
        expected = clean.update_tracks([GOOD], embeds=[FEATURE], others="abc")
        assert values_of(tracks) == values_of(expected)
        assert [t.others for t in tracks] == ["abc"]


def test_invalid_boxes_are_dropped_before_embedding_and_with_polygons(colours: Callable) -> None:
    frame = painted((slice(None), slice(None), (200, 100, 50)))
    (track,) = colours(drop_invalid=True).update_tracks([([NAN] * 4, 0.9), (BOX, 0.8)], frame=frame)
    assert track.get_det_conf() == 0.8
    polygons = [[1, 2, NAN, 4, 5, 6], [10, 10, 40, 10, 10, 40]]
    (track,) = colours(drop_invalid=True, polygon=True).update_tracks([polygons, ["a", "b"], [0.1, 0.2]], frame=frame)
    assert (track.get_det_class(), track.others) == ("b", polygons[1])


@pytest.mark.parametrize("max_cosine_distance", [0.2, 1.5])
def test_zero_embeddings_do_no_harm(max_cosine_distance: float) -> None:
    tracker = motion_tracker(max_cosine_distance=max_cosine_distance)
    for frame in range(12):
        boxes = [([10.0 + frame, 0, 30, 60], 0.9), ([200.0, 0, 30, 60], 0.9)]
        features = [[0.0, 0.0], [0.0, 1.0]] if frame % 3 else [[1.0, 0.0], [0.0, 0.0]]
        tracks = tracker.update_tracks(boxes, embeds=features)
        assert [t.track_id for t in tracks] == ["1", "2"]
    np.testing.assert_array_equal([t.get_feature() for t in tracks], np.eye(2))
    assert tracker.state_dict()["features"].tolist() == [4, 8]
    always = motion_tracker()
    for _ in range(8):
        (track,) = always.update_tracks([(BOX, 0.9)], embeds=[[0.0, 0.0]])
    assert (track.track_id, track.get_feature()) == ("1", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"embeds": [FEATURE]}, "embeds: 1 for 2"),
        ({"embeds": [FEATURE] * 3}, "embeds: 3 for 2"),
        ({"embeds": np.ones((1, 3))}, "embeds: 1 for 2"),
        ({"embeds": []}, "embeds: 0 for 2"),
        ({"others": ["one"]}, "others: 1 for 2"),
        ({"others": ("one", "two", "three")}, "others: 3 for 2"),
        ({"others": iter([])}, "others: 0 for 2"),
        ({"instance_masks": [np.ones((2, 2), dtype=bool)]}, "instance_masks: 1 for 2"),
        ({"instance_masks": np.ones((3, 2, 2), dtype=bool)}, "instance_masks: 3 for 2"),
    ],
)
def test_counts_that_differ_are_an_error(arguments: dict, words: str) -> None:
    tracker = motion_tracker()
    with pytest.raises(InputError, match=words):
        tracker.update_tracks([GOOD, (BOX, 0.5)], **{"embeds": [FEATURE, FEATURE], **arguments})
    with pytest.raises(InputError, match="1 for 0"):
        tracker.update_tracks([], embeds=[FEATURE])


def test_the_callers_lists_are_not_modified() -> None:
    boxes: list[Any] = [([0, 0, 0, 5], 0.9, "no"), [[1.0, 2, 30, 60], 0.9, "a"], ([100, 2, 30, 60], 0.5, "b")]
    polygons: list[Any] = [[[0, 0, 30, 0, 30, 60], [50, 0, 90, 0, 90, 60]], ["a", "b"], [0.9, 0.5]]
    for polygon, detections in ((False, boxes), (True, polygons)):
        tracker = motion_tracker(polygon=polygon, nms_max_overlap=0.5)
        m = 2 if polygon else 3
        given = [detections, list(np.eye(m)), [{"a": k} for k in range(m)], [np.eye(2, dtype=bool)] * m]
        copies = copy.deepcopy(given)
        for _ in range(4):
            tracker.update_tracks(given[0], embeds=given[1], others=given[2], instance_masks=given[3])
        assert given[0] == copies[0]
        assert given[2] == copies[2]
        np.testing.assert_array_equal(given[1], copies[1])
        np.testing.assert_array_equal(given[3], copies[3])


def test_any_iterable_will_do() -> None:
    detections = [([1.0, 2, 30, 60], 0.9, "a"), ([100.0, 2, 30, 60], 0.5, "b")]
    features, payloads, masks = np.eye(2), ["x", "y"], [np.eye(2, dtype=bool)] * 2
    forms: list[Callable[[Any], Any]] = [
        list, tuple, iter, deque, lambda items: (item for item in items), lambda items: dict(enumerate(items)).values(),
    ]  # fmt: skip
    expected = None
    for form in forms:
        tracker = motion_tracker()
        for _ in range(4):
            tracks = tracker.update_tracks(
                form(detections), embeds=form(list(features)), others=form(payloads), instance_masks=form(masks)
            )
            assert [track.others for track in tracks] == ["x", "y"]
            assert [track.get_instance_mask() for track in tracks] == masks
        expected = expected or tracker.state_dict()
        assert_same_state(tracker.state_dict(), expected)
    objects = np.empty(2, dtype=object)
    objects[:] = detections
    tracker = motion_tracker()
    for _ in range(4):
        tracker.update_tracks(objects, embeds=features, others=np.array(payloads))
    assert_same_state(tracker.state_dict(), expected)


@pytest.mark.parametrize("payload", ["text", b"bytes", {"a": 1}, 7, 1.5, object()])
def test_what_is_no_sequence_is_one_payload_for_all(payload: Any) -> None:
    tracks = motion_tracker().update_tracks([GOOD, (BOX, 0.9)], embeds=[FEATURE, FEATURE], others=payload)
    assert [track.others for track in tracks] == [payload, payload]


def test_predicted_sides_never_turn_negative() -> None:
    tracker = motion_tracker(max_age=200)
    for height in np.arange(200.0, 20.0, -12.0):
        tracker.update_tracks([([0, 0, height * height / 400, height], 0.9)], embeds=[FEATURE])
    for _ in range(150):
        (track,) = tracker.update_tracks([], embeds=[])
        assert (track.to_ltwh()[2:] >= 0).all()
        assert (track.to_ltrb()[2:] >= track.to_ltrb()[:2]).all()
        out = tracker.update(np.empty((0, 4)), dt=0.25)
        assert (out.ltrb[:, 2:] >= out.ltrb[:, :2]).all()
    assert track.mean[3] < 0, "the state did not get there"


def test_suppression_counts_a_pixel_more_in_each_direction_as_the_reference_does() -> None:
    """So in normalised coordinates boxes that are apart cover each other."""
    nms = pytest.importorskip("deep_sort_realtime.utils.nms")
    boxes, scores = [[0.1 * k, 0.2, 0.05, 0.1] for k in range(8)], [0.9 - 0.01 * k for k in range(8)]
    kept = nms.non_max_suppression(np.array(boxes), 0.5, scores)
    detections = [(box, score, k) for k, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    tracks = motion_tracker(nms_max_overlap=0.5).update_tracks(detections, embeds=np.eye(8))
    assert [track.get_det_class() for track in tracks] == sorted(kept) == [0, 6]


def test_suppression_takes_all_that_belongs_to_a_detection() -> None:
    boxes = [([0, 0, 30, 60], 0.5, "a"), ([2, 0, 30, 60], 0.9, "b"), ([200, 0, 30, 60], 0.1, "c")]
    for overlap, expected in ((0.5, ["b", "c"]), (0.97, ["a", "b", "c"]), (1.0, ["a", "b", "c"])):
        tracks = motion_tracker(nms_max_overlap=overlap).update_tracks(boxes, embeds=np.eye(3), others=["a", "b", "c"])
        assert [track.others for track in tracks] == [track.get_det_class() for track in tracks] == expected
        assert [int(track.get_feature().argmax()) for track in tracks] == [ord(name) - ord("a") for name in expected]


# --- bad input changes nothing ----------------------------------------------------------------------------------------

BAD_INPUT: dict[str, dict[str, Any]] = {
    "NaN box": {"raw_detections": [GOOD, ([0, 0, NAN, 5], 0.9)]},
    "NaN confidence": {"raw_detections": [GOOD, (BOX, NAN)]},
    "NaN feature": {"embeds": [FEATURE, [1, 2, NAN]]},
    "three numbers in a box": {"raw_detections": [GOOD, ([0, 0, 5], 0.9)]},
    "five numbers in a box": {"raw_detections": [GOOD, ([0, 0, 5, 5, 5], 0.9)]},
    "a number for a box": {"raw_detections": [GOOD, (3, 0.9)]},
    "words in a box": {"raw_detections": [GOOD, (["a", 0, 1, 2], 0.9)]},
    "a word for a confidence": {"raw_detections": [GOOD, (BOX, "sure")]},
    "a bare box": {"raw_detections": [GOOD, [BOX]]},
    "no tuple": {"raw_detections": [GOOD, 5]},
    "None": {"raw_detections": [GOOD, None]},
    "four parts": {"raw_detections": [GOOD, (BOX, 0.9, "a", "b")]},
    "a detection by keys": {"raw_detections": [GOOD, {"box": BOX, "confidence": 0.9}]},
    "an array of numbers": {"raw_detections": np.ones((2, 6))},
    "a class that is a list": {"raw_detections": [GOOD, (BOX, 0.9, ["cat"])]},
    "a new class, and one that is a list": {"raw_detections": [(BOX, 0.9, "brand new"), (BOX, 0.9, [])]},
    "features of another length": {"embeds": [[1.0, 2.0]] * 2},
    "features of two lengths": {"embeds": [[1.0, 2.0], FEATURE]},
    "features that are words": {"embeds": ["a", "b"]},
    "features without numbers": {"embeds": [[], []]},
    "features in a matrix each": {"embeds": np.ones((2, 3, 3))},
    "no features": {"embeds": None},
    "too few features": {"embeds": [FEATURE]},
    "too few payloads": {"others": [1]},
    "too many masks": {"instance_masks": [1, 2, 3]},
    "no time": {"dt": 0},
}


@pytest.mark.parametrize("today", [None, date(2030, 1, 1)], ids=["plain", "daily"])
@pytest.mark.parametrize("track_class", [None, type("Hooked", (Track,), {"predict": lambda *a: Track.predict(*a)})],
                         ids=["Track", "hooked"])  # fmt: skip
@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_changes_nothing(what: str, track_class: Any, today: date | None) -> None:
    disturbed, calm = (motion_tracker(override_track_class=track_class, today=today, max_age=4) for _ in range(2))
    scene = [*crowd(6, 9, 3, seed=3, width=400, height=300, seen=0.9)]
    bad = {"raw_detections": [GOOD, (BOX, 0.5)], "embeds": [FEATURE, FEATURE], **BAD_INPUT[what]}
    for frame, (ltwh, features, _) in enumerate(scene):
        day = None if today is None else date(2030, 1, 1 + frame)
        if frame or what != "features of another length":  # the first ones may be of any
            before, held = disturbed.state_dict(), disturbed.tracker.tracks
            seen = values_of(held), [track.others for track in held]
            with pytest.raises(InputError):
                disturbed.update_tracks(**{"today": day, **bad})
            assert_same_state(disturbed.state_dict(), before)
            assert (values_of(disturbed.tracker.tracks), [track.others for track in held]) == seen
        tracks, expected = (
            tracker.update_tracks(raw(ltwh), embeds=features, today=day, others=range(len(ltwh)))
            for tracker in (disturbed, calm)
        )
        assert values_of(tracks) == values_of(expected)
        assert [track.others for track in tracks] == [track.others for track in expected]
        assert_same_state(disturbed.state_dict(), calm.state_dict())


def test_a_bad_frame_or_mask_changes_nothing(colours: Callable) -> None:
    tracker, frame = colours(), painted()
    tracker.update_tracks([(BOX, 0.9)], frame=frame)
    before = tracker.state_dict()
    for bad, masks in (
        (np.zeros((100, 120), dtype=np.uint8), None),
        (np.zeros((100, 120, 3)), None),
        ("frame", None),
        (frame, [np.ones((5, 5), dtype=bool)]),
        (frame, [None]),
        (frame, "mask"),
    ):
        with pytest.raises(InputError):
            tracker.update_tracks([(BOX, 0.9)], frame=bad, instance_masks=masks)
        assert_same_state(tracker.state_dict(), before)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """Thousands of frames in which tracks start and end, with payloads, and classes that never come twice."""
    rng = np.random.default_rng(0)
    tracker = motion_tracker(nn_budget=5, max_age=3, n_init=1)
    scenes = [(raw(ltwh), features) for ltwh, features, _ in crowd(8, 200, 16, seed=5, seen=0.7)]

    def run(frames: int, first: int) -> int:
        kept = None
        for frame in range(first, first + frames):
            detections, features = scenes[frame % len(scenes)]
            detections = [(box, confidence, f"class {frame} {k}") for k, (box, confidence, _) in enumerate(detections)]
            where = rng.uniform(-5000, 5000, 2)  # somebody new, who will be gone again
            detections.append(([*where, 20, 40], 0.5, f"class {frame}"))
            tracks = tracker.update_tracks(
                detections, embeds=[*features, rng.normal(size=16)], others=[frame] * len(detections)
            )
            kept = kept or tracks
        gc.collect()
        return int(tracks[-1].track_id)

    run(600, 0)
    table = tracker.tracker.table
    room = len(table.tracks), len(table.gallery.blocks)
    tracemalloc.start()
    try:
        run(700, 600)
        before = tracemalloc.get_traced_memory()[0]
        started = run(2100, 1300)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    table = tracker.tracker.table
    assert started > 3000
    assert (len(table.tracks), len(table.gallery.blocks)) == room
    assert grown < 300_000, f"{grown} bytes more after 2100 frames"
