"""Association by motion in `method="edge"`: IoU x vertical IoU of predicted and detected boxes.

The vertical IoU (that of the boxes' heights alone) makes people who stand at other depths unlike, where IoU hardly
tells them apart (height-IoU: Yang et al., "Hybrid-SORT", 2024, arXiv 2308.00783).
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import Bools, Floats, Ints, Record, Table, ascending, filled, first_from, pushed
from edge_tracker.tracking.assignment import NONE, match_pairs
from edge_tracker.tracking.edge.camera import compensate_camera
from edge_tracker.tracking.edge.filter import shakiness, sureness
from edge_tracker.tracking.edge.tables import EdgeTables
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED

# For the camera's movement, boxes are compared loosely: enlarged by this share on each side, from this similarity on.
LOOSE, LOOSE_SIMILARITY = 0.3, 0.1

# A pair this much too far apart, relative to its size, is passed over without computing its similarity: rounding.
SLACK = 1.0 + 1e-9


@jit
def similarity(a: Floats, b: Floats, grow: float, vertical: bool) -> float:
    """IoU of two boxes, each (4 or more,) x, y, w, h, times the IoU of their heights.

    Args:
        a, b: the boxes.
        grow: share of its size by which each box is enlarged on each side.
        vertical: False for the IoU alone.
    """
    scale = 1.0 + 2.0 * grow
    aw, ah, bw, bh = a[2] * scale, a[3] * scale, b[2] * scale, b[3] * scale
    width = min(a[0] + aw / 2, b[0] + bw / 2) - max(a[0] - aw / 2, b[0] - bw / 2)
    if not width > 0.0:
        return 0.0
    height = min(a[1] + ah / 2, b[1] + bh / 2) - max(a[1] - ah / 2, b[1] - bh / 2)
    if not height > 0.0:
        return 0.0
    both = width * height
    value = both / (aw * ah + bw * bh - both)
    if vertical:
        value *= height / (max(a[1] + ah / 2, b[1] + bh / 2) - min(a[1] - ah / 2, b[1] - bh / 2))
    return value


@jit
def _similar_pairs(
    tracks: Table, group: Ints, detections: Table, grow: float, least: Floats, class_aware: bool
) -> tuple[Ints, Ints, Floats]:
    """All pairs of a group of rows and the detections that are more similar to them than their least similarity.

    Args:
        tracks: (C,) EDGE_TRACK.
        group: (G,) int64 rows.
        detections: (K,) EDGE_DETECTION.
        grow: as for `similarity`.
        least: (G,) similarity that a pair of each row must exceed.
        class_aware: only pairs of one class.

    Returns:
        starts (G + 1,), columns (E,) as `match_pairs` takes them, and similarity (E,).
    """
    m = detections.shape[0]
    starts = np.empty(group.shape[0] + 1, dtype=np.int64)
    columns = np.empty(4 * group.shape[0] + 16, dtype=np.int64)
    values = np.empty(columns.shape[0])
    widest = 0.0
    sorted_x, y, tall = np.empty(m), np.empty(m), np.empty(m)
    for at in range(m):
        measured = detections[detections[at]["by_x"]]["measured"]
        sorted_x[at], y[at], tall[at] = measured[0], measured[1], measured[3]
        widest = max(widest, measured[2])
    scale = (0.5 + grow) * SLACK
    count = starts[0] = 0
    for g in range(group.shape[0]):
        track = tracks[group[g]]
        mean = track["mean"]
        reach = (mean[2] + widest) * scale
        at = first_from(sorted_x, mean[0] - reach)
        while at < m and sorted_x[at] <= mean[0] + reach:
            apart = abs(y[at] - mean[1]) > (tall[at] + mean[3]) * scale
            column = detections[at]["by_x"]
            at += 1
            if apart or (class_aware and track["class_id"] != detections[column]["class_id"]):
                continue
            value = similarity(mean, detections[column]["measured"], grow, True)
            if value > least[g]:
                columns = pushed(columns, count, column)
                values = pushed(values, count, value)
                count += 1
        starts[g + 1] = count
    return starts, columns[:count], values[:count]


@jit
def _follow_camera(tables: EdgeTables, detections: Table, dt: float, settings: Record) -> None:
    """Move all tracks along with the camera, judged by those that were seen in the last frame."""
    tracks, n = tables.tracks, tables.counts[0]["live"]
    group = np.empty(n, dtype=np.int64)
    size = 0
    for row in range(n):
        if tracks[row]["state"] == CONFIRMED and tracks[row]["time_since_update"] <= 1.5 * dt:
            group[size] = row
            size += 1
    if size < 2 or detections.shape[0] < 2:
        return
    group, least = group[:size], np.empty(size)
    for g in range(size):
        least[g] = LOOSE_SIMILARITY
    starts, columns, values = _similar_pairs(tracks, group, detections, LOOSE, least, settings["class_aware"])
    for e in range(values.shape[0]):
        values[e] = LOOSE_SIMILARITY - values[e]
    found = match_pairs(starts, columns, values, detections.shape[0], 0.0)
    match = filled(n, NONE)
    for g in range(size):
        match[group[g]] = found[g]
    compensate_camera(tables, match, detections, dt, settings)


@jit
def matchable(track: Record, dt: float, statistics: Record, settings: Record) -> bool:
    """True if a track may be matched by motion: a tentative one, and others while their prediction is good."""
    if track["state"] != CONFIRMED:
        return True
    height = track["mean"][3]
    shaky = max(shakiness(statistics, 0, height, settings), shakiness(statistics, 1, height, settings))
    return track["time_since_update"] <= max(settings["memory"] / shaky, dt) + dt / 2


CONFIRMED_SURE, CONFIRMED_UNSURE, TENTATIVE_SURE = 0, 1, 2


@jit
def _match_stage(tracks: Table, group: Ints, found: Ints, taken: Bools) -> None:
    """Write the matches (G,) of a group (G,) of rows into their tracks, and mark their detections as taken."""
    for g in range(group.shape[0]):
        if found[g] != NONE:
            tracks[group[g]]["match"] = found[g]
            taken[found[g]] = True


@jit(phase=True)
def match_by_motion(tables: EdgeTables, detections: Table, dt: float, settings: Record) -> None:
    """Match predicted tracks to detections: confirmed ones to sure detections, then to unsure ones, then tentative.

    Args:
        tables: the tracks' means are moved along with the camera; the matches are written into the tracks.
        detections: (K,) EDGE_DETECTION.
        dt: frames since the last call.
        settings: the parameters.
    """
    tracks, n, m = tables.tracks, tables.counts[0]["live"], detections.shape[0]
    for row in range(n):
        tracks[row]["match"] = NONE
        tracks[row]["returns"] = False
    if n == 0 or m == 0:
        return
    _follow_camera(tables, detections, dt, settings)
    sure, taken = np.empty(m, dtype=np.bool_), np.zeros(m, dtype=np.bool_)
    for k in range(m):
        sure[k] = sureness(detections[k]["confidence"]) >= settings["low"]
    group, least, size = np.empty(n, dtype=np.int64), np.empty(n), 0
    for row in range(n):
        track = tracks[row]
        if matchable(track, dt, tables.statistics[0], settings):
            group[size] = row
            confirmed = track["state"] == CONFIRMED
            least[size] = settings["similarity"] if confirmed else settings["tentative_similarity"]
            size += 1
    group = group[:size]
    first, columns, values = _similar_pairs(tracks, group, detections, 0.0, least, settings["class_aware"])
    # The pairs of one stage, of those found.
    members, starts = np.empty(size, dtype=np.int64), np.zeros(size + 1, dtype=np.int64)
    these, costs = np.empty(columns.shape[0], dtype=np.int64), np.empty(columns.shape[0])
    for stage in (CONFIRMED_SURE, CONFIRMED_UNSURE, TENTATIVE_SURE):
        size = count = 0
        for g in range(group.shape[0]):
            track = tracks[group[g]]
            if track["match"] != NONE or (track["state"] == CONFIRMED) == (stage == TENTATIVE_SURE):
                continue
            before = count
            for e in range(first[g], first[g + 1]):
                k = columns[e]
                if not taken[k] and sure[k] == (stage != CONFIRMED_UNSURE):
                    these[count], costs[count] = k, least[g] - values[e]
                    count += 1
            if count > before:
                members[size] = group[g]
                size += 1
                starts[size] = count
        if size > 0:
            found = match_pairs(starts[: size + 1], these[:count], costs[:count], m, 0.0)
            _match_stage(tracks, members[:size], found, taken)


@jit
def overlapping_tracks(tracks: Table, group: Ints, grow: float, least: float) -> Ints:
    """All pairs of a group of rows whose IoU is above `least`.

    Args:
        tracks: (C,) EDGE_TRACK.
        group: (G,) int64 rows.
        grow: as for `similarity`.
        least: IoU.

    Returns:
        (P, 2) int64, in each pair the higher row first.
    """
    x, widest = np.empty(group.shape[0]), 0.0
    for g in range(group.shape[0]):
        x[g] = tracks[group[g]]["mean"][0]
        widest = max(widest, tracks[group[g]]["mean"][2])
    by_x = ascending(x)
    higher = np.empty(group.shape[0] + 16, dtype=np.int64)
    lower = np.empty(group.shape[0] + 16, dtype=np.int64)
    scale = (0.5 + grow) * SLACK
    count = 0
    for at in range(group.shape[0]):
        row = group[by_x[at]]
        mean = tracks[row]["mean"]
        end = mean[0] + (mean[2] + widest) * scale
        for after in range(at + 1, group.shape[0]):
            other = group[by_x[after]]
            theirs = tracks[other]["mean"]
            if theirs[0] > end:
                break
            if abs(theirs[1] - mean[1]) > (mean[3] + theirs[3]) * scale:
                continue
            first, second = max(row, other), min(row, other)
            if similarity(tracks[first]["mean"], tracks[second]["mean"], grow, False) > least:
                higher, lower = pushed(higher, count, first), pushed(lower, count, second)
                count += 1
    pairs = np.empty((count, 2), dtype=np.int64)
    for p in range(count):
        pairs[p, 0], pairs[p, 1] = higher[p], lower[p]
    return pairs
