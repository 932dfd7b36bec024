"""`method="edge"`: its quality on real sequences, and what must hold on any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_tracker import EdgeDeepSort, Track
from edge_tracker.errors import InputError
from edge_tracker.tracking.arrays import as_record
from edge_tracker.tracking.edge.filter import inaccuracy
from edge_tracker.tracking.edge.phases import observe_confidences
from edge_tracker.tracking.edge.settings import EdgeSettings
from edge_tracker.tracking.edge.statistics import STATISTICS
from edge_tracker.tracking.edge.tables import EDGE_DETECTION, EdgeTable
from edge_tracker.tracking.tables import CONFIRMED
from tests.tracking.scenes import crowd, raw


class FeatureLookup:
    """An embedder that returns given features: those of a scene's detections, by their boxes."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.known: dict[tuple[float, ...], np.ndarray] = {}
        self.asked: list[int] = []
        self.fails = False

    def show(self, ltwh: np.ndarray, features: np.ndarray) -> None:
        self.known = {tuple(box): feature for box, feature in zip(ltwh.tolist(), features, strict=True)}

    def embed(self, frame, ltwh, masks=None, polygons=None) -> np.ndarray:
        if self.fails and len(ltwh):
            raise RuntimeError("out of memory")
        self.asked.append(len(ltwh))
        return np.array([self.known[tuple(box)] for box in ltwh.tolist()], np.float32).reshape(-1, self.dimension)


FRAME = np.zeros((8, 8, 3), np.uint8)


def scene(seed: int = 0, objects: int = 12, frames: int = 60):
    return list(crowd(objects, frames, 16, seed=seed, width=640, height=480, occlusions=True))


def follow(tracker: EdgeDeepSort, frames, lookup: FeatureLookup | None = None, appearance: bool = True) -> list[tuple]:
    """The tracker's results for each frame: ids, boxes and detections of the tracks that were seen."""
    reported = []
    for ltwh, features, _ in frames:
        if lookup is not None:
            lookup.show(ltwh, features)
        given = features if appearance and lookup is None else None
        tracks = tracker.update(ltwh, np.full(len(ltwh), 0.95), features=given, frame=FRAME)
        seen = tracks[tracks.confirmed & (tracks.detection >= 0)]
        reported.append((seen.ids, seen.ltrb, seen.detection))
    return reported


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(i, j) for x, y in zip(a, b, strict=True) for i, j in zip(x, y, strict=True)
    )


@pytest.mark.slow
def test_motion_reaches_its_aim_on_the_real_sequences(shared_data: Path) -> None:
    """The figures are HOTA 44.2, IDF1 60.6, MOTA 51.4 and 214 switches; the aims are for the mean under jitter."""
    pytest.importorskip("trackeval")
    from benchmarks.quality import evaluate, record
    from edge_tracker.app.evaluation.evaluation import find_sequences

    recordings = [record(sequence, None) for sequence in find_sequences(shared_data / "mot15")]
    scores, _ = evaluate(recordings, method="edge")
    assert scores.overall["HOTA"] >= 43.8
    assert scores.overall["IDF1"] >= 59.5
    assert scores.overall["MOTA"] >= 51.0
    assert scores.overall["IDSW"] <= 235
    exact, _ = evaluate(recordings)
    for name, result in scores.sequences.items():
        assert result.scores["HOTA"] >= exact.sequences[name].scores["HOTA"] - 1, name


@pytest.mark.slow
def test_appearance_reaches_its_aim_on_a_real_video(shared_data: Path, engines: Path) -> None:
    """The shorter of the two videos, with MobileNetV2: HOTA 55 with all detections embedded, or a fifth."""
    pytest.importorskip("trackeval")
    from benchmarks.quality import evaluate, record
    from edge_tracker.app.evaluation.evaluation import find_sequences

    sequences = find_sequences(shared_data / "mot15", ["TUD-Stadtmitte"])
    recordings = [record(sequence, str(engines / "mobilenetv2.onnx")) for sequence in sequences]
    everything, _ = evaluate(recordings, method="edge")
    part, share = evaluate(recordings, selective=True, method="edge")
    exact, _ = evaluate(recordings)
    assert share <= 0.3
    assert part.overall["HOTA"] >= everything.overall["HOTA"] - 1.0
    assert part.overall["IDF1"] >= 76
    assert part.overall["HOTA"] >= exact.overall["HOTA"] + 2


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), appearance=st.booleans(), aware=st.booleans(), dt=st.sampled_from([0.5, 1.0, 3.0]))
def test_what_is_reported_makes_sense(seed: int, appearance: bool, aware: bool, dt: float) -> None:
    tracker = EdgeDeepSort(method="edge", embedder=None, class_aware=aware)
    rng = np.random.default_rng(seed)
    for ltwh, features, who in scene(seed, objects=9, frames=25):
        if rng.random() < 0.1:
            ltwh, features, who = ltwh[:0], features[:0], who[:0]
        tracks = tracker.update(ltwh, rng.uniform(0.2, 1, len(ltwh)), who % 2, features if appearance else None, dt=dt)
        assert len(set(tracks.ids.tolist())) == len(tracks)
        assert (np.diff(tracks.ids) > 0).all(), "in the order in which they started"
        assert np.isfinite(tracks.ltrb).all()
        assert (tracks.ltrb[:, 2:] > tracks.ltrb[:, :2]).all()
        matched = tracks.detection[tracks.detection >= 0]
        assert len(set(matched.tolist())) == len(matched)
        assert ((tracks.time_since_update == 0) == (tracks.detection >= 0)).all()
        assert (tracks.class_ids[tracks.detection >= 0] == who[matched] % 2).all()


SETTINGS = as_record({**EdgeSettings()._asdict(), "class_aware": False})


def observe(table: EdgeTable, match: list[int], confidence: np.ndarray) -> None:
    """A frame in which confirmed tracks have these detections."""
    table.reserve(len(match))
    table.tables.counts[0]["live"] = len(match)
    table.live["state"], table.live["match"] = CONFIRMED, match
    detections = np.zeros(len(confidence), dtype=EDGE_DETECTION)
    detections["confidence"] = confidence
    observe_confidences(table.tables, detections)


@pytest.mark.parametrize("usual", [0.4, 0.7, 0.95])
def test_a_hesitant_detector_is_believed_as_one_that_is_sure(usual: float) -> None:
    """Confidence counts relative to the usual one: a detection of the usual confidence has the usual weight."""
    table = EdgeTable(SETTINGS)
    for _ in range(500):
        observe(table, [0, 1, 2, 3], np.full(4, usual))

    def off(confidence: float) -> float:
        return inaccuracy(table.statistics, confidence, SETTINGS)

    assert off(usual) == pytest.approx(1, abs=0.05)
    assert off(usual + 0.04) < off(usual) < off(0.3)
    assert off(np.nan) == off(1.0), "unknown is sure"


def test_the_order_in_which_tracks_started_does_not_change_the_statistics() -> None:
    confidence = np.array([0.95, 0.5, 0.3, 0.8, 0.6])
    one, two = EdgeTable(SETTINGS), EdgeTable(SETTINGS)
    for _ in range(3):
        observe(one, [0, 1, 2, 3, 4], confidence)
        observe(two, [3, 0, 4, 2, 1], confidence)
    np.testing.assert_allclose(
        one.tables.statistics.view(np.float64), two.tables.statistics.view(np.float64), rtol=1e-12
    )
    assert one.statistics["confidence"]["count"] > 10


def test_confidences_are_observed_of_confirmed_tracks_alone() -> None:
    tracker = EdgeDeepSort(method="edge", embedder=None, edge_settings=EdgeSettings(low=0.1))
    boxes = np.array([[10.0, 10.0, 20.0, 50.0]])
    counts = []
    for _ in range(20):
        tracks = tracker.update(boxes, np.array([0.5]))
        counts.append(
            (bool(tracks.confirmed[0]), tracker.state_dict()["edge_learnt"].view(STATISTICS)[0]["confidence"]["count"])
        )
    learning = [count for confirmed, count in counts if confirmed]
    assert all(count == 0 for confirmed, count in counts if not confirmed)
    assert len(learning) > 5
    assert (np.diff(learning) > 0).all()


@pytest.mark.parametrize("appearance", [True, False])
def test_the_order_of_detections_changes_nothing_but_numbers(appearance: bool) -> None:
    frames = scene(3)
    rng = np.random.default_rng(1)
    orders = [rng.permutation(len(ltwh)) for ltwh, _, _ in frames]
    shuffled = [(b[o], f[o], w[o]) for (b, f, w), o in zip(frames, orders, strict=True)]
    new = {"method": "edge", "embedder": None}
    one = follow(EdgeDeepSort(**new), frames, appearance=appearance)
    two = follow(EdgeDeepSort(**new), shuffled, appearance=appearance)
    number: dict[int, int] = {}
    for (ids, _, det), (other_ids, _, other_det), order in zip(one, two, orders, strict=True):
        here = dict(zip(det.tolist(), ids.tolist(), strict=True))
        there = dict(zip(order[other_det].tolist(), other_ids.tolist(), strict=True))
        assert here.keys() == there.keys()
        for detection, i in here.items():
            assert number.setdefault(i, there[detection]) == there[detection]


@pytest.mark.parametrize("appearance", [True, False])
def test_going_on_from_a_saved_state_is_as_going_on(appearance: bool, tmp_path: Path) -> None:
    frames = scene(5, objects=20, frames=80)
    tracker = EdgeDeepSort(method="edge", embedder=None, frame_rate=5)
    follow(tracker, frames[:40], appearance=appearance)
    tracker.save_state(tmp_path / "state.npz")
    other = EdgeDeepSort(method="edge", embedder=None, frame_rate=5)
    other.load_state(tmp_path / "state.npz")
    assert same(follow(tracker, frames[40:], appearance=appearance), follow(other, frames[40:], appearance=appearance))
    for name, value in tracker.state_dict().items():
        assert np.array_equal(value, other.state_dict()[name], equal_nan=value.dtype.kind == "f"), name


def test_a_state_of_the_exact_method_is_refused() -> None:
    exact = EdgeDeepSort(embedder=None)
    with pytest.raises(InputError, match="edge"):
        EdgeDeepSort(method="edge", embedder=None).load_state_dict(exact.state_dict())


def test_tracks_as_objects_are_those_of_the_arrays() -> None:
    arrays, objects = (EdgeDeepSort(method="edge", embedder=None) for _ in range(2))
    for ltwh, features, _ in scene(2):
        theirs = arrays.update(ltwh, np.full(len(ltwh), 0.9), features=features)
        ours = objects.update_tracks(raw(ltwh), features, others=list(range(len(ltwh))))
        assert [int(t.track_id) for t in ours] == theirs.ids.tolist()
        assert np.allclose([t.to_ltrb() for t in ours], theirs.ltrb)
        assert [t.is_confirmed() for t in ours] == theirs.confirmed.tolist()
        assert [-1 if t.others is None else t.others for t in ours] == theirs.detection.tolist()
    objects.delete_all_tracks()
    assert objects.update_tracks([], []) == []


@pytest.mark.parametrize("selective", [True, False])
def test_tracks_with_methods_of_their_own_are_the_same(selective: bool) -> None:
    class Mine(Track):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.first = self.to_ltwh()

        def update(self, kf, detection):
            super().update(kf, detection)
            self.box = self.to_ltwh()

    embedders = [FeatureLookup(16), FeatureLookup(16)]
    plain, mine = (
        EdgeDeepSort(method="edge", embedder=embedder if selective else None, override_track_class=kind)
        for embedder, kind in zip(embedders, (None, Mine), strict=True)
    )
    for ltwh, features, _ in scene(4):
        for embedder in embedders:
            embedder.show(ltwh, features)
        given = None if selective else features
        theirs, ours = (t.update_tracks(raw(ltwh), given, FRAME, others=list(range(len(ltwh)))) for t in (plain, mine))
        assert [t.track_id for t in ours] == [t.track_id for t in theirs]
        assert [t.others for t in ours] == [t.others for t in theirs]
        assert np.allclose([t.to_ltwh() for t in ours], [t.to_ltwh() for t in theirs], rtol=1e-6, atol=1e-4)
        for track in ours:
            if track.hits == 1:
                assert np.allclose(track.first, track.original_ltwh, rtol=1e-5)
    assert embedders[0].asked == embedders[1].asked


def test_only_a_part_is_embedded_and_no_more_than_allowed() -> None:
    frames = scene(6, objects=25, frames=100)
    everything = sum(len(ltwh) for ltwh, _, _ in frames)
    lookup = FeatureLookup(16)
    follow(EdgeDeepSort(method="edge", embedder=lookup), frames, lookup)
    assert 0 < sum(lookup.asked) < everything / 2
    few = FeatureLookup(16)
    tracker = EdgeDeepSort(method="edge", embedder=few, max_embeddings=2)
    follow(tracker, frames, few)
    assert max(few.asked) == 2
    assert tracker.embed_seconds > 0
    every = FeatureLookup(16)
    tracker = EdgeDeepSort(method="edge", embedder=every, selective=False)
    all_embedded = follow(tracker, frames, every)
    assert sum(every.asked) == everything
    assert same(all_embedded, follow(EdgeDeepSort(method="edge", embedder=None), frames))


def test_a_failing_embedder_leaves_the_tracker_as_it_was() -> None:
    frames = scene(7)
    lookup = FeatureLookup(16)
    tracker = EdgeDeepSort(method="edge", embedder=lookup, frame_rate=5)
    failed = 0
    for ltwh, features, _ in frames:
        lookup.show(ltwh, features)
        before = tracker.state_dict()
        lookup.fails = True
        try:
            tracker.update(ltwh, np.full(len(ltwh), 0.95), frame=FRAME)
        except RuntimeError:
            failed += 1
            after = tracker.state_dict()
            equal = [np.array_equal(before[k], after[k], equal_nan=after[k].dtype.kind == "f") for k in before]
            assert all(value for name, value in zip(before, equal, strict=True) if "gallery" not in name)
            lookup.fails = False
            tracker.update(ltwh, np.full(len(ltwh), 0.95), frame=FRAME)
    assert failed > 5


def test_a_returning_object_gets_its_number_back() -> None:
    """Gone for 2 s and back elsewhere: too far for motion, but with the same appearance."""

    def run(appearance: bool) -> set[int]:
        tracker = EdgeDeepSort(method="edge", embedder=None, frame_rate=10)
        feature = np.eye(8, dtype=np.float32)[:1]
        ids: set[int] = set()
        for frame in range(70):
            x = 100.0 if frame < 30 else 210.0
            boxes = np.array([[x, 50.0, 40.0, 100.0]])[: 0 if 30 <= frame < 50 else 1]
            tracks = tracker.update(
                boxes, np.full(len(boxes), 0.99), features=feature[: len(boxes)] if appearance else None
            )
            ids |= set(tracks.ids[tracks.confirmed & (tracks.detection >= 0)].tolist())
        return ids

    assert len(run(appearance=True)) == 1
    assert len(run(appearance=False)) == 2


def test_identities_that_were_swapped_in_a_crossing_are_swapped_back() -> None:
    """Two that meet and turn round: motion takes each for the other, appearance tells."""
    appearance = np.eye(2, 8, dtype=np.float32)
    owners: dict[int, set[int]] = {}
    tracker = EdgeDeepSort(method="edge", embedder=None, frame_rate=10)
    for frame in range(60):
        apart = abs(frame - 30) * 8.0 + 4.0
        boxes = np.array([[300.0 - apart, 50.0, 40.0, 100.0], [300.0 + apart, 50.0, 40.0, 100.0]])
        tracks = tracker.update(boxes, np.full(2, 0.99), features=appearance)
        seen = tracks[tracks.confirmed & (tracks.detection >= 0)]
        if frame < 25 or frame > 45:
            for i, d in zip(seen.ids.tolist(), seen.detection.tolist(), strict=True):
                owners.setdefault(d, set()).add(i)
    assert all(len(ids) == 1 for ids in owners.values()), owners


def test_a_half_rate_is_made_up_for_by_the_time_step() -> None:
    frames = scene(8)[::2]
    by_rate = follow(EdgeDeepSort(method="edge", embedder=None, frame_rate=15), frames)
    tracker = EdgeDeepSort(method="edge", embedder=None, frame_rate=30)
    for (ltwh, features, _), (ids, ltrb, detection) in zip(frames, by_rate, strict=True):
        tracks = tracker.update(ltwh, np.full(len(ltwh), 0.95), features=features, dt=2)
        seen = tracks[tracks.confirmed & (tracks.detection >= 0)]
        assert np.array_equal(seen.ids, ids)
        assert np.array_equal(seen.detection, detection)
        assert np.allclose(seen.ltrb, ltrb, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        ({"method": "edge", "max_age": 60}, "max_age=60 means nothing"),
        ({"method": "edge", "nn_budget": None}, "nn_budget=None means nothing"),
        ({"max_embeddings": 4}, "max_embeddings=4 means nothing"),
        ({"method": "best"}, "method='best': expected"),
        ({"method": "edge", "frame_rate": 0}, "frame_rate=0"),
        ({"method": "edge", "frame_rate": 1e300}, "frame_rate=1e\\+300.* at most 1e\\+06"),
        ({"method": "edge", "edge_settings": EdgeSettings(memory=1e300)}, "memory=1e\\+300"),
        ({"method": "edge", "max_embeddings": -1}, "max_embeddings=-1"),
        ({"method": "edge", "edge_settings": EdgeSettings(memory=float("nan"))}, "memory=nan"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict, blamed: str) -> None:
    with pytest.raises(InputError, match=blamed):
        EdgeDeepSort(embedder=None, **arguments)


def test_invalid_detections_are_refused_or_left_out() -> None:
    boxes = np.array([[0.0, 0.0, 10.0, 20.0], [np.nan, 0.0, 10.0, 20.0], [50.0, 0.0, 10.0, 0.0]])
    with pytest.raises(InputError, match="detection 1"):
        EdgeDeepSort(method="edge", embedder=None).update(boxes)
    tracker = EdgeDeepSort(method="edge", embedder=None, drop_invalid=True)
    tracker.update(boxes)
    assert tracker.update(boxes).detection.tolist() == [0]
    extreme = np.array([[0.0, 0.0, 1e-30, 1e30], [1e30, -1e30, 1e18, 1e-18], [0.0, 0.0, 3.0, 3.0]])
    for _ in range(4):
        assert np.isfinite(tracker.update(extreme).ltrb).all()
