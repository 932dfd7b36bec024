"""Galleries: the latest appearance features of each track, and the distance of a detection from them.

A gallery is a queue of unit feature rows: the newest enters at one end, and beyond the budget the oldest leaves at the
other. Rows lie in blocks, which all tracks take from one pool, so that memory follows the number of features stored,
giving a gallery back costs nothing, and a search runs through contiguous memory, newest rows first. (With single rows
instead of blocks, searches took nine times as long, because of cache and TLB misses.) Rows are normalised once, when
they enter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from edge_tracker.tracking.arrays import Floats, Record, Table
from edge_tracker.tracking.jit import jit

NO_ROW = -1
BLOCK_ROWS = 16

# Lengths of features whose inverse float32 still holds.
LEAST_LENGTH, MOST_LENGTH = 1e-30, float(np.finfo(np.float32).max)

# One queue: its ends, rows of the pool or NO_ROW, and how many rows it holds.
QUEUE = np.dtype([("newest", "i8"), ("oldest", "i8"), ("held", "i8")], align=True)
EMPTY_QUEUE = np.array((NO_ROW, NO_ROW, 0), dtype=QUEUE)

# The links of a block: the next newer and the next older block of the same queue; of a free block, `newer` is the next
# free one.
BLOCK = np.dtype([("newer", "i8"), ("older", "i8")], align=True)

# The free blocks: the first of them and their number.
FREE = np.dtype([("first", "i8"), ("count", "i8")], align=True)


class Gallery(NamedTuple):
    """The pool that all queues take their rows from: P blocks; row r is in block r // BLOCK_ROWS.

    Attributes:
        unit: (P * BLOCK_ROWS, D) float32, rows of length 1.
        norm: (P * BLOCK_ROWS,) float32, the length each row had.
        blocks: (P,) BLOCK.
        free: (1,) FREE.
    """

    unit: Floats
    norm: Floats
    blocks: Table
    free: Table


def make_gallery(blocks: int, dimension: int, old: Gallery | None = None) -> Gallery:
    """A pool of `blocks` blocks, the first of them copied from a smaller pool if one is given."""
    had = 0 if old is None else len(old.blocks)
    gallery = Gallery(
        unit=np.empty((blocks * BLOCK_ROWS, dimension), dtype=np.float32),
        norm=np.empty(blocks * BLOCK_ROWS, dtype=np.float32),
        blocks=np.empty(blocks, dtype=BLOCK),
        free=np.array([(had, blocks - had)], dtype=FREE),
    )
    gallery.blocks["newer"] = np.arange(1, blocks + 1)
    gallery.blocks["older"] = NO_ROW
    if old is not None:
        gallery.unit[: had * BLOCK_ROWS] = old.unit
        gallery.norm[: had * BLOCK_ROWS] = old.norm
        gallery.blocks[:had] = old.blocks
        if free := int(old.free[0]["count"]):  # the old free blocks, then the new ones
            first = last = int(old.free[0]["first"])
            for _ in range(free - 1):
                last = int(old.blocks[last]["newer"])
            gallery.blocks[last]["newer"] = had
            gallery.free[0] = first, blocks - had + free
    return gallery


# Numba counts each view of an array, and each array taken out of a named tuple, as a reference, which costs more than
# much of what is done with it: so a feature is row k of an array, and loops take what they need out of tuples first.


# Reordering a sum is what lets the compiler use vector instructions; NaN and infinity must still come through.
@jit(fastmath={"reassoc", "contract", "nsz"})
def dot(a: Floats, i: int, b: Floats, j: int) -> float:
    """Inner product of row i of `a` and row j of `b`, both (., D) float32."""
    total: Any = np.float32(0.0)
    for d in range(a.shape[1]):
        total += a[i, d] * b[j, d]
    return total


@jit
def feature_norm(features: Floats, k: int) -> float:
    """Length of the k-th of the features (M, D) float32, also where its square over- or underflows float32.

    0, no appearance, if it is next to nothing; inf if float32 cannot hold it or the feature has NaN or inf.
    """
    square = dot(features, k, features, k)
    if square > np.float32(1e-30) and square < np.float32(1e30):
        return float(np.sqrt(square))
    wide = 0.0
    for d in range(features.shape[1]):
        wide += np.float64(features[k, d]) * np.float64(features[k, d])  # Numba's float() would leave it float32
    length = np.sqrt(wide)
    if length < LEAST_LENGTH:
        return 0.0
    return float(length) if length <= MOST_LENGTH else np.inf


@jit
def _take_block(gallery: Gallery) -> int:
    free = gallery.free[0]
    block = free["first"]
    free["first"] = gallery.blocks[block]["newer"]
    free["count"] -= 1
    return block


@jit
def _return_block(gallery: Gallery, block: int) -> None:
    free = gallery.free[0]
    gallery.blocks[block]["newer"] = free["first"]
    free["first"] = block
    free["count"] += 1


@jit
def _drop_oldest(gallery: Gallery, queue: Record) -> None:
    """Take the oldest row out of a queue that holds at least one."""
    oldest = queue["oldest"]
    block = oldest // BLOCK_ROWS
    if oldest == queue["newest"]:
        queue["newest"] = NO_ROW
        _return_block(gallery, block)
    elif oldest % BLOCK_ROWS == BLOCK_ROWS - 1:
        queue["oldest"] = gallery.blocks[block]["newer"] * BLOCK_ROWS
        _return_block(gallery, block)
    else:
        queue["oldest"] = oldest + 1
    queue["held"] -= 1


@jit
def append(gallery: Gallery, queue: Record, features: Floats, k: int, norm: float, budget: int) -> None:
    """Put a feature into a queue; beyond the budget it replaces the oldest.

    Args:
        gallery: the pool; it must have a free block.
        queue: QUEUE; changed.
        features: (M, D) float32; the feature is the k-th.
        k: its place.
        norm: its length, greater than 0.
        budget: rows a queue may hold; 0 for no limit.
    """
    if budget > 0 and queue["held"] >= budget:
        _drop_oldest(gallery, queue)
    last = queue["newest"]
    if last == NO_ROW:
        row = _take_block(gallery) * BLOCK_ROWS
        queue["oldest"] = row
    elif last % BLOCK_ROWS == BLOCK_ROWS - 1:
        block = _take_block(gallery)
        gallery.blocks[last // BLOCK_ROWS]["newer"] = block
        gallery.blocks[block]["older"] = last // BLOCK_ROWS
        row = block * BLOCK_ROWS
    else:
        row = last + 1
    queue["newest"] = row
    queue["held"] += 1
    gallery.norm[row] = norm
    unit, scale = gallery.unit, np.float32(1.0 / norm)
    for d in range(features.shape[1]):
        unit[row, d] = features[k, d] * scale


@jit
def append_unit(gallery: Gallery, queue: Record, unit: Floats, k: int, norm: float, budget: int) -> None:
    """`append` a feature that has length 1 already, and record the length that it had before.

    Args:
        gallery: the pool; it must have a free block.
        queue: QUEUE; changed.
        unit: (M, D) float32, rows of length 1; the feature is the k-th.
        k: its place.
        norm: the length it had.
        budget: rows a queue may hold; 0 for no limit.
    """
    append(gallery, queue, unit, k, 1.0, budget)
    gallery.norm[queue["newest"]] = norm


@jit
def release(gallery: Gallery, queue: Record) -> None:
    """Give all blocks of a queue back to the pool. Their rows stay readable until the next `append`."""
    if queue["newest"] == NO_ROW:
        return
    blocks = gallery.blocks
    block, last = queue["oldest"] // BLOCK_ROWS, queue["newest"] // BLOCK_ROWS
    while True:
        following = blocks[block]["newer"]
        _return_block(gallery, block)
        if block == last:
            break
        block = following


@jit
def clear(queue: Record) -> None:
    """Make a queue empty; its blocks must have been released before, or never taken."""
    queue["newest"] = queue["oldest"] = NO_ROW
    queue["held"] = 0


@jit
def older_row(blocks: Table, row: int) -> int:
    """The next older row of the same queue."""
    return row - 1 if row % BLOCK_ROWS else blocks[row // BLOCK_ROWS]["older"] * BLOCK_ROWS + BLOCK_ROWS - 1


@jit
def newer_row(blocks: Table, row: int) -> int:
    """The next newer row of the same queue."""
    return row + 1 if row % BLOCK_ROWS != BLOCK_ROWS - 1 else blocks[row // BLOCK_ROWS]["newer"] * BLOCK_ROWS


@jit
def smallest_distance(
    gallery: Gallery, queue: Record, count: int, features: Floats, k: int, norm: float, enough: float
) -> float:
    """Smallest cosine distance (1 - cosine) between a feature and the newest rows of a queue, newest first.

    Args:
        gallery: the pool.
        queue: QUEUE.
        count: rows to compare with.
        features: (M, D) float32; the feature is the k-th.
        k: its place.
        norm: its length; 0 stands for no appearance, at distance 1 from everything.
        enough: stop at the first distance no larger than this.

    Returns:
        The distance, infinite if there was no row.
    """
    unit, blocks = gallery.unit, gallery.blocks
    best, row = np.inf, queue["newest"]
    for _ in range(count):
        distance = 1.0 - dot(unit, row, features, k) / norm if norm > 0.0 else 1.0
        best = min(best, distance)
        if best <= enough:
            break
        row = older_row(blocks, row)
    return best


def rows_of(gallery: Gallery, queue: Record) -> list[int]:
    """The rows of a queue, oldest first."""
    rows: list[int] = []
    row = int(queue["newest"])
    for _ in range(int(queue["held"])):
        rows.append(row)
        row = int(older_row(gallery.blocks, row))
    return rows[::-1]
