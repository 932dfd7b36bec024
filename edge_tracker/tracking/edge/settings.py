"""The parameters of `method="edge"`, in field terms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.errors import InputError

MOST = 1e6  # limit of every parameter


class EdgeSettings(NamedTuple):
    """Parameters of `method="edge"`, with lengths in box heights and times in seconds, for any image size and rate.

    Attributes:
        position_noise: standard deviation of a sure detection's centre, heights.
        size_noise: of its width and height, heights.
        acceleration: process noise of the centre, heights per s^1.5.
        growth: process noise of the size, heights per s^1.5.
        first_speed: standard deviation of a new track's speed, heights per second.
        first_growth: of the speed at which its size changes.
        doubt: a detection's noise grows with 1 + doubt (1 - confidence), relative to that of one of usual confidence.
        camera: weight of the camera's shake in the process noise and in the memory.
        camera_memory: seconds over which the shake is estimated.
        similarity: least IoU x vertical IoU at which motion matches.
        tentative_similarity: the same for tracks not confirmed yet.
        memory: seconds a lost track can be matched by motion, the camera at rest.
        evidence: sum of -ln(1 - confidence) that confirms a track, with two hits.
        low: detections below this confidence are matched last and start no tracks.
        reenter: largest appearance distance at which a lost track comes back; 0 is usual for the same object, 1 for
            two different ones.
        reenter_age: seconds for which it may.
        reenter_height: least ratio of its height and the detection's.
        reach, speed: it may be this far from its prediction, heights, and so much further for every second.
        clean: a crop is clean if no other detection covers more of it than this share.
        overlap: IoU of two tracks that makes a crossing.
        swap: advantage, in appearance distance, at which two identities are exchanged after a crossing.
        swap_age: seconds after it in which that may happen.
        refresh: seconds after which a gallery is stale.
        near: two boxes that touch when enlarged by this share on each side are about to cross;
        near_refresh: then a gallery is stale after this many seconds already.
    """

    position_noise: float = 0.05
    size_noise: float = 0.075
    acceleration: float = 0.11
    growth: float = 0.13
    first_speed: float = 1.0
    first_growth: float = 0.4
    doubt: float = 10.0
    camera: float = 25.0
    camera_memory: float = 5.0
    similarity: float = 0.17
    tentative_similarity: float = 0.26
    memory: float = 5.0
    evidence: float = 7.0
    low: float = 0.3
    reenter: float = 0.45
    reenter_age: float = 3.0
    reenter_height: float = 0.4
    reach: float = 0.5
    speed: float = 0.9
    clean: float = 0.3
    overlap: float = 0.15
    swap: float = 0.5
    swap_age: float = 3.5
    refresh: float = 1.5
    near: float = 0.2
    near_refresh: float = 0.6

    def in_frames(self, frame_rate: float) -> EdgeSettings:
        """The same with times in frames of a rate instead of seconds, as the compiled code takes them.

        Raises:
            InputError: a value is not a number from 0 to `MOST`.
        """
        values = {}
        for name, value in self._asdict().items():
            good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if not good or not 0 <= value <= MOST:
                raise InputError(f"edge settings: {name}={value!r}: expected a number from 0 to {MOST:.0f}")
            values[name] = float(value)
            if name in _TIMES:
                values[name] *= frame_rate
            elif name in _SPEEDS:
                values[name] /= frame_rate
            elif name in _DIFFUSIONS:
                values[name] /= frame_rate**1.5
        return EdgeSettings(**values)


_TIMES = frozenset(("camera_memory", "memory", "reenter_age", "swap_age", "refresh", "near_refresh"))
_SPEEDS = frozenset(("first_speed", "first_growth", "speed"))
_DIFFUSIONS = frozenset(("acceleration", "growth"))


class EdgeParameters(NamedTuple):
    """The parameters that only this method has.

    Attributes:
        frame_rate: frames per second, in which `dt` counts.
        max_embeddings: crops that the embedder is asked for in a frame at most; None for no limit.
        selective: ask only for the crops that matter, not for all.
        edge_settings: the rest; None for the defaults.
    """

    frame_rate: float = 30.0
    max_embeddings: int | None = None
    selective: bool = True
    edge_settings: EdgeSettings | None = None
