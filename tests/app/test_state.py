"""A camera's state on disk: whole or not there, its age by the right clock, and identities that go on."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.app.run import state as module
from edge_tracker.app.run.state import CameraState, StateSaver, load, save, state_path

META = {"frames": 7, "tracks": 2, "next_id": 5, "reported": [1], "names": ["person"], "zones": {}, "events": {}}


def tracked(method, frames=6):
    tracker = EdgeDeepSort(embedder=None, method=method)
    for i in range(frames):
        tracker.update(np.array([[10.0 + i, 20, 30, 60], [200, 20, 30, 60]]), np.array([0.9, 0.95]))
    return tracker


@pytest.mark.parametrize("method", ["edge", "deepsort"])
def test_identities_go_on(tmp_path, method):
    tracker = tracked(method)
    save(tmp_path / "a.npz", CameraState(tracker.state_dict(), META))
    read = load(tmp_path / "a.npz")
    assert {key: read.meta[key] for key in META} == META
    assert 0 <= read.age < 60
    assert not read.clean
    again = EdgeDeepSort(embedder=None, method=method)
    again.load_state_dict(read.tracker)
    boxes = np.array([[16.0, 20, 30, 60], [200, 20, 30, 60]])
    expected, got = (each.update(boxes, np.array([0.9, 0.9])) for each in (tracker, again))
    assert got.ids.tolist() == expected.ids.tolist() == [1, 2]
    assert np.array_equal(got.ltrb, expected.ltrb)


def test_skipped_identities_are_not_given(tmp_path):
    tracker = tracked("deepsort")
    tracker.skip_ids(1000)
    boxes = np.array([[16.0, 20, 30, 60], [200, 20, 30, 60], [400, 20, 30, 60]])
    assert tracker.update(boxes, np.full(3, 0.9)).ids.tolist() == [1, 2, 1003]


@pytest.mark.parametrize("method", ["edge", "deepsort"])
def test_predicted_boxes_are_those_of_the_next_update_and_change_nothing(method):
    tracker, twin = tracked(method), tracked(method)
    before = tracker.state_dict()
    ahead = tracker.predicted(3.0)
    after = tracker.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    missed = twin.update(np.zeros((0, 4)), np.zeros(0), dt=3.0)
    both = np.isin(ahead.ids, missed.ids)
    assert both.any()
    np.testing.assert_allclose(ahead.ltrb[both], missed.ltrb, atol=0.5)


@pytest.mark.parametrize("method", ["edge", "deepsort"])
def test_a_track_is_not_predicted_for_longer_than_it_lives(method):
    tracker = tracked(method)
    most = tracker.tracker.core.max_age
    assert len(tracker.predicted(most)) == len(tracker.predicted(1.0)) > 0
    assert len(tracker.predicted(most + 1)) == 0
    ahead = tracker.predicted(2.0)
    assert (ahead.time_since_update >= 2).all()


def test_no_state_and_damaged_ones_are_no_state(tmp_path, caplog):
    path = tmp_path / "a.npz"
    assert load(path) is None
    assert not caplog.text
    save(path, CameraState(tracked("edge").state_dict(), META))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for content in (b"", b"nonsense", whole[: len(whole) // 2], rng.bytes(1000), whole[:-10]):
        path.write_bytes(content)
        caplog.clear()
        assert load(path) is None
        assert "identities start from 1 again" in caplog.text
    for meta in ({}, {"version": 99}, [], "x", {"version": 1}):
        np.savez(path, meta=np.array(json.dumps(meta)))
        assert load(path) is None
    np.savez(path, meta=np.array([{"a": 1}], dtype=object))  # pickled: never loaded
    assert load(path) is None


def test_the_age_is_by_the_clock_that_only_runs_forward(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save(path, CameraState({}, META))
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the wall clock was set back by decades
    assert 0 <= load(path).age < 60
    monkeypatch.setattr(module, "_boot_id", lambda: "another boot")
    assert load(path).age is None
    saved = json.loads(str(np.load(path)["meta"]))["saved"]
    monkeypatch.setattr(time, "time", lambda: saved + 30)
    assert load(path).age == pytest.approx(30)


def test_the_saver_writes_the_newest_and_survives_a_full_disk(tmp_path, monkeypatch, caplog):
    saver, path = StateSaver(), tmp_path / "deep" / "a.npz"
    for frames in range(50):
        saver.put(path, CameraState({}, {**META, "frames": frames}))
    saver.put(path, CameraState({}, {**META, "frames": 50}, clean=True))
    saver.close(30)
    assert load(path).meta["frames"] == 50
    assert load(path).clean, "what is saved at the end is not written over by what waited before it"

    def full(*arguments):
        raise OSError(28, "No space left on device")

    failing = StateSaver()
    monkeypatch.setattr(module, "save", full)
    failing.write(path, CameraState({}, META))
    failing.write(path, CameraState({}, META))
    assert caplog.text.count("No space left on device") == 1
    assert load(path).meta["frames"] == 50, "the one before stays"
    failing.close(30)


def test_where_it_is_kept(tmp_path):
    assert state_path(str(tmp_path), "door") == tmp_path / "door.npz"
    assert state_path(None, "door").name == "door.npz"
