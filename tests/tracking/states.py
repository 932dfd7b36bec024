"""Comparing trackers: their saved states, and the values of their tracks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def assert_same_state(state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Two `state_dict`s are equal to the bit."""
    assert set(state) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
        assert state[name].dtype == array.dtype, name


def values_of(tracks: Iterable[Any]) -> list[tuple[Any, ...]]:
    """All values that callers can read of tracks, to be compared."""
    return [
        (
            track.track_id,
            int(track.state),
            track.hits,
            track.age,
            track.time_since_update,
            track.mean.tolist(),
            track.covariance.tolist(),
            track.get_det_class(),
            track.get_det_conf(),
            None if track.get_feature() is None else track.get_feature().tolist(),
        )
        for track in tracks
    ]
