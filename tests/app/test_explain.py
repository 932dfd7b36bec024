"""The explanations of `replay --explain`, compared with the tracker's results and with SciPy."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cosine, mahalanobis

from edge_tracker.app.replay.explain import Explainer, Explanation
from edge_tracker.app.replay.replaying import RecordedFrame, Recording, Replay
from edge_tracker.errors import InputError
from edge_tracker.track_arrays import TrackArrays
from edge_tracker.tracking.edge.settings import EdgeSettings
from tests.app.recorded import record

FRAMES = 250
UNACCOUNTED = "do not account"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, shared_data: Path) -> dict[str, Path]:
    """The same frames recorded by both methods, with and without appearance."""
    folders = {}
    for method in ("edge", "deepsort"):
        for appearance in (True, False):
            name = method + ("" if appearance else "-motion")
            folders[name] = tmp_path_factory.mktemp(name)
            record(folders[name], shared_data, method=method, count=FRAMES, appearance=appearance)
    return folders


def replayed(folder: Path, until: int = 10**9) -> Replay:
    """A replay that has gone through the frames up to one."""
    replay = Replay(Recording(folder))
    for frame in replay.recording:
        if frame.index > until:
            break
        replay.prepare(frame)
        replay.advance(frame)
    return replay


def explain(folder: Path, track: int, *frames: int, overrides=()) -> list[Explanation]:
    steps = list(Explainer(Replay(Recording(folder), overrides), track, *frames))
    return [explanation for _, _, explanation in steps if explanation is not None]


def ids_of(folder: Path) -> list[int]:
    return sorted({int(number) for frame in Recording(folder) for number in frame.tracks["ids"]})


@cache
def everything(folder: Path) -> dict[tuple[int, int], tuple[RecordedFrame, TrackArrays, Explanation]]:
    """The explanations of all tracks by frame and track."""
    said = {}
    for track in ids_of(folder):
        for frame, tracks, explanation in Explainer(Replay(Recording(folder)), track):
            if explanation is not None:
                said[frame.index, track] = frame, tracks, explanation
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edge", "edge-motion", "deepsort", "deepsort-motion"])
def test_every_frame_of_every_track_is_accounted_for(recordings, name: str) -> None:
    said = everything(recordings[name])
    frames = list(Recording(recordings[name]))
    live = {(frame.index, int(number)) for frame in frames for number in frame.tracks["ids"]}
    assert {key for key, (_, _, e) in said.items() if e.event != "ended"} == live
    for (index, track), (frame, tracks, e) in said.items():
        assert (e.frame, e.track) == (index, track)
        assert not any(UNACCOUNTED in note for note in e.notes), str(e)
        assert "\n" not in e.to_json()
        back = json.loads(e.to_json())
        assert back["candidates"] == [vars(candidate) for candidate in e.candidates]
        (row,) = np.flatnonzero(tracks.ids == track) if e.event != "ended" else (None,)
        if row is None:
            assert e.box is None
            assert any(note.startswith("ended: ") for note in e.notes)
            continue
        assert e.detection == (int(tracks.detection[row]) if tracks.detection[row] >= 0 else None)
        assert (e.event == "missed") == (e.detection is None)
        if e.event == "matched":
            (own,) = [c for c in e.candidates if c.detection == e.detection]
            assert "taken" in own.verdict or "got by the exchange" in own.verdict
            assert own.taken_by == track
        for c in e.candidates:
            assert c.verdict
            assert c.verdict != "not chosen", str(e)
            owners = tracks.ids[tracks.detection == c.detection].tolist()
            if c.taken_by is not None and e.event != "started":
                assert owners == [c.taken_by], str(e)
            assert c.confidence == pytest.approx(float(frame.confidence[c.detection]))
    events = {e.event for _, _, e in said.values()}
    assert events == {"started", "matched", "missed", "ended"}
    ways = {e.by for _, _, e in said.values() if e.event == "matched"}
    expected = {
        "edge": {"motion", "re-entry", "exchange"}, "edge-motion": {"motion"}, "deepsort": {"cascade", "iou"},
        "deepsort-motion": {"iou"},
    }  # fmt: skip
    assert ways >= expected[name]


def test_a_replay_goes_on_the_same_while_it_is_explained(recordings) -> None:
    for name in ("edge", "deepsort"):
        replay = Replay(Recording(recordings[name]))
        for _ in Explainer(replay, 3):
            pass
        assert replay.result.difference is None
        assert replay.result.frames == FRAMES


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two ltwh boxes."""
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def vertical_iou_of(a: np.ndarray, b: np.ndarray) -> float:
    both = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return both / (a[3] + b[3] - both)


def identity_switches(folder: Path, data: Path) -> list[tuple[int, int, int]]:
    """(frame, old id, new id) where the track on a person of the ground truth becomes another one, from one frame to
    the next, while the old one still lives."""
    truth: dict[int, list[tuple[int, np.ndarray]]] = {}
    rows = np.loadtxt(data / "mot15" / "PETS09-S2L1" / "gt" / "gt.txt", delimiter=",")
    for row in rows:
        truth.setdefault(int(row[0]), []).append((int(row[1]), row[2:6]))
    found, last = [], {}
    for frame in Recording(folder):
        shown = frame.tracks["confirmed"] & (frame.tracks["detection"] >= 0)
        boxes = frame.tracks["ltrb"][shown].copy()
        boxes[:, 2:] -= boxes[:, :2]
        ids = frame.tracks["ids"][shown].tolist()
        for person, box in truth.get(frame.index, []):
            overlaps = [iou_of(box, other) for other in boxes]
            if not overlaps or max(overlaps) < 0.5:
                continue
            now = ids[int(np.argmax(overlaps))]
            before, was = last.get(person, (0, now))
            if was != now and before == frame.index - 1 and was in frame.tracks["ids"]:
                found.append((frame.index, was, now))
            last[person] = frame.index, now
    return found


def dense_prediction(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wojke et al.'s constant-velocity model in full matrices: predicted state, and its projection's covariance."""
    motion = np.eye(8) + np.eye(8, k=4)
    h = mean[3]
    std = np.array([h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160])
    full = np.zeros((8, 8))
    for i, (p, c, v) in enumerate(covariance):
        full[i, i], full[i, i + 4], full[i + 4, i], full[i + 4, i + 4] = p, c, c, v
    predicted = motion @ mean
    full = motion @ full @ motion.T + np.diag(std**2)
    noise = np.array([predicted[3] / 20, predicted[3] / 20, 1e-1, predicted[3] / 20])
    return predicted, full[:4, :4] + np.diag(noise**2)


def test_deepsort_numbers_at_real_identity_switches_are_those_of_scipy(recordings, shared_data: Path) -> None:
    folder = recordings["deepsort"]
    switches = identity_switches(folder, shared_data)
    assert len(switches) >= 2
    compared = 0
    for index, old, new in switches[:6]:
        state = replayed(folder, index - 1).tracker.state_dict()
        frame = next(frame for frame in Recording(folder) if frame.index == index)
        ends = np.cumsum(state["features"])
        for track in (old, new):
            (e,) = explain(folder, track, index, index)
            if e.event == "started":
                continue
            row = state["id"].tolist().index(track)
            predicted, projected = dense_prediction(state["mean"][row], state["covariance"][row])
            gallery = state["gallery_unit"][ends[row] - state["features"][row] : ends[row]]
            x, y, a, h = predicted[:4]
            ltwh = np.array([x - a * h / 2, y - h / 2, a * h, h])
            assert e.predicted == pytest.approx(ltwh.tolist(), abs=1e-6)
            for c in e.candidates:
                box = frame.ltwh[c.detection].astype(np.float64)
                assert c.numbers["iou"] == pytest.approx(iou_of(ltwh, box), abs=1e-6)
                if "cosine" not in c.numbers:
                    continue
                measured = [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2] / box[3], box[3]]
                distance = mahalanobis(measured, predicted[:4], np.linalg.inv(projected)) ** 2
                assert c.numbers["mahalanobis"] == pytest.approx(distance, rel=1e-5)
                assert frame.asked.tolist()[c.detection] == c.detection
                nearest = min(cosine(known, frame.features[c.detection]) for known in gallery)
                assert c.numbers["cosine"] == pytest.approx(nearest, abs=1e-5)
                compared += 1
                allowed = distance <= 9.4877 and nearest <= 0.2
                said = ("outside the gate" in c.verdict, "appearance differs" in c.verdict)
                assert said == (distance > 9.4877, distance <= 9.4877 and nearest > 0.2)
                if c.taken_by == track:
                    assert ("cascade" in c.verdict) == allowed
    assert compared >= 8


def test_edge_numbers_and_matches_at_real_identity_switches_are_those_of_scipy(recordings, shared_data: Path) -> None:
    folder = recordings["edge-motion"]
    switches = identity_switches(folder, shared_data)
    assert switches
    for index, _, _ in switches[:4]:
        state = replayed(folder, index - 1).tracker.state_dict()
        frame = next(frame for frame in Recording(folder) if frame.index == index)
        said = {}
        for track in state["id"].tolist():
            (said[track],) = explain(folder, track, index, index)
        # All tracks are moved by their velocity, and all by the same shift of the camera.
        centres = np.array([np.add(e.predicted[:2], np.divide(e.predicted[2:], 2)) for e in said.values()])
        shift = centres - state["mean"][:, :2] - state["mean"][:, 4:6]
        np.testing.assert_allclose(shift, shift[:1].repeat(len(shift), axis=0), atol=1e-9)
        predicted, found = [np.array(e.predicted) for e in said.values()], frame.ltwh.astype(np.float64)
        similarity = np.array([[iou_of(p, box) * vertical_iou_of(p, box) for box in found] for p in predicted])
        for row, e in enumerate(said.values()):
            for c in e.candidates:
                assert c.numbers["iou"] == pytest.approx(iou_of(predicted[row], found[c.detection]), abs=1e-6)
                value = similarity[row, c.detection]
                assert c.numbers["similarity"] == pytest.approx(value, abs=1e-6)
                least = e.limits["similarity" if e.state == "confirmed" else "tentative_similarity"]
                if c.taken_by == e.track:
                    assert value > least
                elif e.since <= 1:
                    assert ("not similar enough" in c.verdict) == (value <= least)
        confirmed = [row for row, e in enumerate(said.values()) if e.state == "confirmed" and e.since <= 1]
        gains = np.maximum(similarity[confirmed] - EdgeSettings().similarity, 0)
        rows, columns = linear_sum_assignment(gains, maximize=True)
        best = {confirmed[r]: int(c) for r, c in zip(rows, columns, strict=True) if gains[r, c] > 0}
        if all(e.since <= 1 for e in said.values() if e.state == "confirmed"):
            got = {row: e.detection for row, e in enumerate(said.values()) if row in confirmed}
            assert {row: k for row, k in got.items() if k is not None} == best


@pytest.mark.slow
def test_the_appearance_at_which_a_lost_track_comes_back_is_that_of_scipy(recordings) -> None:
    folder = recordings["edge"]
    compared = 0
    for (_, track), (_, _, e) in everything(folder).items():
        if e.by == "re-entry":
            state = replayed(folder, e.frame - 1).tracker.state_dict()
            frame = next(frame for frame in Recording(folder) if frame.index == e.frame)
            ends = np.cumsum(state["features"])
            row = state["id"].tolist().index(track)
            gallery = state["gallery_unit"][ends[row] - state["features"][row] : ends[row]]
            same_sum, same_count, other_sum, other_count = state["edge_learnt"][10:14]
            same = (same_sum + 10 * 0.15) / (same_count + 10)
            other = (other_sum + 10 * 0.35) / (other_count + 10)
            place = frame.asked.tolist().index(e.detection)
            distance = min(cosine(known, frame.features[place]) for known in gallery)
            (own,) = [c for c in e.candidates if c.detection == e.detection]
            assert own.numbers["appearance"] == pytest.approx((distance - same) / max(other - same, 0.03), abs=1e-4)
            assert own.numbers["appearance"] < e.limits["appearance"]
            compared += 1
    assert compared


def mean_distance(gallery: np.ndarray, shown: list[np.ndarray]) -> float:
    """Mean over what was shown of the smallest cosine distance from the gallery."""
    return float(np.mean([min(cosine(known, one) for known in gallery) for one in shown]))


def test_the_fits_by_which_identities_are_exchanged_are_those_of_scipy(recordings) -> None:
    folder = recordings["edge"]
    said = everything(folder)
    exchanged = [(index, track) for (index, track), (_, _, e) in said.items() if e.by == "exchange"]
    assert exchanged
    for index, track in exchanged:
        _, tracks, e = said[index, track]
        (note,) = [note for note in e.notes if note.startswith("parted from track")]
        words = note.replace(":", "").replace(",", "").split()
        partner, straight, crossed = int(words[3]), float(words[5]), float(words[9])
        assert words[-5:-1] == ["identities", "exchanged", "from", "detection"]
        theirs = said[index, partner][2]
        assert (theirs.by, theirs.detection) == ("exchange", int(words[-1]))
        assert int(tracks.detection[tracks.ids == track][0]) == e.detection
        # Galleries stay as they were since they crossed; what is waiting is joined by the features of this frame.
        before, after = (replayed(folder, until).tracker.state_dict() for until in (index - 1, index))
        frame = next(frame for frame in Recording(folder) if frame.index == index)
        gallery_ends, pending_ends = np.cumsum(before["features"]), np.cumsum(before["edge_pending"])
        galleries, shown = [], []
        for one, detection in ((track, theirs.detection), (partner, e.detection)):
            row = before["id"].tolist().index(one)
            galleries.append(before["gallery_unit"][gallery_ends[row] - before["features"][row] : gallery_ends[row]])
            waiting = before["edge_pending_unit"][pending_ends[row] - before["edge_pending"][row] : pending_ends[row]]
            asked = frame.asked.tolist()
            now = [frame.features[asked.index(detection)]] if detection in asked else []
            shown.append([*waiting, *now])
        same_sum, same_count, other_sum, other_count = after["edge_learnt"][10:14]
        same, other = (same_sum + 1.5) / (same_count + 10), (other_sum + 3.5) / (other_count + 10)

        fits = np.array([[mean_distance(known, seen) for seen in shown] for known in galleries])
        fits = (fits - same) / max(other - same, 0.03)
        assert straight == pytest.approx((fits[0, 0] + fits[1, 1]) / 2, rel=0.01, abs=0.01)
        assert crossed == pytest.approx((fits[0, 1] + fits[1, 0]) / 2, rel=0.01, abs=0.01)


def test_frames_can_be_limited(recordings) -> None:
    folder = recordings["edge"]
    whole = explain(folder, 3)
    first, last = whole[2].frame, whole[6].frame
    assert [e.to_json() for e in explain(folder, 3, first, last)] == [e.to_json() for e in whole[2:7]]


def test_a_track_that_is_not_there_is_an_error(recordings) -> None:
    folder = recordings["edge"]
    with pytest.raises(InputError, match=r"--explain 9999: the recording has no such track; its ids go up to \d+"):
        explain(folder, 9999)
    end = explain(folder, 1)[-1].frame
    with pytest.raises(InputError, match="does not live in the frames"):
        explain(folder, 1, end + 1)


def test_other_settings_are_explained_as_they_are(recordings) -> None:
    e = explain(
        recordings["deepsort"], 3, overrides=["tracker.max_cosine_distance=0.05", "tracker.max_iou_distance=0.9"]
    )
    assert all(one.limits["cosine"] == 0.05 for one in e)
    assert all(one.limits["iou"] == pytest.approx(0.1) for one in e)
    assert not any(UNACCOUNTED in note for one in e for note in one.notes)


def test_the_text_names_the_frame_the_track_and_each_number(recordings) -> None:
    texts = [str(e) for e in explain(recordings["deepsort"], 5)]
    assert texts[0].startswith("frame ")
    assert "track 5 (tentative) started at detection" in texts[0]
    assert any("taken in the cascade, level 1" in text for text in texts)
    assert any("appearance differs (cosine > 0.2); taken in the IoU stage" in text for text in texts)
