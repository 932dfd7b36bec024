"""The camera's own movement, estimated from the boxes alone."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import Ints, Record, Table
from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.edge.statistics import FIRST_SCATTER
from edge_tracker.tracking.edge.tables import EdgeTables
from edge_tracker.tracking.jit import jit

# Evidence that the camera stands still, in pairs of tracks, and the weight of the first scatter, in single ones.
STILL_PAIRS, FIRST_SINGLES = 20.0, 2.0
LEAST_SCATTER = 1e-6


@jit
def compensate_camera(tables: EdgeTables, match: Ints, detections: Table, dt: float, settings: Record) -> None:
    """Estimate from a provisional matching how the camera has moved since the last frame, and move all tracks along.

    A track's displacement is y_i = camera + own_i with var(own_i) = scatter h_i^2 and var(camera) = shake: a
    random-effects model. `shake` is estimated from the products of different tracks' displacements, of which only the
    camera is common, `scatter` from what is left, both over `camera_memory`. The shift is the mean displacement shrunk
    towards none by how much of its variance is the camera's (James and Stein, 1961).

    Args:
        tables: their means and statistics are changed.
        match: (N,) int64, a detection for each row, NONE for none.
        detections: (K,) EDGE_DETECTION.
        dt: frames since the last call.
        settings: the parameters.
    """
    tracks, statistics = tables.tracks, tables.statistics[0]
    count, total, squares = 0, 0.0, 0.0
    sums, own, spread = np.zeros(2), np.zeros(2), np.zeros(2)
    for row in range(match.shape[0]):
        if match[row] == NONE:
            continue
        mean, measured = tracks[row]["mean"], detections[match[row]]["measured"]
        height = mean[3]
        weight = 1.0 / (height * height)
        count += 1
        total += weight
        squares += weight * weight
        for i in range(2):
            y = min(max(measured[i] - mean[i], -height), height)
            sums[i] += weight * y
            own[i] += weight * weight * y * y
            spread[i] += weight * y * y
    if count < 2:
        return
    fade = np.exp(-dt / max(settings["camera_memory"], 1e-9))
    between = total * total - squares
    if not between > 1e-9 * total * total:  # one of the boxes is all that counts
        return
    pairs = between / (total * total) * count
    statistics["pairs"] = statistics["pairs"] * fade + pairs
    statistics["singles"] = statistics["singles"] * fade + count - 1
    for i in range(2):
        displacement = sums[i] / total
        product = (sums[i] * sums[i] - own[i]) / between
        statistics["pair_sum"][i] = statistics["pair_sum"][i] * fade + product * pairs
        left = spread[i] - total * displacement * displacement
        statistics["single_sum"][i] = statistics["single_sum"][i] * fade + left
        shake = max(0.0, statistics["pair_sum"][i] / (statistics["pairs"] + STILL_PAIRS))
        scatter = statistics["single_sum"][i] + FIRST_SINGLES * FIRST_SCATTER
        scatter = max(scatter / (statistics["singles"] + FIRST_SINGLES), LEAST_SCATTER)
        statistics["shake"][i], statistics["scatter"][i] = shake, scatter
        shift = displacement * shake / (shake + scatter / total)
        for row in range(match.shape[0]):
            tracks[row]["mean"][i] += shift
