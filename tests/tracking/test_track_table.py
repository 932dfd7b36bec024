"""The table of tracks: how it grows, starts and deletes tracks, and is saved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.errors import InputError
from edge_tracker.tracking.deepsort.settings import DeepSortParameters
from edge_tracker.tracking.deepsort.tables import DeepSortTable
from edge_tracker.tracking.deepsort.tracker import DeepSortTracker
from edge_tracker.tracking.detections import Given
from tests.tracking.scenes import crowd, raw
from tests.tracking.states import assert_same_state


def grid(count: int) -> np.ndarray:
    """Boxes (count, 4) far from each other."""
    k = np.arange(count)
    return np.stack([k % 40 * 100.0, k // 40 * 200.0, np.full(count, 30.0), np.full(count, 60.0)], axis=1)


def step(tracker: DeepSortTracker, ltwh: np.ndarray, dimension: int = 4) -> np.ndarray:
    """One frame in which object k has the k-th of the waves as its feature."""
    m = len(ltwh)
    features = np.cos(np.outer(ltwh[:, 0] + ltwh[:, 1], np.arange(1, dimension + 1)) / 50).astype(np.float32)
    return tracker.step(Given(ltwh, np.ones(m), np.zeros(m, dtype=np.int64), features), 1.0)


def test_the_table_grows_with_its_tracks() -> None:
    tracker = DeepSortTracker()
    for count in (3, 50, 300, 2000):
        for _ in range(4):
            step(tracker, grid(count))
        assert len(tracker.table) == count
    tracks = tracker.table.tracks
    assert tracks["id"][:2000].tolist() == list(range(1, 2001))
    np.testing.assert_array_equal(tracks["ltwh"][:2000], grid(2000).astype(np.float32))
    assert (tracks["hits"][:3] == 16).all()
    assert (tracks["hits"][300:2000] == 4).all()


def test_the_others_close_up_in_order_when_tracks_are_deleted() -> None:
    tracker = DeepSortTracker(DeepSortParameters(max_age=2, nn_budget=6))
    boxes = grid(30)
    for _ in range(4):
        step(tracker, boxes)
    stay = np.setdiff1d(np.arange(30), [0, 7, 8, 29])
    for _ in range(2):
        assert len(step(tracker, boxes[stay])) == 0
    assert step(tracker, boxes[stay]).tolist() == [0, 7, 8, 29]
    table = tracker.table
    assert table.live["id"].tolist() == (stay + 1).tolist()
    assert (table.live["gallery"]["held"] == 6).all()
    # The deleted lie at the far end, the first of them last, until the next frame.
    capacity = len(table.tracks)
    deleted = table.copy_rows(capacity - 1 - np.arange(4))
    assert deleted.live["id"].tolist() == [1, 8, 9, 30]
    assert len(deleted) == 4
    # Their room is used again: after a while nothing grows.
    for frame in range(80):
        step(tracker, boxes[stay[::2]])
        step(tracker, boxes)
        if frame == 20:
            blocks = len(table.gallery.blocks)
    assert len(table.tracks) == capacity
    assert len(table.gallery.blocks) == blocks


def test_all_may_be_deleted_at_once_while_as_many_start() -> None:
    tracker = DeepSortTracker(DeepSortParameters(max_age=0))
    for shift in range(6):
        ended = step(tracker, grid(100) + np.array([shift * 1e5, 0, 0, 0]))
        assert ended.tolist() == list(range(100 if shift else 0))
        assert len(tracker.table) == 100
        ids = tracker.table.live["id"]
        assert ids.tolist() == list(range(100 * shift + 1, 100 * shift + 101))


def test_rows_taken_out_keep_their_values_and_latest_features() -> None:
    tracker = DeepSortTracker()
    for _ in range(20):
        step(tracker, grid(5))
    table = tracker.table
    taken = table.copy_rows(np.array([3, 1]))
    for k, row in enumerate((3, 1)):
        np.testing.assert_array_equal(taken.tracks["mean"][k], table.tracks["mean"][row])
        np.testing.assert_allclose(taken.latest_feature(k), table.latest_feature(row), rtol=1e-6)
    before = taken.tracks["mean"].copy()
    step(tracker, grid(5) + 3)
    np.testing.assert_array_equal(taken.tracks["mean"], before)


def saved(budget: int | None = 40, frames: int = 60) -> dict[str, np.ndarray]:
    """The state of a tracker that has seen a crowd."""
    tracker = EdgeDeepSort(embedder=None, nn_budget=budget, max_age=5)
    for ltwh, features, _ in crowd(6, frames, 4, seed=1, seen=0.8, unit=False):
        tracker.update_tracks(raw(ltwh), embeds=features)
    return tracker.state_dict()


def test_what_is_loaded_is_what_was_saved() -> None:
    state = saved()
    assert (state["features"] > 16).any(), "no gallery spans blocks"
    table = DeepSortTable()
    table.load_state_dict(state, 40)
    again = table.state_dict()
    assert_same_state(again, {name: state[name] for name in again})


def test_a_smaller_budget_loads_the_newest_rows() -> None:
    state = saved()
    table = DeepSortTable()
    table.load_state_dict(state, 5)
    again = table.state_dict()
    assert again["features"].tolist() == np.minimum(state["features"], 5).tolist()
    ends = state["features"].cumsum()
    newest = np.concatenate(
        [np.arange(max(end - 5, end - held), end) for end, held in zip(ends, state["features"], strict=True)]
    )
    np.testing.assert_array_equal(again["gallery_unit"], state["gallery_unit"][newest])
    np.testing.assert_array_equal(again["gallery_norm"], state["gallery_norm"][newest])


def put(name: str, value: object, index: object = ...) -> Callable[[dict], None]:
    """A change to one number of a state."""

    def change(state: dict) -> None:
        state[name] = state[name].copy()
        state[name][index] = value

    return change


CORRUPTIONS: dict[str, Callable[[dict], object]] = {
    "nothing": lambda state: state.clear(),
    "no counters": lambda state: state.pop("counters"),
    "no galleries": lambda state: state.pop("gallery_unit"),
    "not an array": lambda state: state.update(mean=state["mean"].tolist()),
    "another shape": lambda state: state.update(mean=state["mean"][:, :7]),
    "another type": lambda state: state.update(mean=state["mean"].astype(np.float32)),
    "fewer rows": lambda state: state.update(hits=state["hits"][:-1]),
    "fewer features": lambda state: state.update(gallery_unit=state["gallery_unit"][:-1]),
    "objects": lambda state: state.update(hits=state["hits"].astype(object)),
    "more tracks than rows": put("counters", 10**15, 0),
    "less than no tracks": put("counters", -1, 0),
    "an id twice": put("id", 1),
    "an id still to come": put("counters", 1, 1),
    "no state": put("state", 7, 0),
    "a deleted track": put("state", 3, 0),
    "NaN mean": put("mean", np.nan, (0, 2)),
    "infinite covariance": put("covariance", np.inf, 0),
    "NaN age": put("age", np.nan, 0),
    "NaN feature": put("gallery_unit", np.nan, 3),
    "feature without length": put("gallery_norm", 0, 0),
    "feature of NaN length": put("gallery_norm", np.nan, 0),
    "more held than there is": put("features", 2**30, 0),
    "less held than nothing": put("features", [-1, 200], slice(2)),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_an_impossible_state_is_refused_and_changes_nothing(what: str) -> None:
    state = saved(frames=25)
    CORRUPTIONS[what](state)
    tracker = EdgeDeepSort(embedder=None)
    for _ in range(5):
        tracks = tracker.update_tracks([([5, 5, 20, 40], 0.9, "cat")], embeds=[[1.0, 0.5]])
    before = tracker.state_dict()
    with pytest.raises(InputError, match="state"):
        tracker.load_state_dict(state)
    assert_same_state(tracker.state_dict(), before)
    assert tracker.tracker.tracks == tracks
