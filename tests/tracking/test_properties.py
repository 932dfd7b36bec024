"""Properties of every run, whatever the detections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_tracker import EdgeDeepSort, TrackArrays
from tests.tracking.scenes import crowd, raw
from tests.tracking.states import assert_same_state, values_of

Frames = list[tuple[np.ndarray, np.ndarray]]

SEED = st.integers(0, 2**32 - 1)
COMMON = {"nms_max_overlap": st.sampled_from([0.4, 0.8, 1.0]), "class_aware": st.booleans()}
DEEPSORT = st.fixed_dictionaries(
    {
        **COMMON,
        "max_age": st.integers(0, 6),
        "n_init": st.integers(1, 4),
        "nn_budget": st.one_of(st.none(), st.integers(1, 20)),
        "max_iou_distance": st.floats(0.1, 1.0),
        "max_cosine_distance": st.floats(0.0, 1.5),
        "gating_only_position": st.booleans(),
    }
)
EDGE = st.fixed_dictionaries(
    {**COMMON, "method": st.just("edge"), "frame_rate": st.sampled_from([5.0, 30.0]), "selective": st.booleans()}
)
ARGUMENTS = st.one_of(DEEPSORT, DEEPSORT, EDGE)
more = settings(max_examples=80)


@st.composite
def scenes(draw: Any) -> Frames:
    """Short sequences of crowds, with frames that are empty."""
    scene = crowd(
        draw(st.integers(1, 10)),
        draw(st.integers(2, 16)),
        6,
        seed=draw(SEED),
        width=250,
        height=150,
        seen=draw(st.floats(0.2, 1.0)),
        noise=draw(st.floats(0.0, 2.0)),
        jitter=draw(st.floats(0.0, 0.3)),
        unit=False,
    )
    empty = draw(st.sets(st.integers(0, 15), max_size=4))
    return [(ltwh[:0], features[:0]) if k in empty else (ltwh, features) for k, (ltwh, features, _) in enumerate(scene)]


# Anything that is a finite number, also where no object could be.
numbers = st.one_of(st.floats(-1e4, 1e4), st.floats(-1e30, 1e30), st.sampled_from([0.0, 1e-40, 1e-3, 1e18]))
wild_boxes = st.lists(st.tuples(numbers, numbers, numbers.map(abs), numbers.map(abs)), max_size=6)
wild_frames = st.lists(st.tuples(wild_boxes, SEED), min_size=1, max_size=10)


def run(tracker: EdgeDeepSort, frames: Frames) -> Iterator[TrackArrays]:
    for ltwh, features in frames:
        classes = np.arange(len(ltwh)) % 2
        yield tracker.update(ltwh, np.linspace(0.5, 0.9, len(ltwh)), classes, features)


def assert_sound(tracks: TrackArrays, seen: set[int], live: set[int]) -> set[int]:
    """No id twice in a frame, no id again once it is gone, everything finite; gives the ids live now."""
    ids = tracks.ids.tolist()
    assert ids == sorted(set(ids))
    assert not (set(ids) - live) & seen, "an id is used again"
    assert np.isfinite(tracks.ltrb).all()
    assert (tracks.ltrb[:, 2:] >= tracks.ltrb[:, :2]).all()
    matched = tracks.detection[tracks.detection >= 0].tolist()
    assert len(matched) == len(set(matched)), "a detection has two tracks"
    np.testing.assert_array_equal(tracks.detection >= 0, tracks.time_since_update == 0)
    np.testing.assert_array_equal(np.isnan(tracks.confidence), tracks.detection < 0)
    seen.update(ids)
    return set(ids)


@more
@given(scenes(), ARGUMENTS)
def test_ids_are_unique_and_never_used_again(frames: Frames, arguments: dict) -> None:
    tracker = EdgeDeepSort(embedder=None, **arguments)
    seen: set[int] = set()
    live: set[int] = set()
    for tracks in run(tracker, frames):
        live = assert_sound(tracks, seen, live)
        state = tracker.state_dict()
        for name in ("mean", "covariance", "age", "time_since_update", "gallery_unit", "gallery_norm"):
            assert np.isfinite(state[name]).all(), name
        np.testing.assert_allclose(np.linalg.norm(state["gallery_unit"], axis=1), 1, rtol=1e-5)
        budget = arguments.get("nn_budget")
        assert (state["features"] <= np.minimum(state["hits"], budget or 10**9)).all()


@more
@given(wild_frames, ARGUMENTS, st.booleans())
def test_the_state_stays_finite_whatever_the_boxes(frames: list, arguments: dict, by_motion: bool) -> None:
    tracker = EdgeDeepSort(embedder=None, drop_invalid=True, **arguments)
    seen: set[int] = set()
    live: set[int] = set()
    for boxes, seed in frames:
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(len(boxes), 3)) * 10.0 ** rng.uniform(-40, 37, (len(boxes), 1))
        tracks = tracker.update(
            np.array(boxes).reshape(-1, 4),
            np.full(len(boxes), 0.5),
            features=None if by_motion else features.astype(np.float32),
        )
        live = assert_sound(tracks, seen, live)
        for name, array in tracker.state_dict().items():
            if name not in ("meta", "confidence"):
                assert np.isfinite(array).all(), name


@more
@given(scenes(), ARGUMENTS, SEED, st.booleans())
def test_the_order_of_detections_does_not_matter(frames: Frames, arguments: dict, seed: int, by_motion: bool) -> None:
    rng = np.random.default_rng(seed)
    # At a distance of 1 all boxes that do not meet are ties.
    if arguments.get("max_iou_distance", 0) > 0.99:
        arguments["max_iou_distance"] = 0.99
    straight, shuffled = (EdgeDeepSort(embedder=None, **arguments) for _ in range(2))
    twin: dict[int, int] = {}
    for ltwh, features in frames:
        order = rng.permutation(len(ltwh))
        confidence, classes = np.linspace(0.5, 0.9, len(ltwh)), np.arange(len(ltwh)) % 2
        first = straight.update(ltwh, confidence, classes, None if by_motion else features)
        second = shuffled.update(ltwh[order], confidence[order], classes[order], None if by_motion else features[order])
        assert len(first) == len(second)
        place = {int(order[d]) if d >= 0 else -1 - k: k for k, d in enumerate(second.detection.tolist())}
        for k, (track, detection) in enumerate(zip(first.ids.tolist(), first.detection.tolist(), strict=True)):
            if track not in twin:  # a new track: its twin is the one that started at the same detection
                twin[track] = int(second.ids[place[detection]])
            other = second.ids.tolist().index(twin[track])
            assert (int(order[second.detection[other]]) if second.detection[other] >= 0 else -1) == detection
            np.testing.assert_allclose(first.ltrb[k], second.ltrb[other], atol=1e-6)
            assert first.confirmed[k] == second.confirmed[other]
            assert first.time_since_update[k] == second.time_since_update[other]
    assert len(set(twin.values())) == len(twin)


@more
@given(scenes(), ARGUMENTS, st.integers(0, 15), st.booleans())
def test_a_saved_state_changes_nothing(frames: Frames, arguments: dict, at: int, by_motion: bool) -> None:
    tracker = EdgeDeepSort(embedder=None, **arguments)
    resumed: EdgeDeepSort | None = None
    for k, (ltwh, features) in enumerate(frames):
        if k == at % len(frames):
            resumed = EdgeDeepSort(embedder=None, **arguments)
            resumed.load_state_dict(tracker.state_dict())
            assert values_of(resumed.tracker.tracks) == values_of(tracker.tracker.tracks)
        if by_motion:
            tracker.update(ltwh)
            if resumed is not None:
                resumed.update(ltwh)
        else:
            tracks = tracker.update_tracks(raw(ltwh), embeds=features)
            if resumed is not None:
                assert values_of(resumed.update_tracks(raw(ltwh), embeds=features)) == values_of(tracks)
        if resumed is not None:
            assert_same_state(resumed.state_dict(), tracker.state_dict())


@more
@given(scenes(), ARGUMENTS)
def test_arrays_and_objects_are_the_same_tracks(frames: Frames, arguments: dict) -> None:
    objects, arrays = (EdgeDeepSort(embedder=None, **arguments) for _ in range(2))
    for ltwh, features in frames:
        listed = [(box, 0.9, k % 2) for k, box in enumerate(ltwh.tolist())]
        tracks = objects.update_tracks(listed, embeds=features)
        out = arrays.update(ltwh, np.full(len(ltwh), 0.9), np.arange(len(ltwh)) % 2, features)
        assert [track.track_id for track in tracks] == [str(k) for k in out.ids]
        np.testing.assert_array_equal([track.to_ltrb() for track in tracks] or np.empty((0, 4)), out.ltrb)
        assert [track.get_det_class() for track in tracks] == out.class_ids.tolist()
        assert [track.is_confirmed() for track in tracks] == out.confirmed.tolist()
        assert_same_state(arrays.state_dict(), objects.state_dict())
