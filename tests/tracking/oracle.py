"""deep-sort-realtime as the oracle of exactness, and the comparison with it, frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort

deepsort_tracker = pytest.importorskip("deep_sort_realtime.deepsort_tracker")


def make_oracle(**arguments: Any) -> Any:
    """A `DeepSort` of the reference in which a feature enters the gallery once.

    Version 1.3.2 keeps a track's last feature and adds it again with the next one. A metric that leaves out the first
    feature of every target it knows already undoes exactly that.
    """
    oracle = deepsort_tracker.DeepSort(embedder=None, **arguments)
    metric = oracle.tracker.metric
    add = metric.partial_fit

    def add_once(features: np.ndarray, targets: np.ndarray, active: list[str]) -> None:
        features, targets = list(features), list(targets)
        known, keep = set(metric.samples), []
        for k, target in enumerate(targets):
            if target in known:
                known.discard(target)
            else:
                keep.append(k)
        add([features[k] for k in keep], [targets[k] for k in keep], active)

    metric.partial_fit = add_once
    return oracle


def exact_ltrb(track: Any) -> np.ndarray:
    """The box of a track of the reference, which computes it in float32 until its first predict step."""
    x, y, aspect, height = track.mean[:4].astype(np.float64)
    width = aspect * height
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


class Parity:
    """Runs both trackers side by side; ids must correspond one to one over the whole run.

    Args:
        arguments: constructor arguments for both.
    """

    def __init__(self, **arguments: Any) -> None:
        arguments.setdefault("nn_budget", None)
        self.oracle = make_oracle(**arguments)
        self.edge = EdgeDeepSort(embedder=None, **arguments)
        self.ours_of: dict[str, str] = {}  # the oracle's id -> ours
        self.frames = 0

    def update(self, raw: list[Any], embeds: list[np.ndarray] | np.ndarray) -> None:
        """One frame through both, compared."""
        theirs = self.oracle.update_tracks(list(raw), embeds=list(embeds))
        ours = self.edge.update_tracks(raw, embeds=embeds)
        self.frames += 1
        assert len(ours) == len(theirs), f"frame {self.frames}: {len(ours)} tracks, the reference has {len(theirs)}"
        by_id = {track.track_id: track for track in ours}
        assert len(by_id) == len(ours)
        known = {self.ours_of[t.track_id] for t in theirs if t.track_id in self.ours_of}
        new = [track for track in ours if track.track_id not in known]
        for track in theirs:
            if track.track_id not in self.ours_of:
                # New tracks are paired by their box; their ids are arbitrary in the reference.
                box = exact_ltrb(track)
                twin = min(new, key=lambda t, box=box: np.abs(t.to_ltrb() - box).max())
                assert twin.track_id not in self.ours_of.values(), f"frame {self.frames}: an id has two counterparts"
                self.ours_of[track.track_id] = twin.track_id
                new.remove(twin)
            twin_id = self.ours_of[track.track_id]
            assert twin_id in by_id, f"frame {self.frames}: track {twin_id} is gone, the reference still has it"
            self._compare(by_id[twin_id], track)
        ages = [track.age for track in ours]
        assert ages == sorted(ages, reverse=True), f"frame {self.frames}: not in the order in which they started"

    def _compare(self, ours: Any, theirs: Any) -> None:
        where = f"frame {self.frames}, track {ours.track_id}"
        assert ours.state == theirs.state, where
        assert (ours.age, ours.hits, ours.time_since_update) == (
            theirs.age,
            theirs.hits,
            theirs.time_since_update,
        ), where
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=0, atol=1e-6, err_msg=where)
        if theirs.mean[2] > 0 and theirs.mean[3] > 0:  # else the reference's box has a negative side
            np.testing.assert_allclose(ours.to_ltrb(), exact_ltrb(theirs), rtol=0, atol=1e-6, err_msg=where)
        assert ours.get_det_conf() == theirs.get_det_conf(), where
        assert ours.get_det_class() == theirs.get_det_class(), where
        original, expected = ours.to_ltwh(orig=True, orig_strict=True), theirs.to_ltwh(orig=True, orig_strict=True)
        assert (original is None) == (expected is None), where
        if original is not None:
            np.testing.assert_array_equal(original, expected)
        np.testing.assert_allclose(ours.get_feature(), theirs.get_feature(), rtol=1e-5, atol=1e-6, err_msg=where)
