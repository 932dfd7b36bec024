"""Association by motion in `method="edge"`: IoU x vertical IoU of predicted and detected boxes.

The vertical IoU (that of the boxes' heights alone) makes people who stand at other depths unlike, where IoU hardly
tells them apart (height-IoU: Yang et al., "Hybrid-SORT", 2024, arXiv 2308.00783).
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.assignment import NONE, match_pairs
from edge_tracker.tracking.edge_filter import compensate_camera, shakiness, sureness
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.store import CONFIRMED

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


@jit
def similar_pairs(rows, group, frame, boxes, by_x, grow, least, class_aware):  # type: ignore[no-untyped-def]
    """All pairs of a group of rows (G,) and the boxes (K, 4) xywh that are more similar than `least`.

    Returns:
        starts (G + 1,), columns (E,) as `match_pairs` takes them, and similarity (E,).
    """
    mean = rows.mean
    starts = np.zeros(group.shape[0] + 1, dtype=np.int64)
    columns = np.empty(4 * group.shape[0] + 16, dtype=np.int64)
    values = np.empty(columns.shape[0])
    widest = 0.0
    for k in range(boxes.shape[0]):
        widest = max(widest, boxes[k, 2])
    sorted_x = boxes[:, 0][by_x]
    count = 0
    for g in range(group.shape[0]):
        row = group[g]
        reach = (mean[row, 2] + widest) * (0.5 + grow)
        at = np.searchsorted(sorted_x, mean[row, 0] - reach)
        while at < sorted_x.shape[0] and sorted_x[at] <= mean[row, 0] + reach:
            column = by_x[at]
            at += 1
            if class_aware and rows.class_id[row] != frame.class_id[column]:
                continue
            value = similarity(mean, row, boxes, column, grow, True)
            if value > least:
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
    for row in range(n):
        if rows.state[row] == CONFIRMED and rows.time_since_update[row] <= 1.5 * dt:
            group[size] = row
            size += 1
    if size < 2 or boxes.shape[0] < 2:
        return
    group = group[:size]
    starts, columns, values = similar_pairs(rows, group, frame, boxes, by_x, LOOSE, LOOSE_SIMILARITY, class_aware)
    found = match_pairs(starts, columns, LOOSE_SIMILARITY - values, boxes.shape[0], 0.0)
    match = np.full(n, NONE)
    match[group] = found
    compensate_camera(rows.mean, n, match, boxes, dt, learnt, edge)


@jit
def _matchable(rows, row, dt, learnt, edge):  # type: ignore[no-untyped-def]
    """Whether a confirmed row's prediction is still worth something."""
    since, height = rows.time_since_update[row], rows.mean[row, 3]
    memory = edge.memory / max(shakiness(learnt, 0, height, edge), shakiness(learnt, 1, height, edge))
    followed = rows.age[row] - 1.0 - since
    return since <= max(memory, dt) + dt / 2 and since <= edge.lifetime * followed + 1.5 * dt


CONFIRMED_SURE, CONFIRMED_UNSURE, TENTATIVE_SURE = 0, 1, 2


@jit
def match_by_motion(rows, n, frame, boxes, dt, learnt, edge, class_aware):  # type: ignore[no-untyped-def]
    """Match predicted tracks to detections: confirmed ones to sure detections, then to unsure ones, then tentative.

    Args:
        n: live rows; their means are moved along with the camera.
        boxes: (K, 4) xywh of the frame's detections.

    Returns:
        (N,) int64, the place in `frame` of each track's detection, NONE for none.
    """
    m = boxes.shape[0]
    match = np.full(n, NONE)
    if n == 0 or m == 0:
        return match
    by_x = np.argsort(boxes[:, 0], kind="mergesort")
    _follow_camera(rows, n, frame, boxes, by_x, dt, learnt, edge, class_aware)
    unsure = 0
    sure = np.empty(m, dtype=np.bool_)
    for k in range(m):
        sure[k] = sureness(frame.confidence[k]) >= edge.low
        unsure += not sure[k]
    taken = np.zeros(m, dtype=np.bool_)
    group = np.empty(n, dtype=np.int64)
    for stage in (CONFIRMED_SURE, CONFIRMED_UNSURE, TENTATIVE_SURE):
        if stage == CONFIRMED_UNSURE and unsure == 0:
            continue
        size = 0
        for row in range(n):
            if match[row] != NONE or (rows.state[row] == CONFIRMED) == (stage == TENTATIVE_SURE):
                continue
            if stage == TENTATIVE_SURE or _matchable(rows, row, dt, learnt, edge):
                group[size] = row
                size += 1
        if size == 0:
            continue
        least = edge.tentative_similarity if stage == TENTATIVE_SURE else edge.similarity
        starts, columns, values = similar_pairs(rows, group[:size], frame, boxes, by_x, 0.0, least, class_aware)
        costs = np.empty(values.shape[0])
        for e in range(values.shape[0]):
            free = not taken[columns[e]] and sure[columns[e]] == (stage != CONFIRMED_UNSURE)
            costs[e] = least - values[e] if free else 1.0  # 1 is above 0, the cost of no match
        found = match_pairs(starts, columns, costs, m, 0.0)
        for g in range(size):
            if found[g] != NONE:
                match[group[g]] = found[g]
                taken[found[g]] = True
    return match
