"""Which track gets which detection: the matching cascade by appearance, then the IoU stage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.tracking.assignment import NONE, iou, match_pairs
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.gallery import NO_ROW, smallest_distance
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED

# DeepSORT prices a forbidden pair this much above the largest allowed cost.
FORBIDDEN_MARGIN = 1e-5

# Gallery rows that give a pair its first upper bound where detections compete.
PROBED = 4


class Settings(NamedTuple):
    """What governs the method; see `Tracker` for each."""

    max_iou_distance: float
    max_age: float
    n_init: int
    nms_max_overlap: float
    max_cosine_distance: float
    budget: int
    gating_only_position: bool
    class_aware: bool
    drop_invalid: bool


@jit
def _push(pairs, count, value):  # type: ignore[no-untyped-def]
    """Put a value at place `count`, in a larger array if this one is full."""
    if count == pairs.shape[0]:
        larger = np.empty(2 * count + 16, dtype=pairs.dtype)
        larger[:count] = pairs
        pairs = larger
    pairs[count] = value
    return pairs


@jit
def _near(sorted_x, x, reach):  # type: ignore[no-untyped-def]
    """First place in ascending `sorted_x` whose value may be within `reach` of x, and the last value that may."""
    slack = reach + 1e-9 * (abs(x) + reach)
    return np.searchsorted(sorted_x, x - slack), x + slack


@jit
def _gated_pairs(rows, group, frame, by_x, sorted_x, taken, settings):  # type: ignore[no-untyped-def]
    """Pairs of tracks and free detections whose squared Mahalanobis distance passes the gate.

    Args:
        group: (G,) int64 rows.
        by_x, sorted_x: (K,) detections in order of their centre's x, and that x.
        taken: (K,) bool, detections that are matched already.

    Returns:
        starts (G + 1,), columns (E,) as `match_pairs` takes them.
    """
    dimensions = 2 if settings.gating_only_position else 4
    gate = kalman.CHI2_95_2DOF if settings.gating_only_position else kalman.CHI2_95_4DOF
    starts = np.zeros(group.shape[0] + 1, dtype=np.int64)
    columns = np.empty(2 * group.shape[0] + 16, dtype=np.int64)
    variance = np.empty(4)
    count = 0
    for g in range(group.shape[0]):
        row = group[g]
        for i in range(4):
            variance[i] = kalman.innovation_variance(rows.mean, rows.covariance, row, i)
        at, last_x = _near(sorted_x, rows.mean[row, 0], np.sqrt(gate * variance[0]))
        while at < sorted_x.shape[0] and sorted_x[at] <= last_x:
            column = by_x[at]
            at += 1
            if taken[column] or (settings.class_aware and rows.class_id[row] != frame.class_id[column]):
                continue
            distance = 0.0
            for i in range(dimensions):
                residual = frame.xyah[column, i] - rows.mean[row, i]
                distance += residual * residual / variance[i]
            if distance <= gate:
                columns = _push(columns, count, column)
                count += 1
        starts[g + 1] = count
    return starts, columns[:count]


@jit
def _match_by_appearance(rows, group, gallery, frame, features, starts, columns, limit):  # type: ignore[no-untyped-def]
    """Best matching of the gated pairs by smallest cosine distance, knowing as few of the distances as it takes.

    A pair whose track and detection are each alone in the other's gate is settled by any gallery row near enough.
    Elsewhere each pair starts with bounds: 0 below, and above what the newest rows give. The best matching by the upper
    bounds stands if no other beats it even with its own pairs at their lower bounds; as long as one does, the
    distances that decide between the two are computed in full.

    Returns:
        (G,) int64, the detection (place in `frame`) of each track of the group, or NONE.
    """
    m = frame.origin.shape[0]
    forbidden = limit + FORBIDDEN_MARGIN
    rivals = np.zeros(m, dtype=np.int64)
    for column in columns:
        rivals[column] += 1
    low, high = np.zeros(columns.shape[0]), np.empty(columns.shape[0])
    settled = True
    for g in range(group.shape[0]):
        newest, count = rows.newest[group[g]], rows.features[group[g]]
        alone = starts[g + 1] - starts[g] == 1
        for e in range(starts[g], starts[g + 1]):
            decides = alone and rivals[columns[e]] == 1
            k, norm = frame.origin[columns[e]], frame.norm[columns[e]]
            looked_at = count if decides else min(count, PROBED)
            high[e] = smallest_distance(gallery, newest, looked_at, features, k, norm, limit)
            if decides or (looked_at == count and high[e] > limit):
                low[e] = high[e]
            else:
                settled = False
    while True:
        best = match_pairs(starts, columns, high, m, forbidden)
        if settled:
            return best
        bound = low.copy()
        for g in range(group.shape[0]):
            for e in range(starts[g], starts[g + 1]):
                if columns[e] == best[g]:
                    bound[e] = high[e]
        rival = match_pairs(starts, columns, bound, m, forbidden)
        settled = True
        for challenged in (rival, best):
            for g in range(group.shape[0]):
                if rival[g] == best[g]:
                    continue
                for e in range(starts[g], starts[g + 1]):
                    if columns[e] == challenged[g] and low[e] < high[e]:
                        k, norm = frame.origin[columns[e]], frame.norm[columns[e]]
                        newest, count = rows.newest[group[g]], rows.features[group[g]]
                        high[e] = smallest_distance(gallery, newest, count, features, k, norm, -np.inf)
                        low[e] = high[e]
                        settled = False
            if not settled:
                break


@jit
def _overlapping_pairs(rows, group, frame, by_x, sorted_x, taken, settings):  # type: ignore[no-untyped-def]
    """Pairs of tracks and free detections within the IoU distance, with their cost; returns as `match_pairs` takes."""
    starts = np.zeros(group.shape[0] + 1, dtype=np.int64)
    columns = np.empty(2 * group.shape[0] + 16, dtype=np.int64)
    costs = np.empty(columns.shape[0])
    count = 0
    widest = np.float32(0.0)
    for column in range(frame.ltwh.shape[0]):
        widest = max(widest, frame.ltwh[column, 2])
    for g in range(group.shape[0]):
        row = group[g]
        box = kalman.box(rows.mean, row)
        # Boxes that do not meet are at distance 1: only a limit that allows that needs to see all of them.
        reach = (box[2] + widest) / 2 if settings.max_iou_distance < 1.0 else np.inf
        at, last_x = _near(sorted_x, rows.mean[row, 0], reach)
        while at < sorted_x.shape[0] and not sorted_x[at] > last_x:
            column = by_x[at]
            at += 1
            if taken[column] or (settings.class_aware and rows.class_id[row] != frame.class_id[column]):
                continue
            cost = 1.0 - iou(box, frame.ltwh, column)
            if cost <= settings.max_iou_distance:
                columns = _push(columns, count, column)
                costs = _push(costs, count, cost)
                count += 1
        starts[g + 1] = count
    return starts, columns[:count], costs[:count]


@jit
def _accept(group, matched, match, taken):  # type: ignore[no-untyped-def]
    """Write the matches of a group (G,) into those of all rows, and take their detections."""
    for g in range(group.shape[0]):
        if matched[g] != NONE:
            match[group[g]] = matched[g]
            taken[matched[g]] = True


@jit
def associate(rows, n, gallery, frame, features, dt, settings):  # type: ignore[no-untyped-def]
    """Match the predicted tracks to the detections of a frame.

    First confirmed tracks by appearance within the gate, those missed for the shortest time first; then tentative
    tracks and those missed in this frame only, by IoU. Without features, all tracks by IoU.

    Args:
        n: live rows.
        features: (M, D) float32 in the caller's order, or (0, D).
        dt: frames since the last call.

    Returns:
        (N,) int64, the place in `frame` of each track's detection, or -1.
    """
    m = frame.origin.shape[0]
    match = np.full(n, NONE)
    taken = np.zeros(m, dtype=np.bool_)
    if n == 0 or m == 0:
        return match
    by_x = np.argsort(frame.xyah[:, 0], kind="mergesort")
    sorted_x = frame.xyah[:, 0][by_x]
    group = np.empty(n, dtype=np.int64)

    if features.shape[0] > 0:
        size = 0
        for row in range(n):
            known = rows.state[row] == CONFIRMED and rows.newest[row] != NO_ROW
            if known and rows.time_since_update[row] <= settings.max_age:
                group[size] = row
                size += 1
        since = rows.time_since_update[group[:size]]
        order = np.argsort(since, kind="mergesort")
        by_age = group[:size][order]
        first = 0
        while first < size:
            end = first + 1
            while end < size and since[order[end]] == since[order[first]]:
                end += 1
            level = by_age[first:end]
            starts, columns = _gated_pairs(rows, level, frame, by_x, sorted_x, taken, settings)
            matched = _match_by_appearance(
                rows, level, gallery, frame, features, starts, columns, settings.max_cosine_distance
            )
            _accept(level, matched, match, taken)
            first = end

    size = 0
    for row in range(n):
        since_update = rows.time_since_update[row]
        recent = features.shape[0] == 0 or rows.state[row] != CONFIRMED or since_update <= dt
        # A step longer than a track can live ends it.
        if match[row] == NONE and recent and since_update <= settings.max_age + 1:
            group[size] = row
            size += 1
    rest = group[:size]
    starts, columns, costs = _overlapping_pairs(rows, rest, frame, by_x, sorted_x, taken, settings)
    forbidden = settings.max_iou_distance + FORBIDDEN_MARGIN
    _accept(rest, match_pairs(starts, columns, costs, m, forbidden), match, taken)
    return match
