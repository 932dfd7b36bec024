"""Association by motion in `method="edge"`: IoU x vertical IoU of predicted and detected boxes.

The vertical IoU (that of the boxes' heights alone) makes people who stand at other depths unlike, where IoU hardly
tells them apart (height-IoU: Yang et al., "Hybrid-SORT", 2024, arXiv 2308.00783).
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.assignment import NONE, match_pairs
from edge_tracker.tracking.edge.filter import compensate_camera, shakiness, sureness
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED

# For the camera's movement, boxes are compared loosely: enlarged by this share on each side, from this similarity on.
LOOSE, LOOSE_SIMILARITY = 0.3, 0.1


@jit
def similarity(a, i, b, k, grow, vertical):  # type: ignore[no-untyped-def]
    """IoU of row i of `a` and row k of `b`, both (., 4 or more) x, y, w, h, times the IoU of their heights.

    Args:
        grow: share of its size by which each box is enlarged on each side.
        vertical: False for the IoU alone.
    """
    scale = 1.0 + 2.0 * grow
    aw, ah, bw, bh = a[i, 2] * scale, a[i, 3] * scale, b[k, 2] * scale, b[k, 3] * scale
    width = min(a[i, 0] + aw / 2, b[k, 0] + bw / 2) - max(a[i, 0] - aw / 2, b[k, 0] - bw / 2)
    if not width > 0.0:
        return 0.0
    height = min(a[i, 1] + ah / 2, b[k, 1] + bh / 2) - max(a[i, 1] - ah / 2, b[k, 1] - bh / 2)
    if not height > 0.0:
        return 0.0
    both = width * height
    value = both / (aw * ah + bw * bh - both)
    if vertical:
        value *= height / (max(a[i, 1] + ah / 2, b[k, 1] + bh / 2) - min(a[i, 1] - ah / 2, b[k, 1] - bh / 2))
    return value


# A pair this much too far apart, relative to its size, is passed over without computing its similarity: rounding.
SLACK = 1.0 + 1e-9


@jit
def similar_pairs(rows, group, frame, boxes, by_x, grow, least, class_aware):  # type: ignore[no-untyped-def]
    """All pairs of a group of rows (G,) and the boxes (K, 4) xywh that are more similar than `least` (G,) of the row.

    Args:
        by_x: (K,) the boxes in order of x.
        grow: as for `similarity`.

    Returns:
        starts (G + 1,), columns (E,) as `match_pairs` takes them, and similarity (E,).
    """
    mean, classes, class_of = rows.mean, rows.class_id, frame.class_id
    starts = np.zeros(group.shape[0] + 1, dtype=np.int64)
    columns = np.empty(4 * group.shape[0] + 16, dtype=np.int64)
    values = np.empty(columns.shape[0])
    widest = 0.0
    sorted_x, y, tall = np.empty(by_x.shape[0]), np.empty(by_x.shape[0]), np.empty(by_x.shape[0])
    for at in range(by_x.shape[0]):
        k = by_x[at]
        sorted_x[at], y[at], tall[at] = boxes[k, 0], boxes[k, 1], boxes[k, 3]
        widest = max(widest, boxes[k, 2])
    scale = (0.5 + grow) * SLACK
    count = 0
    for g in range(group.shape[0]):
        row = group[g]
        reach = (mean[row, 2] + widest) * scale
        at = np.searchsorted(sorted_x, mean[row, 0] - reach)
        while at < sorted_x.shape[0] and sorted_x[at] <= mean[row, 0] + reach:
            apart = abs(y[at] - mean[row, 1]) > (tall[at] + mean[row, 3]) * scale
            column = by_x[at]
            at += 1
            if apart or (class_aware and classes[row] != class_of[column]):
                continue
            value = similarity(mean, row, boxes, column, grow, True)
            if value > least[g]:
                if count == columns.shape[0]:
                    columns = np.concatenate((columns, np.empty(count, dtype=np.int64)))
                    values = np.concatenate((values, np.empty(count)))
                columns[count], values[count] = column, value
                count += 1
        starts[g + 1] = count
    return starts, columns[:count], values[:count]


@jit
def _follow_camera(rows, n, frame, boxes, by_x, dt, learnt, edge, class_aware):  # type: ignore[no-untyped-def]
    """Move all tracks along with the camera, judged by those that were seen in the last frame."""
    group = np.empty(n, dtype=np.int64)
    size = 0
    state, since = rows.state, rows.time_since_update
    for row in range(n):
        if state[row] == CONFIRMED and since[row] <= 1.5 * dt:
            group[size] = row
            size += 1
    if size < 2 or boxes.shape[0] < 2:
        return
    group, least = group[:size], np.full(size, LOOSE_SIMILARITY)
    starts, columns, values = similar_pairs(rows, group, frame, boxes, by_x, LOOSE, least, class_aware)
    found = match_pairs(starts, columns, LOOSE_SIMILARITY - values, boxes.shape[0], 0.0)
    match = np.full(n, NONE)
    match[group] = found
    compensate_camera(rows.mean, n, match, boxes, dt, learnt, edge)


@jit
def matchable(rows, n, dt, learnt, edge):  # type: ignore[no-untyped-def]
    """(N,) bool: which rows may be matched by motion: tentative ones, and others while their prediction is good."""
    mean, state, since = rows.mean, rows.state, rows.time_since_update
    may = np.ones(n, dtype=np.bool_)
    for row in range(n):
        if state[row] == CONFIRMED:
            height = mean[row, 3]
            memory = edge.memory / max(shakiness(learnt, 0, height, edge), shakiness(learnt, 1, height, edge))
            may[row] = since[row] <= max(memory, dt) + dt / 2
    return may


CONFIRMED_SURE, CONFIRMED_UNSURE, TENTATIVE_SURE = 0, 1, 2


@jit
def match_by_motion(rows, n, frame, boxes, by_x, dt, learnt, edge, class_aware):  # type: ignore[no-untyped-def]
    """Match predicted tracks to detections: confirmed ones to sure detections, then to unsure ones, then tentative.

    Args:
        n: live rows; their means are moved along with the camera.
        boxes: (K, 4) xywh of the frame's detections.
        by_x: (K,) their order by x.

    Returns:
        (N,) int64, the place in `frame` of each track's detection, NONE for none.
    """
    m = boxes.shape[0]
    match = np.full(n, NONE)
    if n == 0 or m == 0:
        return match
    _follow_camera(rows, n, frame, boxes, by_x, dt, learnt, edge, class_aware)
    sure = np.empty(m, dtype=np.bool_)
    for k in range(m):
        sure[k] = sureness(frame.confidence[k]) >= edge.low
    state = rows.state
    group = np.flatnonzero(matchable(rows, n, dt, learnt, edge))
    least = np.empty(group.shape[0])
    for g in range(group.shape[0]):
        least[g] = edge.similarity if state[group[g]] == CONFIRMED else edge.tentative_similarity
    first, columns, values = similar_pairs(rows, group, frame, boxes, by_x, 0.0, least, class_aware)
    taken = np.zeros(m, dtype=np.bool_)
    # The pairs of one stage, of those found.
    members, starts = np.empty(group.shape[0], dtype=np.int64), np.zeros(group.shape[0] + 1, dtype=np.int64)
    these, costs = np.empty(columns.shape[0], dtype=np.int64), np.empty(columns.shape[0])
    for stage in (CONFIRMED_SURE, CONFIRMED_UNSURE, TENTATIVE_SURE):
        size = count = 0
        for g in range(group.shape[0]):
            row = group[g]
            if match[row] != NONE or (state[row] == CONFIRMED) == (stage == TENTATIVE_SURE):
                continue
            before = count
            for e in range(first[g], first[g + 1]):
                k = columns[e]
                if not taken[k] and sure[k] == (stage != CONFIRMED_UNSURE):
                    these[count], costs[count] = k, least[g] - values[e]
                    count += 1
            if count > before:
                members[size] = row
                size += 1
                starts[size] = count
        if size == 0:
            continue
        found = match_pairs(starts[: size + 1], these[:count], costs[:count], m, 0.0)
        for g in range(size):
            if found[g] != NONE:
                match[members[g]] = found[g]
                taken[found[g]] = True
    return match


@jit
def similar_rows(mean, group, grow, least):  # type: ignore[no-untyped-def]
    """All pairs of a group of rows (G,) of `mean` whose IoU is above `least`.

    Args:
        grow: as for `similarity`.

    Returns:
        (P, 2) int64, in each pair the higher row first.
    """
    x, widest = np.empty(group.shape[0]), 0.0
    for g in range(group.shape[0]):
        x[g] = mean[group[g], 0]
        widest = max(widest, mean[group[g], 2])
    by_x = np.argsort(x, kind="mergesort")
    pairs = np.empty((group.shape[0] + 16, 2), dtype=np.int64)
    scale = (0.5 + grow) * SLACK
    count = 0
    for at in range(group.shape[0]):
        a = group[by_x[at]]
        end = mean[a, 0] + (mean[a, 2] + widest) * scale
        for other in range(at + 1, group.shape[0]):
            b = group[by_x[other]]
            if mean[b, 0] > end:
                break
            if abs(mean[b, 1] - mean[a, 1]) > (mean[a, 3] + mean[b, 3]) * scale:
                continue
            if similarity(mean, max(a, b), mean, min(a, b), grow, False) > least:
                if count == pairs.shape[0]:
                    pairs = np.concatenate((pairs, np.empty((count, 2), dtype=np.int64)))
                pairs[count, 0], pairs[count, 1] = max(a, b), min(a, b)
                count += 1
    return pairs[:count]
