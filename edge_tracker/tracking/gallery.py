"""Appearance: what each track has looked like, and how far a detection is from that.

A track's gallery is a queue of unit feature rows: the newest enters at one end, and beyond the budget the oldest leaves
at the other. Rows lie in blocks, which all tracks take from one pool, so that memory follows what is really stored,
giving a gallery back costs nothing, and a search runs through contiguous memory, newest rows first. (Measured with
single rows instead of blocks: nine times slower, by cache and TLB misses.) Rows are normalised once, when they enter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.tracking.jit import jit

NO_ROW = -1
BLOCK = 16  # rows

# Lengths of features whose inverse float32 still holds.
LEAST_LENGTH, MOST_LENGTH = 1e-30, float(np.finfo(np.float32).max)


class Gallery(NamedTuple):
    """Pool of P blocks of feature rows; row r is in block r // BLOCK.

    Attributes:
        unit: (P * BLOCK, D) float32, rows of length 1.
        norm: (P * BLOCK,) float32, the length each row had.
        newer: (P,) int32, the next newer block of the same track; of a free block, the next free one.
        older: (P,) int32, the next older block of the same track.
        free: (2,) int64, first free block and number of free blocks.
    """

    unit: np.ndarray
    norm: np.ndarray
    newer: np.ndarray
    older: np.ndarray
    free: np.ndarray


class Queues(NamedTuple):
    """Where the gallery of each of N tracks begins and ends.

    Attributes:
        newest, oldest: (N,) int32 rows, NO_ROW for an empty gallery.
        held: (N,) int32, how many rows.
    """

    newest: np.ndarray
    oldest: np.ndarray
    held: np.ndarray


def make_gallery(blocks: int, dimension: int, old: Gallery | None = None) -> Gallery:
    """A pool of `blocks` blocks, the first of them taken over from a smaller pool if one is given."""
    had = 0 if old is None else len(old.newer)
    gallery = Gallery(
        unit=np.empty((blocks * BLOCK, dimension), dtype=np.float32),
        norm=np.empty(blocks * BLOCK, dtype=np.float32),
        newer=np.arange(1, blocks + 1, dtype=np.int32),
        older=np.full(blocks, NO_ROW, dtype=np.int32),
        free=np.array([had, blocks - had], dtype=np.int64),
    )
    if old is not None:
        gallery.unit[: had * BLOCK] = old.unit
        gallery.norm[: had * BLOCK] = old.norm
        gallery.newer[:had] = old.newer
        gallery.older[:had] = old.older
        if old.free[1]:  # the old free blocks, then the new ones
            last = old.free[0]
            for _ in range(old.free[1] - 1):
                last = old.newer[last]
            gallery.newer[last] = had
            gallery.free[:] = old.free[0], blocks - had + old.free[1]
    return gallery


# Reordering a sum is what lets the compiler use vector instructions; NaN and infinity must still come through.
@jit(fastmath={"reassoc", "contract", "nsz"})
def dot(a, i, b, j):  # type: ignore[no-untyped-def]
    """Inner product of row i of `a` and row j of `b`, both (., D) float32."""
    total = np.float32(0.0)
    for d in range(a.shape[1]):
        total += a[i, d] * b[j, d]
    return total


@jit
def feature_norm(features, k):  # type: ignore[no-untyped-def]
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
    return length if length <= MOST_LENGTH else np.inf


@jit
def _take_block(gallery):  # type: ignore[no-untyped-def]
    block = gallery.free[0]
    gallery.free[0] = gallery.newer[block]
    gallery.free[1] -= 1
    return block


@jit
def _give_block(gallery, block):  # type: ignore[no-untyped-def]
    gallery.newer[block] = gallery.free[0]
    gallery.free[0] = block
    gallery.free[1] += 1


@jit
def append(gallery, queues, track, features, k, norm, budget):  # type: ignore[no-untyped-def]
    """Put a feature into a track's gallery; beyond the budget it replaces the oldest.

    Args:
        gallery: the pool; it must have a free block.
        queues: the galleries; changed.
        track: which of them.
        features: (M, D) float32, of which the k-th.
        norm: its length, greater than 0.
        budget: rows a gallery may hold; 0 for no limit.
    """
    newest, oldest, count = queues.newest, queues.oldest, queues.held
    if budget > 0 and count[track] >= budget:
        gone = oldest[track]
        block = gone // BLOCK
        if gone == newest[track]:
            newest[track] = NO_ROW
            _give_block(gallery, block)
        elif gone % BLOCK == BLOCK - 1:
            oldest[track] = gallery.newer[block] * BLOCK
            _give_block(gallery, block)
        else:
            oldest[track] = gone + 1
        count[track] -= 1
    last = newest[track]
    if last == NO_ROW:
        row = _take_block(gallery) * BLOCK
        oldest[track] = row
    elif last % BLOCK == BLOCK - 1:
        block = _take_block(gallery)
        gallery.newer[last // BLOCK] = block
        gallery.older[block] = last // BLOCK
        row = block * BLOCK
    else:
        row = last + 1
    newest[track] = row
    count[track] += 1
    gallery.norm[row] = norm
    scale = np.float32(1.0 / norm)
    for d in range(features.shape[1]):
        gallery.unit[row, d] = features[k, d] * scale


@jit
def append_unit(gallery, queues, track, unit, k, norm, budget):  # type: ignore[no-untyped-def]
    """`append` the k-th of rows that are of length 1 already, and keep the length that it had before."""
    append(gallery, queues, track, unit, k, 1.0, budget)
    gallery.norm[queues.newest[track]] = norm


@jit
def release(gallery, newest, oldest):  # type: ignore[no-untyped-def]
    """Give a whole gallery back to the pool. Its content stays readable until the next `append`.

    Args:
        newest, oldest: its ends, or NO_ROW.
    """
    if newest == NO_ROW:
        return
    block = oldest // BLOCK
    while True:
        following = gallery.newer[block]
        _give_block(gallery, block)
        if block == newest // BLOCK:
            break
        block = following


@jit
def older_row(older, row):  # type: ignore[no-untyped-def]
    """The next older row of a gallery, given the pool's links between blocks."""
    return row - 1 if row % BLOCK else older[row // BLOCK] * BLOCK + BLOCK - 1


@jit
def smallest_distance(gallery, newest, count, features, k, norm, enough):  # type: ignore[no-untyped-def]
    """Smallest cosine distance (1 - cosine) between a feature and the newest rows of a gallery, newest first.

    Args:
        gallery: the pool.
        newest: newest row of the gallery.
        count: rows to look at.
        features: (M, D) float32, of which the k-th.
        norm: its length; 0 stands for no appearance, at distance 1 from everything.
        enough: stop at the first distance no larger than this.

    Returns:
        The distance, infinite if there was no row.
    """
    unit, older = gallery.unit, gallery.older
    best, row = np.inf, newest
    for _ in range(count):
        distance = 1.0 - dot(unit, row, features, k) / norm if norm > 0.0 else 1.0
        best = min(best, distance)
        if best <= enough:
            break
        row = older_row(older, row)
    return best


def chain(gallery: Gallery, newest: int, count: int) -> list[int]:
    """The rows of a gallery, oldest first."""
    rows = []
    for _ in range(count):
        rows.append(newest)
        newest = int(older_row(gallery.older, newest))
    return rows[::-1]
