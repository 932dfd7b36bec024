"""Galleries against a plain model of them, and distances against NumPy."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_tracker import EdgeDeepSort
from edge_tracker.tracking.deepsort.tables import DeepSortTable
from edge_tracker.tracking.gallery import BLOCK_ROWS, NO_ROW, clear, feature_norm, release, rows_of, smallest_distance
from tests.tracking.oracle import Parity
from tests.tracking.scenes import crowd, raw

TRACKS = 4


class Galleries:
    """Some galleries in one pool, beside queues of plain Python that must hold the same."""

    def __init__(self, budget: int | None, dimension: int = 3) -> None:
        self.table = DeepSortTable(capacity=TRACKS)
        self.budget = budget
        self.model: list[deque] = [deque(maxlen=budget) for _ in range(TRACKS)]
        self.rng = np.random.default_rng(0)
        self.dimension = dimension

    def add(self, track: int) -> None:
        feature = self.rng.normal(size=self.dimension).astype(np.float32) * 3
        self.table.add_feature(track, feature, self.budget or 0)
        self.model[track].append(feature)

    def drop(self, track: int) -> None:
        release(self.table.gallery, self.queue(track))
        clear(self.queue(track))
        self.model[track].clear()

    def queue(self, track: int) -> np.void:
        return self.table.tracks[track]["gallery"]

    def places(self, track: int) -> list[int]:
        return rows_of(self.table.gallery, self.queue(track))

    def check(self) -> None:
        gallery = self.table.gallery
        taken: list[int] = []
        for track, expected in enumerate(self.model):
            places, queue = self.places(track), self.queue(track)
            assert len(places) == len(expected)
            assert (queue["newest"] == NO_ROW) == (not expected)
            if expected:
                assert places[0] == queue["oldest"]
                assert places[-1] == queue["newest"]
                held = gallery.unit[places] * gallery.norm[places, None]
                np.testing.assert_allclose(held, np.array(expected), rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(np.linalg.norm(gallery.unit[places], axis=1), 1, rtol=1e-6)
                np.testing.assert_array_equal(self.table.latest_feature(track), held[-1])
            taken += sorted({place // BLOCK_ROWS for place in places})
        assert len(taken) == len(set(taken)), "two tracks share a block"
        free, block = [], gallery.free[0]["first"]
        for _ in range(gallery.free[0]["count"]):
            free.append(int(block))
            block = gallery.blocks[block]["newer"]
        assert sorted(free + taken) == list(range(len(gallery.blocks))), "a block is lost, or both free and taken"


@settings(max_examples=60)
@given(
    budget=st.one_of(st.none(), st.integers(1, 40)),
    actions=st.lists(
        st.tuples(st.sampled_from(["add", "add", "add", "drop"]), st.integers(0, TRACKS - 1), st.integers(1, 30)),
        max_size=40,
    ),
)
def test_galleries_are_queues(budget: int | None, actions: list[tuple[str, int, int]]) -> None:
    galleries = Galleries(budget)
    for action, track, times in actions:
        if action == "add":
            for _ in range(times):
                galleries.add(track)
        else:
            galleries.drop(track)
        galleries.check()


def test_the_pool_grows_with_what_is_held_and_no_further() -> None:
    galleries = Galleries(budget=None)
    for _ in range(20 * BLOCK_ROWS):
        galleries.add(0)
        galleries.add(1)
    galleries.check()
    blocks = len(galleries.table.gallery.blocks)
    assert 40 <= blocks <= 128
    for _ in range(50):  # what is given back serves again
        galleries.drop(1)
        for _ in range(20 * BLOCK_ROWS):
            galleries.add(1)
    galleries.check()
    assert len(galleries.table.gallery.blocks) == blocks


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), held=st.integers(0, 40), length=st.sampled_from([1e-3, 1.0, 50.0]))
def test_smallest_distance(seed: int, held: int, length: float) -> None:
    rng = np.random.default_rng(seed)
    galleries = Galleries(budget=None, dimension=9)
    for _ in range(held):
        galleries.add(0)
    feature = (rng.normal(size=(1, 9)) * length).astype(np.float32)
    norm = feature_norm(feature, 0)
    gallery, queue = galleries.table.gallery, galleries.queue(0)
    held_features = np.array(galleries.model[0]).reshape(-1, 9).astype(np.float64)
    true = 1 - held_features @ feature[0] / (np.linalg.norm(held_features, axis=1) * np.linalg.norm(feature[0]))

    found = smallest_distance(gallery, queue, queue["held"], feature, 0, norm, -np.inf)
    np.testing.assert_allclose(found, true.min(initial=np.inf), atol=1e-6)
    # Newest first: "enough" stops at the first row that is near enough.
    enough = 0.7
    found = smallest_distance(gallery, queue, queue["held"], feature, 0, norm, enough)
    near = np.flatnonzero(true[::-1] <= enough)
    np.testing.assert_allclose(found, true[::-1][near[0]] if len(near) else true.min(initial=np.inf), atol=1e-6)


@pytest.mark.parametrize("length", [0, 1e-41, 1e-35])
def test_a_feature_of_no_length_is_at_distance_one_of_everything(length: float) -> None:
    galleries = Galleries(budget=None)
    galleries.add(0)
    nothing = np.full((1, 3), length, dtype=np.float32)
    assert feature_norm(nothing, 0) == 0
    assert smallest_distance(galleries.table.gallery, galleries.queue(0), 1, nothing, 0, 0.0, -np.inf) == 1


@pytest.mark.parametrize("length", [1e-29, 1e-10, 1e10, 1e30, 3e38])
def test_features_of_any_length_keep_their_direction(length: float) -> None:
    features = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]) * length
    features = features.astype(np.float32)
    assert feature_norm(features, 0) == pytest.approx(length, rel=1e-3)
    table = DeepSortTable(capacity=1)
    table.add_feature(0, features[0], 5)
    queue = table.tracks[0]["gallery"]
    np.testing.assert_allclose(table.gallery.unit[queue["newest"]], [0.6, 0, 0.8], atol=1e-3)
    np.testing.assert_allclose(table.latest_feature(0), features[0], rtol=1e-2)
    for k, expected in enumerate([0, 1]):
        norm = feature_norm(features, k)
        found = smallest_distance(table.gallery, queue, queue["held"], features, k, norm, -np.inf)
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_length_that_is_no_number_is_seen(bad: float) -> None:
    features = np.full((2, 17), 0.5, dtype=np.float32)
    features[1, 5:7] = bad  # of two of 3e38 float32 cannot hold the length
    assert not np.isfinite(feature_norm(features, 1))
    assert np.isfinite(feature_norm(features, 0))


@pytest.mark.parametrize("budget", [None, 3, 17, 40])
def test_a_feature_enters_the_gallery_once(budget: int | None) -> None:
    tracker = EdgeDeepSort(embedder=None, nn_budget=budget)
    for frame in range(60):
        (track,) = tracker.update_tracks([([0, 0, 10, 20], 0.9, "a")], embeds=[[1.0, frame, 0.0]])
        state = tracker.state_dict()
        held = (state["gallery_unit"] * state["gallery_norm"][:, None])[:, 1]
        expected = np.arange(frame + 1)[-(budget or 1000) :]
        np.testing.assert_allclose(held, expected, rtol=1e-5)
        np.testing.assert_allclose(track.get_feature(), [1, frame, 0], rtol=1e-5)


def test_the_gallery_of_a_deleted_track_is_dropped() -> None:
    tracker = EdgeDeepSort(embedder=None, max_age=3, nn_budget=None)
    for _ in range(50):
        tracker.update_tracks([([0, 0, 10, 20], 0.9, "a")], embeds=[[1.0, 0.0]])
    gallery = tracker.tracker.table.gallery
    assert gallery.free[0]["count"] < len(gallery.blocks)
    for _ in range(5):
        tracker.update_tracks([], embeds=[])
    assert tracker.tracker.tracks == []
    assert gallery.free[0]["count"] == len(gallery.blocks)
    assert tracker.state_dict()["gallery_unit"].size == 0


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_same_tracks_where_all_compete_for_all(noise: float) -> None:
    """A crowd that stands in one spot: each detection is in every track's gate, and resembles many."""
    parity = Parity(max_cosine_distance=0.9, nn_budget=6, max_age=8)
    for ltwh, features, _ in crowd(12, 25, 5, seed=2, width=40, height=30, noise=noise, jitter=0.05, unit=False):
        parity.update(raw(ltwh), features)
    assert len(parity.ours_of) > 10
