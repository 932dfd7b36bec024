"""Track: what one tracked object shows of itself."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort, Track, TrackState
from edge_tracker.track import Detection
from edge_tracker.tracking.deepsort.kalman import KalmanFilter
from tests.tracking.scenes import crowd, raw
from tests.tracking.states import values_of

reference_track = pytest.importorskip("deep_sort_realtime.deep_sort.track")
reference_detection = pytest.importorskip("deep_sort_realtime.deep_sort.detection")

BOX = [10.0, 20.0, 30.0, 60.0]
FEATURE = np.array([3.0, 4.0], dtype=np.float32)


def tracked(frames: int = 3, **extra) -> tuple[EdgeDeepSort, Track]:
    """A tracker with one track, seen so many times, with a class, a mask and a payload."""
    tracker = EdgeDeepSort(embedder=None, max_age=4, **extra)
    for _ in range(frames):
        (track,) = tracker.update_tracks(
            [(BOX, 0.75, "cat")], embeds=[FEATURE], others=[{"zone": 1}], instance_masks=[np.ones((4, 4), dtype=bool)]
        )
    return tracker, track


def test_its_life() -> None:
    tracker, track = tracked(1)
    assert isinstance(track.track_id, str)
    assert (track.track_id, track.hits, track.age, track.time_since_update) == ("1", 1, 1, 0)
    assert track.state == TrackState.Tentative == 1
    assert (track.is_tentative(), track.is_confirmed(), track.is_deleted()) == (True, False, False)
    for age in (2, 3):
        tracker.update_tracks([(BOX, 0.75, "cat")], embeds=[FEATURE])
        assert (track.hits, track.age) == (age, age)
    assert track.state == TrackState.Confirmed == 2
    assert (track.is_tentative(), track.is_confirmed(), track.is_deleted()) == (False, True, False)
    for missed in range(1, 5):
        assert tracker.update_tracks([], embeds=[]) == [track]
        assert (track.hits, track.age, track.time_since_update) == (3, 3 + missed, missed)
        assert isinstance(track.age, int)
    assert tracker.update_tracks([], embeds=[]) == []
    assert track.state == TrackState.Deleted == 3
    assert (track.is_tentative(), track.is_confirmed(), track.is_deleted()) == (False, False, True)


def test_a_tentative_track_dies_of_its_first_miss() -> None:
    tracker, track = tracked(2)
    assert tracker.update_tracks([], embeds=[]) == []
    assert track.is_deleted()


def test_what_its_detection_carried() -> None:
    tracker, track = tracked()
    assert (track.get_det_class(), track.get_det_conf()) == ("cat", 0.75)
    assert track.get_det_supplementary() == {"zone": 1}
    assert track.get_instance_mask().shape == (4, 4)
    np.testing.assert_array_equal(track.get_feature(), FEATURE)
    tracker.update_tracks([], embeds=[])  # class and feature last, the rest does not
    assert (track.get_det_class(), track.get_det_conf()) == ("cat", None)
    assert track.get_det_supplementary() is None
    assert track.get_instance_mask() is None
    np.testing.assert_array_equal(track.get_feature(), FEATURE)
    tracker.update_tracks([(BOX, 0.5)], embeds=[2 * FEATURE])
    assert (track.get_det_class(), track.get_det_conf(), track.get_det_supplementary()) == (None, 0.5, None)
    np.testing.assert_array_equal(track.get_feature(), 2 * FEATURE)


def test_its_boxes() -> None:
    tracker, track = tracked()
    tracker.update_tracks([([12.5, 20.25, 30.0, 60.0], 0.9, "cat")], embeds=[FEATURE])
    estimate = track.to_ltwh()
    assert estimate.shape == (4,)
    assert 10 < estimate[0] < 12.5
    np.testing.assert_allclose(track.to_ltrb(), [*estimate[:2], *(estimate[:2] + estimate[2:])])
    for argument in ({"orig": True}, {"orig": True, "orig_strict": True}):
        np.testing.assert_array_equal(track.to_ltwh(**argument), [12.5, 20.25, 30, 60])
        np.testing.assert_array_equal(track.to_ltrb(**argument), [12.5, 20.25, 42.5, 80.25])
    np.testing.assert_array_equal(track.to_ltwh(orig_strict=True), estimate)
    for longer, shorter in ((track.to_tlwh, track.to_ltwh), (track.to_tlbr, track.to_ltrb)):
        np.testing.assert_array_equal(longer(), shorter())
        np.testing.assert_array_equal(longer(orig=True), shorter(orig=True))
    tracker.update_tracks([], embeds=[])
    np.testing.assert_array_equal(track.to_ltwh(orig=True), track.to_ltwh())
    np.testing.assert_array_equal(track.to_ltrb(orig=True), track.to_ltrb())
    for box in (track.to_ltwh, track.to_ltrb, track.to_tlwh, track.to_tlbr):
        assert box(orig=True, orig_strict=True) is None


def test_what_it_gives_out_is_the_callers_to_change() -> None:
    tracker, track = tracked()
    before = values_of([track])
    for array in (track.to_ltwh(), track.to_ltrb(), track.to_ltwh(orig=True), track.get_feature()):
        array[:] = -1
    assert values_of([track]) == before
    np.testing.assert_array_equal(track.to_ltwh(orig=True), BOX)
    assert tracker.tracker.tracks == [track]


def test_its_state_can_be_set() -> None:
    tracker, track = tracked()
    mean = track.mean.copy()
    mean[0] += 500
    mean[4:] = 0
    track.mean = mean
    np.testing.assert_allclose(track.to_ltwh()[0], 510, atol=1)
    track.covariance = 4 * np.eye(8)
    np.testing.assert_array_equal(track.covariance, 4 * np.eye(8))
    track.hits, track.age, track.time_since_update = 7, 8, 2
    assert (track.hits, track.age, track.time_since_update) == (7, 8, 2)
    track.state = TrackState.Tentative
    assert track.is_tentative()
    # And the tracker goes on from there.
    (again,) = tracker.update_tracks([([510, 20, 30, 60], 0.9, "cat")], embeds=[FEATURE])
    assert again is track
    assert (track.hits, track.age, track.is_confirmed()) == (8, 9, True)
    with pytest.raises(ValueError, match="4"):
        track.state = 4


def test_what_its_detection_carried_can_be_set() -> None:
    tracker, track = tracked()
    track.det_class, track.det_conf, track.others, track.instance_mask = "lynx", 0.25, "seen", None
    track.original_ltwh = np.array([1, 2, 3, 4])
    assert (track.get_det_class(), track.get_det_conf(), track.get_det_supplementary()) == ("lynx", 0.25, "seen")
    assert track.get_instance_mask() is None
    np.testing.assert_array_equal(track.to_ltwh(orig=True), [1, 2, 3, 4])
    track.original_ltwh = track.det_conf = None
    assert track.to_ltwh(orig=True, orig_strict=True) is track.get_det_conf() is None
    tracker.update_tracks([], embeds=[])
    assert track.get_det_class() == "lynx"
    assert track.get_det_supplementary() is None


def test_a_state_cannot_be_changed_in_place_without_notice() -> None:
    """`mean` is a copy: a change to it that would be lost is an error."""
    _, track = tracked()
    with pytest.raises(ValueError, match="read-only"):
        track.mean[4:] = 0
    with pytest.raises(ValueError, match="read-only"):
        track.covariance[0, 0] = 0


def test_the_same_object_stands_for_the_same_track() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=3)
    known: dict[str, Track] = {}
    for ltwh, features, _ in crowd(10, 40, 4, seen=0.8):
        for track in tracker.update_tracks(raw(ltwh), embeds=features):
            assert known.setdefault(track.track_id, track) is track
            assert tracker.tracker.tracks == tracker.tracker.tracks
    assert len(known) > 10


@pytest.mark.parametrize("how", ["deletion", "delete_all_tracks", "load_state_dict"])
def test_a_track_kept_after_its_end_keeps_its_last_values(how: str) -> None:
    tracker, track = tracked()
    other = [([500.0, 20.0, 30.0, 60.0], 0.9, "dog")]
    empty = EdgeDeepSort(embedder=None).state_dict()
    for _ in range(3):
        tracker.update_tracks([(BOX, 0.5, "cat"), *other], embeds=[FEATURE, -FEATURE], others=["mine", "its"])
    kept = None
    if how == "deletion":
        for _ in range(5):
            kept = values_of([track]), track.others
            tracker.update_tracks(other, embeds=[-FEATURE])
        assert track.is_deleted()
        kept = values_of([track]), track.others
    else:
        kept = values_of([track]), track.others
        assert kept[1] == "mine"
        tracker.delete_all_tracks() if how == "delete_all_tracks" else tracker.load_state_dict(empty)
    for shift in range(60):  # others take its row, and its gallery's blocks
        boxes = [([shift * 200.0 + k, 900.0, 20.0, 50.0], 0.9, "bird") for k in (0, 60)]
        tracker.update_tracks([*other, *boxes], embeds=[-FEATURE] * 3, others=["its"] * 3)
    assert (values_of([track]), track.others) == kept
    assert track not in tracker.tracker.tracks


def test_a_tracker_that_is_gone_is_freed_but_for_the_rows_of_kept_tracks() -> None:
    tracker, track = tracked()
    for _ in range(6):
        tracker.update_tracks([], embeds=[])
    dying = weakref.ref(tracker.tracker.table.gallery.unit)
    del tracker
    gc.collect()
    assert dying() is None
    assert track.get_det_class() == "cat"


def test_constructed_directly_it_is_the_references_track() -> None:
    kf = KalmanFilter()
    mean, covariance = kf.initiate(np.array([25, 50, 0.5, 60]))
    arguments = {
        "feature": FEATURE,
        "original_ltwh": np.array(BOX, dtype=np.float32),
        "det_class": "cat",
        "det_conf": 0.75,
        "others": "x",
    }
    ours = Track(mean, covariance, "7", 2, 30, **arguments)
    theirs = reference_track.Track(mean, covariance, "7", 2, 30, **arguments)

    def same() -> None:
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-9, atol=1e-12)
        for name in ("track_id", "hits", "age", "time_since_update", "state", "det_class", "det_conf", "others"):
            assert getattr(ours, name) == getattr(theirs, name), name
        np.testing.assert_allclose(ours.to_ltrb(), theirs.to_ltrb())
        np.testing.assert_allclose(ours.get_feature(), theirs.get_feature())
        for strict in (False, True):
            box, expected = (t.to_ltwh(orig=True, orig_strict=strict) for t in (ours, theirs))
            assert (box is None) == (expected is None)
            if box is not None:
                np.testing.assert_allclose(box, expected)

    same()
    for measured in ([12, 22, 30, 60], None, None, [13, 20, 31, 62]):
        for track in (ours, theirs):
            track.predict(kf)
        same()
        for track, kind in ((ours, Detection), (theirs, reference_detection.Detection)):
            if measured is None:
                track.mark_missed()
            else:
                track.update(kf, kind(measured, 0.5, 2 * FEATURE, "dog", None, "y"))
        same()
    theirs.state = ours.state = TrackState.Tentative
    ours.mark_missed()
    theirs.mark_missed()
    assert ours.is_deleted()
    same()


def test_constructed_with_as_little_as_possible() -> None:
    mean, covariance = KalmanFilter().initiate(np.array([25, 50, 0.5, 60]))
    track = Track(mean, covariance, "1", 3, 30)
    assert track.get_feature() is None
    assert track.get_det_class() is track.get_det_conf() is track.get_instance_mask() is None
    assert track.to_ltwh(orig=True, orig_strict=True) is None
    np.testing.assert_allclose(track.to_ltwh(), [10, 20, 30, 60])
    assert track.get_det_supplementary() is None
    only_class = Track(mean, covariance, "1", 3, 30, feature=FEATURE, det_class="cat")
    assert only_class.get_det_class() == "cat"
    np.testing.assert_array_equal(only_class.get_feature(), FEATURE)


@pytest.mark.parametrize("covariance", [np.eye(7), np.ones((8, 8))])
def test_a_covariance_that_the_filter_cannot_hold_is_refused(covariance: np.ndarray) -> None:
    with pytest.raises(ValueError, match="covariance"):
        Track(np.zeros(8), covariance, "1", 3, 30)


def test_detection_converts_its_box() -> None:
    detection, theirs = Detection(BOX, 0.5, None), reference_detection.Detection(BOX, 0.5, FEATURE)
    np.testing.assert_array_equal(detection.get_ltwh(), theirs.get_ltwh())
    np.testing.assert_array_equal(detection.to_tlbr(), theirs.to_tlbr())
    np.testing.assert_array_equal(detection.to_xyah(), theirs.to_xyah())
    detection.get_ltwh()[:] = 0
    np.testing.assert_array_equal(detection.ltwh, BOX)
