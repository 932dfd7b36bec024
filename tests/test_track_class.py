"""override_track_class: tracks of the caller's own class."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort, Track, TrackState
from edge_tracker.errors import InputError
from tests.tracking.scenes import crowd, raw
from tests.tracking.states import assert_same_state, values_of


class Counting(Track):
    """Counts what is called, and changes nothing."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.arguments = args, kwargs
        self.calls = {"predict": 0, "update": 0, "mark_missed": 0}

    def predict(self, kf) -> None:
        self.calls["predict"] += 1
        super().predict(kf)

    def update(self, kf, detection) -> None:
        self.calls["update"] += 1
        self.last = detection
        super().update(kf, detection)

    def mark_missed(self) -> None:
        self.calls["mark_missed"] += 1
        super().mark_missed()


class WithMemory(Track):
    """Has state of its own and overrides no method."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seen_at: list[float] = []


class FromTheReference(Track):
    """`predict` written out as deep-sort-realtime's."""

    def predict(self, kf) -> None:
        self.mean, self.covariance = kf.predict(self.mean, self.covariance)
        self.age += 1
        self.time_since_update += 1
        self.original_ltwh = None
        self.det_conf = None
        self.instance_mask = None
        self.others = None


@pytest.mark.parametrize("track_class", [Counting, WithMemory, FromTheReference])
@pytest.mark.parametrize("budget", [3, None])
def test_the_tracks_are_the_same_as_without(track_class: type[Track], budget: int | None) -> None:
    arguments = {"embedder": None, "max_age": 4, "nn_budget": budget, "max_cosine_distance": 0.4}
    plain, own = EdgeDeepSort(**arguments), EdgeDeepSort(override_track_class=track_class, **arguments)
    for ltwh, features, who in crowd(12, 70, 8, seed=4, width=500, height=400, occlusions=True, unit=False):
        names = [f"object {k}" for k in who]
        expected = plain.update_tracks(raw(ltwh), embeds=features, others=names)
        tracks = own.update_tracks(raw(ltwh), embeds=features, others=names)
        assert values_of(tracks) == values_of(expected)
        assert [track.others for track in tracks] == [track.others for track in expected]
        assert {type(track) for track in tracks} <= {track_class}
        assert_same_state(own.state_dict(), plain.state_dict())


def test_the_constructor_gets_the_references_arguments() -> None:
    tracker = EdgeDeepSort(embedder=None, n_init=2, max_age=9, override_track_class=Counting, today=date(2030, 1, 2))
    mask = np.eye(3, dtype=bool)
    (track,) = tracker.update_tracks(
        [([10, 20, 30, 60], 0.75, "cat")],
        embeds=[[3, 4]],
        others=["extra"],
        instance_masks=[mask],
        today=date(2030, 1, 2),
    )
    (mean, covariance, track_id, n_init, max_age), named = track.arguments
    np.testing.assert_array_equal(mean, [25, 50, 0.5, 60, 0, 0, 0, 0])
    assert covariance.shape == (8, 8)
    assert (track_id, n_init, max_age) == ("2030-01-02_1", 2, 9)
    assert isinstance(max_age, int)
    np.testing.assert_array_equal(named.pop("feature"), [3, 4])
    np.testing.assert_array_equal(named.pop("original_ltwh"), [10, 20, 30, 60])
    assert named.pop("instance_mask") is mask
    assert named == {"det_class": "cat", "det_conf": 0.75, "others": "extra"}


def test_the_methods_are_called_once_a_frame() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=2, override_track_class=Counting)
    box, mask = [10, 20, 30, 60], np.eye(3, dtype=bool)
    for _ in range(4):
        # The first detection has no area: the others keep their own index, mask and payload.
        tracks = tracker.update_tracks(
            [([1, 1, 0, 5], 0.9, "dog"), (box, 0.75, "cat")],
            embeds=[[1, 0], [3, 4]],
            others=["no", "yes"],
            instance_masks=[None, mask],
        )
    (track,) = tracks
    assert track.calls == {"predict": 3, "update": 3, "mark_missed": 0}
    np.testing.assert_array_equal(track.last.get_ltwh(), box)
    np.testing.assert_array_equal(track.last.feature, [3, 4])
    assert (track.last.confidence, track.last.class_name, track.last.others) == (0.75, "cat", "yes")
    assert track.last.instance_mask is mask
    for _ in range(3):
        tracker.update_tracks([], embeds=[])
    assert track.calls == {"predict": 6, "update": 3, "mark_missed": 3}
    assert track.is_deleted()
    assert tracker.tracker.tracks == []


def test_state_of_its_own_stays_with_its_track() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=3, override_track_class=WithMemory)
    for frame, (ltwh, features, _) in enumerate(crowd(10, 50, 8, seed=6, seen=0.8)):
        for track in tracker.update_tracks(raw(ltwh), embeds=features):
            track.seen_at.append(frame)
            assert len(track.seen_at) == track.age


class Stubborn(Track):
    """Does not go away, stands still, and is confirmed at once."""

    def __init__(self, mean, covariance, *args, **kwargs) -> None:
        mean[4:] = 0  # the arguments are its own
        super().__init__(mean, covariance, *args, **kwargs)
        self.state = TrackState.Confirmed

    def predict(self, kf) -> None:
        before = self.mean
        super().predict(kf)
        self.mean = before

    def mark_missed(self) -> None:
        pass


def test_what_the_methods_change_is_kept() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=2, override_track_class=Stubborn)
    (track,) = tracker.update_tracks([([10, 20, 30, 60], 0.9, "cat")], embeds=[[1, 0]])
    assert track.is_confirmed()
    box = track.to_ltwh()
    for _ in range(10):
        assert tracker.update_tracks([], embeds=[]) == [track]
        np.testing.assert_array_equal(track.to_ltwh(), box)
    assert track.time_since_update == 10
    track.state = TrackState.Deleted  # a caller may end it
    assert tracker.update_tracks([], embeds=[]) == []


class Greedy(Track):
    """Puts every feature into its gallery many times over."""

    def update(self, kf, detection) -> None:
        for _ in range(20):
            super().update(kf, detection)


def test_methods_may_use_up_the_room_for_features() -> None:
    tracker = EdgeDeepSort(embedder=None, nn_budget=None, n_init=1, override_track_class=Greedy)
    for frame in range(12):
        k = np.arange(3 + frame)
        boxes = np.stack([100.0 * k, 0 * k, 0 * k + 30, 0 * k + 60], axis=1)
        tracks = tracker.update_tracks(raw(boxes), embeds=np.eye(20)[k])
        assert len(tracks) == 3 + frame
        for track, feature in zip(tracks, np.eye(20), strict=False):
            np.testing.assert_array_equal(track.get_feature(), feature)
    state = tracker.state_dict()
    assert state["features"][0] == 1 + 11 * 20
    np.testing.assert_array_equal(np.unique(state["gallery_unit"].sum(axis=1)), [1])


def test_the_class_must_be_a_track() -> None:
    for wrong in (object, "Track", Track(np.zeros(8), np.eye(8), "1", 3, 30)):
        with pytest.raises(InputError, match="override_track_class"):
            EdgeDeepSort(embedder=None, override_track_class=wrong)


@pytest.mark.parametrize("track_class", [Counting, WithMemory])
def test_a_saved_state_goes_on_with_tracks_of_the_class(track_class: type[Track]) -> None:
    frames = list(crowd(8, 40, 8, seed=8, seen=0.9))
    tracker = EdgeDeepSort(embedder=None, override_track_class=track_class)
    for ltwh, features, _ in frames[:20]:
        tracker.update_tracks(raw(ltwh), embeds=features)
    resumed = EdgeDeepSort(embedder=None, override_track_class=track_class)
    resumed.load_state_dict(tracker.state_dict())
    assert values_of(resumed.tracker.tracks) == values_of(tracker.tracker.tracks)
    for ltwh, features, _ in frames[20:]:
        tracks = resumed.update_tracks(raw(ltwh), embeds=features)
        assert values_of(tracks) == values_of(tracker.update_tracks(raw(ltwh), embeds=features))
        assert all(type(track) is track_class for track in tracks)


def test_a_deleted_track_of_the_class_keeps_its_values() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=1, n_init=1, override_track_class=Counting)
    for _ in range(3):
        first, second = tracker.update_tracks(
            [([0, 0, 20, 40], 0.9, "cat"), ([200, 0, 20, 40], 0.8, "dog")], embeds=np.eye(2), others=["c", "d"]
        )
    for _ in range(3):
        left = tracker.update_tracks([([200, 0, 20, 40], 0.8, "dog")], embeds=[[0, 1]], others=["d"])
    assert left == [second]
    assert (first.is_deleted(), first.get_det_class(), first.hits, first.calls["update"]) == (True, "cat", 3, 2)
    np.testing.assert_allclose(first.to_ltwh(), [0, 0, 20, 40], atol=1e-6)
    assert (second.others, second.get_det_class()) == ("d", "dog")
