"""Minimum-cost assignment of tracks to detections, and overlap.

After gating, the allowed pairs form a sparse graph. Pricing every forbidden pair at one cost above all allowed ones, as
DeepSORT does, makes the best assignment the matching of largest total gain (forbidden cost minus cost), and that falls
apart into the graph's connected components: most are a single pair, and the rest are small problems for an exact
solver.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.tracking.arrays import NONE, Bools, Floats, Ints, nones
from edge_tracker.tracking.jit import jit


@jit
def iou(box: Floats, other: Floats) -> float:
    """Intersection over union of two boxes (4,) left, top, width, height; 0 where they are apart."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    if width <= 0.0 or height <= 0.0:
        return 0.0
    both = width * height
    return both / (box[2] * box[3] + other[2] * other[3] - both)


@jit
def solve(cost: Floats) -> Ints:
    """Exact minimum-cost assignment by shortest augmenting paths (Jonker and Volgenant, 1987), without initialisation.

    Args:
        cost: (R, C) float64, R <= C, finite.

    Returns:
        (R,) int64, the column of every row.
    """
    n_rows, n_columns = cost.shape
    row_price = np.zeros(n_rows)
    column_price = np.zeros(n_columns)
    row_of = nones(n_columns)
    column_of = nones(n_rows)
    came_from = np.empty(n_columns, dtype=np.int64)
    distance = np.empty(n_columns)
    reached = np.empty(n_columns, dtype=np.bool_)
    for start in range(n_rows):
        for column in range(n_columns):
            distance[column] = np.inf
            reached[column] = False
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


class _Graph(NamedTuple):
    """The allowed pairs, by row (see `match_pairs`) and by column: its rows are column_rows[column_starts[column]:]."""

    starts: Ints
    columns: Ints
    column_starts: Ints
    column_rows: Ints


class _Component(NamedTuple):
    """The rows and columns that are connected, in the order in which they were found, and all found so far."""

    rows: Ints
    columns: Ints
    row_seen: Bools
    column_seen: Bools


@jit
def _collect(first: int, graph: _Graph, found: _Component) -> tuple[int, int]:
    """Write the rows and columns connected to row `first` into `found`; returns the number of each."""
    starts, columns, column_starts, column_rows = graph
    found_rows, found_columns, row_seen, column_seen = found
    found_rows[0] = first
    row_seen[first] = True
    n_rows, n_columns, at = 1, 0, 0
    while at < n_rows:
        row = found_rows[at]
        at += 1
        for e in range(starts[row], starts[row + 1]):
            column = columns[e]
            if column_seen[column]:
                continue
            column_seen[column] = True
            found_columns[n_columns] = column
            n_columns += 1
            for f in range(column_starts[column], column_starts[column + 1]):
                other = column_rows[f]
                if not row_seen[other]:
                    row_seen[other] = True
                    found_rows[n_rows] = other
                    n_rows += 1
    return n_rows, n_columns


@jit
def _graph(starts: Ints, columns: Ints, column_starts: Ints) -> _Graph:
    """The graph of the allowed pairs.

    Args:
        starts, columns: as for `match_pairs`.
        column_starts: (C + 1,) int64, 0 and then the number of rows of each column; becomes their running sum.
    """
    n_columns = column_starts.shape[0] - 1
    filled_to = np.empty(n_columns, dtype=np.int64)
    for column in range(n_columns):
        filled_to[column] = column_starts[column]
        column_starts[column + 1] += column_starts[column]
    column_rows = np.empty(columns.shape[0], dtype=np.int64)
    for row in range(starts.shape[0] - 1):
        for e in range(starts[row], starts[row + 1]):
            column_rows[filled_to[columns[e]]] = row
            filled_to[columns[e]] += 1
    return _Graph(starts, columns, column_starts, column_rows)


@jit
def match_pairs(starts: Ints, columns: Ints, costs: Floats, n_columns: int, forbidden: float) -> Ints:
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
    matched = nones(n_rows)
    column_starts = np.zeros(n_columns + 1, dtype=np.int64)
    for e in range(starts[n_rows]):
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

    graph = _graph(starts, columns, column_starts)
    found = _Component(
        np.empty(n_rows, dtype=np.int64),
        np.empty(n_columns, dtype=np.int64),
        np.zeros(n_rows, dtype=np.bool_),
        np.zeros(n_columns, dtype=np.bool_),
    )
    found_rows, found_columns, row_seen, _ = found
    place = np.empty(n_columns, dtype=np.int64)
    for first in range(n_rows):
        if row_seen[first] or matched[first] != NONE or starts[first] == starts[first + 1]:
            continue
        r, c = _collect(first, graph, found)
        for j in range(c):
            place[found_columns[j]] = j
        tall = r > c  # `solve` wants no more rows than columns
        cost = np.empty((c, r) if tall else (r, c))
        for i in range(cost.shape[0]):
            for j in range(cost.shape[1]):
                cost[i, j] = forbidden
        for i in range(r):
            for e in range(starts[found_rows[i]], starts[found_rows[i] + 1]):
                j = place[columns[e]]
                if tall:
                    cost[j, i] = min(costs[e], forbidden)
                else:
                    cost[i, j] = min(costs[e], forbidden)
        answer = solve(cost)
        for k in range(answer.shape[0]):
            if cost[k, answer[k]] < forbidden:
                if tall:
                    matched[found_rows[answer[k]]] = found_columns[k]
                else:
                    matched[found_rows[k]] = found_columns[answer[k]]
    return matched
