"""Minimum-cost assignment of tracks to detections, overlap, and non-maximum suppression.

After gating, the allowed pairs form a sparse graph. Pricing every forbidden pair at one cost above all allowed ones, as
DeepSORT does, makes the best assignment the matching of largest total gain (forbidden cost minus cost), and that falls
apart into the graph's connected components: most are a single pair, and the rest are small problems for an exact
solver.
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.jit import jit

NONE = -1


@jit
def iou(box, boxes, k):  # type: ignore[no-untyped-def]
    """Intersection over union of a box and the k-th of others, both left, top, width, height; 0 where they are apart.

    Args:
        box: 4 numbers.
        boxes: (K, 4).
    """
    width = min(box[0] + box[2], boxes[k, 0] + boxes[k, 2]) - max(box[0], boxes[k, 0])
    height = min(box[1] + box[3], boxes[k, 1] + boxes[k, 3]) - max(box[1], boxes[k, 1])
    if width <= 0.0 or height <= 0.0:
        return 0.0
    both = width * height
    return both / (box[2] * box[3] + boxes[k, 2] * boxes[k, 3] - both)


@jit
def solve(cost):  # type: ignore[no-untyped-def]
    """Exact minimum-cost assignment by shortest augmenting paths (Jonker and Volgenant, 1987), without initialisation.

    Args:
        cost: (R, C) float64, R <= C, finite.

    Returns:
        (R,) int64, the column of every row.
    """
    n_rows, n_columns = cost.shape
    row_price = np.zeros(n_rows)
    column_price = np.zeros(n_columns)
    row_of = np.full(n_columns, NONE)
    column_of = np.full(n_rows, NONE)
    came_from = np.empty(n_columns, dtype=np.int64)
    distance = np.empty(n_columns)
    reached = np.empty(n_columns, dtype=np.bool_)
    for start in range(n_rows):
        distance[:] = np.inf
        reached[:] = False
        row, length, last = start, 0.0, NONE
        while True:
            # Extend the shortest alternating path from `row`, then take the nearest column not yet reached.
            nearest = np.inf
            for column in range(n_columns):
                if reached[column]:
                    continue
                candidate = length + cost[row, column] - row_price[row] - column_price[column]
                if candidate < distance[column]:
                    distance[column] = candidate
                    came_from[column] = row
                if distance[column] < nearest:
                    nearest = distance[column]
                    last = column
            length = nearest
            reached[last] = True
            if row_of[last] == NONE:
                break
            row = row_of[last]
        # Prices keep the reduced costs of the tree at zero or above.
        row_price[start] += length
        for column in range(n_columns):
            if reached[column] and column != last:
                row_price[row_of[column]] += length - distance[column]
                column_price[column] -= length - distance[column]
        while True:  # flip the path
            row = came_from[last]
            row_of[last] = row
            last, column_of[row] = column_of[row], last
            if row == start:
                break
    return column_of


@jit
def _component(first, starts, columns, column_starts, column_rows, row_seen, column_seen, rows, cols):  # type: ignore[no-untyped-def]
    """Collect the rows and columns connected to row `first`; returns how many of each."""
    rows[0] = first
    row_seen[first] = True
    n_rows, n_cols, at = 1, 0, 0
    while at < n_rows:
        row = rows[at]
        at += 1
        for e in range(starts[row], starts[row + 1]):
            column = columns[e]
            if column_seen[column]:
                continue
            column_seen[column] = True
            cols[n_cols] = column
            n_cols += 1
            for f in range(column_starts[column], column_starts[column + 1]):
                other = column_rows[f]
                if not row_seen[other]:
                    row_seen[other] = True
                    rows[n_rows] = other
                    n_rows += 1
    return n_rows, n_cols


@jit
def match_pairs(starts, columns, costs, n_columns, forbidden):  # type: ignore[no-untyped-def]
    """Best matching over the allowed pairs of a sparse graph.

    Equal to the dense assignment in which every other pair costs `forbidden`, with the forbidden pairs then dropped.

    Args:
        starts: (R + 1,) int64: the pairs of row r are starts[r] .. starts[r + 1] of the next two.
        columns: (E,) int64.
        costs: (E,) float64; a pair whose cost is not below `forbidden` is none.
        n_columns: C.
        forbidden: cost of leaving a row and a column apart.

    Returns:
        (R,) int64, the column matched to each row, or -1.
    """
    n_rows = starts.shape[0] - 1
    matched = np.full(n_rows, NONE)
    column_starts = np.zeros(n_columns + 1, dtype=np.int64)
    n_edges = starts[n_rows]
    for e in range(n_edges):
        column_starts[columns[e] + 1] += 1
    competing = 0
    for row in range(n_rows):
        degree = starts[row + 1] - starts[row]
        if degree == 1 and column_starts[columns[starts[row]] + 1] == 1:
            if costs[starts[row]] < forbidden:
                matched[row] = columns[starts[row]]
        elif degree > 0:
            competing += 1
    if competing == 0:
        return matched

    for column in range(n_columns):
        column_starts[column + 1] += column_starts[column]
    column_rows = np.empty(n_edges, dtype=np.int64)
    filled = column_starts[:-1].copy()
    for row in range(n_rows):
        for e in range(starts[row], starts[row + 1]):
            column_rows[filled[columns[e]]] = row
            filled[columns[e]] += 1
    row_seen = np.zeros(n_rows, dtype=np.bool_)
    column_seen = np.zeros(n_columns, dtype=np.bool_)
    place = np.empty(n_columns, dtype=np.int64)
    rows = np.empty(n_rows, dtype=np.int64)
    cols = np.empty(n_columns, dtype=np.int64)
    for first in range(n_rows):
        if row_seen[first] or matched[first] != NONE or starts[first] == starts[first + 1]:
            continue
        r, c = _component(first, starts, columns, column_starts, column_rows, row_seen, column_seen, rows, cols)
        for j in range(c):
            place[cols[j]] = j
        cost = np.full((r, c) if r <= c else (c, r), forbidden)
        for i in range(r):
            for e in range(starts[rows[i]], starts[rows[i] + 1]):
                j = place[columns[e]]
                if r <= c:
                    cost[i, j] = min(costs[e], forbidden)
                else:
                    cost[j, i] = min(costs[e], forbidden)
        answer = solve(cost)
        for k in range(answer.shape[0]):
            if cost[k, answer[k]] < forbidden:
                if r <= c:
                    matched[rows[k]] = cols[answer[k]]
                else:
                    matched[rows[answer[k]]] = cols[k]
    return matched


@jit
def suppress(boxes, scores, max_overlap):  # type: ignore[no-untyped-def]
    """Non-maximum suppression as deep-sort-realtime does it, for boxes of any scale.

    From the highest score down, a box is kept and every other box is dropped of whose own area more than
    `max_overlap` is covered. Equal scores: the later one wins.

    Args:
        boxes: (M, 4) ltwh.
        scores: (M,).
        max_overlap: share of a box's area, 0 to 1.

    Returns:
        (M,) bool, True for the boxes that stay.
    """
    order = np.argsort(scores, kind="mergesort")[::-1]
    keep = np.ones(scores.shape[0], dtype=np.bool_)
    for a in range(order.shape[0]):
        i = order[a]
        if not keep[i]:
            continue
        for b in range(a + 1, order.shape[0]):
            j = order[b]
            if keep[j]:
                width = min(boxes[i, 0] + boxes[i, 2], boxes[j, 0] + boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
                height = min(boxes[i, 1] + boxes[i, 3], boxes[j, 1] + boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
                if width > 0.0 and height > 0.0 and width * height > max_overlap * boxes[j, 2] * boxes[j, 3]:
                    keep[j] = False
    return keep
