"""Appearance: what each track has looked like, and how far a detection is from that.

A track's gallery is a ring of unit feature rows in a pool that all tracks share, linked from oldest to newest and back
around. Memory follows what is really stored, dropping a gallery costs nothing, and the newest rows come first in a
search. Rows are normalised once, when they enter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.tracking.jit import jit

NO_ROW = -1


class Gallery(NamedTuple):
    """Pool of R feature rows and their links.

    Attributes:
        unit: (R, D) float32, rows of length 1.
        norm: (R,) float32, the length each row had.
        newer: (R,) int32, the next newer row of the same track; of the newest, the oldest; of a free row, the next
            free one.
        older: (R,) int32, the next older row; of the oldest, the newest.
        free: (2,) int64, first free row and number of free rows.
    """

    unit: np.ndarray
    norm: np.ndarray
    newer: np.ndarray
    older: np.ndarray
    free: np.ndarray


def make_gallery(rows: int, dimension: int, old: Gallery | None = None) -> Gallery:
    """A pool of `rows` rows, the first of them taken over from a smaller pool if one is given."""
    had = 0 if old is None else len(old.norm)
    gallery = Gallery(
        unit=np.empty((rows, dimension), dtype=np.float32),
        norm=np.empty(rows, dtype=np.float32),
        newer=np.arange(1, rows + 1, dtype=np.int32),
        older=np.full(rows, NO_ROW, dtype=np.int32),
        free=np.array([had, rows - had], dtype=np.int64),
    )
    gallery.newer[-1] = NO_ROW
    if old is not None:
        for new_array, old_array in zip(gallery[:4], old[:4], strict=True):
            new_array[:had] = old_array
        if old.free[1]:  # the old free rows, then the new ones
            last = old.free[0]
            while old.newer[last] != NO_ROW:
                last = old.newer[last]
            gallery.newer[last] = had
            gallery.free[0] = old.free[0]
            gallery.free[1] += old.free[1]
    return gallery


# Reordering a sum is what lets the compiler use vector instructions; NaN and infinity must still come through.
@jit(fastmath={"reassoc", "contract", "nsz"})
def dot(a, b):  # type: ignore[no-untyped-def]
    """Inner product of two float32 vectors (D,)."""
    total = np.float32(0.0)
    for k in range(a.shape[0]):
        total += a[k] * b[k]
    return total


@jit
def feature_norm(feature):  # type: ignore[no-untyped-def]
    """Length of a float32 vector (D,), also where its square over- or underflows float32; NaN or inf if it has any."""
    square = dot(feature, feature)
    if square > np.float32(1e-30) and square < np.float32(1e30):
        return float(np.sqrt(square))
    wide = 0.0
    for k in range(feature.shape[0]):
        wide += float(feature[k]) * float(feature[k])
    return np.sqrt(wide)


@jit
def append(gallery, newest, rows, track, feature, norm, budget):  # type: ignore[no-untyped-def]
    """Put a feature into a track's gallery; beyond the budget it replaces the oldest.

    Args:
        gallery: the pool; it must have a free row.
        newest: (N,) int32, newest row of each track, NO_ROW for none; changed.
        rows: (N,) int32, rows each track holds; changed.
        track: which track.
        feature: (D,) float32.
        norm: its length, greater than 0.
        budget: rows a track may hold; 0 for no limit.
    """
    last = newest[track]
    if last == NO_ROW:
        row = gallery.free[0]
        gallery.free[0] = gallery.newer[row]
        gallery.free[1] -= 1
        gallery.newer[row] = row
        gallery.older[row] = row
        rows[track] = 1
    elif budget > 0 and rows[track] >= budget:
        row = gallery.newer[last]  # the oldest: the ring closes there
    else:
        row = gallery.free[0]
        gallery.free[0] = gallery.newer[row]
        gallery.free[1] -= 1
        oldest = gallery.newer[last]
        gallery.newer[last] = row
        gallery.older[row] = last
        gallery.newer[row] = oldest
        gallery.older[oldest] = row
        rows[track] += 1
    newest[track] = row
    gallery.norm[row] = norm
    scale = np.float32(1.0 / norm)
    for k in range(feature.shape[0]):
        gallery.unit[row, k] = feature[k] * scale


@jit
def release(gallery, last, count):  # type: ignore[no-untyped-def]
    """Give a whole gallery back to the pool. Its content stays readable until the next `append`.

    Args:
        last: its newest row, or NO_ROW.
        count: rows it holds.
    """
    if last != NO_ROW:
        oldest = gallery.newer[last]
        gallery.newer[last] = gallery.free[0]
        gallery.free[0] = oldest
        gallery.free[1] += count


@jit
def within(gallery, last, feature, norm, limit):  # type: ignore[no-untyped-def]
    """Whether any row of a gallery lies within a cosine distance; newest first, stopping at the first that does.

    Args:
        gallery: the pool.
        last: newest row of the track, or NO_ROW.
        feature: (D,) float32.
        norm: its length; 0 stands for no appearance, at distance 1 from everything.
        limit: largest cosine distance (1 - cosine) that counts.
    """
    if last == NO_ROW:
        return False
    if norm == 0.0:
        return limit >= 1.0
    row = last
    while True:
        if 1.0 - dot(gallery.unit[row], feature) / norm <= limit:
            return True
        row = gallery.older[row]
        if row == last:
            return False


@jit
def smallest_distance(gallery, last, feature, norm):  # type: ignore[no-untyped-def]
    """Smallest cosine distance between a feature and the rows of a gallery; infinite for an empty one.

    Arguments as for `within`.
    """
    if last == NO_ROW:
        return np.inf
    if norm == 0.0:
        return 1.0
    best = -np.inf
    row = last
    while True:
        best = max(best, float(dot(gallery.unit[row], feature)))
        row = gallery.older[row]
        if row == last:
            return 1.0 - best / norm


def chain(gallery: Gallery, row: int, count: int) -> list[int]:
    """The places in the pool of a gallery of `count` rows whose newest is `row`, oldest first."""
    places = []
    for _ in range(count):
        places.append(row)
        row = int(gallery.older[row])
    return places[::-1]
