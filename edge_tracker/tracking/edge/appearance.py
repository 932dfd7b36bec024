"""Appearance in `method="edge"`: lost tracks that come back, identities that crossed, and which crops are worth it.

Distances are normalised by what they have turned out to be: 0 is usual between two features of one object, 1 between
those of two objects. So one set of limits does for a classifier that separates people poorly and for a ReID network.
"""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.assignment import NONE, match_pairs
from edge_tracker.tracking.edge.filter import OTHER_COUNT, OTHER_SUM, SAME_COUNT, SAME_SUM, learn, sureness
from edge_tracker.tracking.edge.motion import similar_rows
from edge_tracker.tracking.edge.tables import PENDING, evidence_of, pending_queues
from edge_tracker.tracking.gallery import (
    BLOCK,
    NO_ROW,
    Queues,
    append,
    append_unit,
    release,
    smallest_distance,
)
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED, DELETED, TENTATIVE

BUDGET = 10  # features a gallery holds

# Usual cosine distances before any were seen, with the weight of so many observations; old ones fade.
SAME, OTHER, PRIOR, FADE = 0.15, 0.35, 10.0, 0.999
LEAST_SPREAD = 0.03
FAR = 10.0  # so much more than any distance that as many tracks as possible come back
# A gallery tells what is usual from so many features on; each feature is compared with those of so many other tracks.
ENOUGH, OTHERS = 3, 2

# Why a detection is to be embedded, the most valuable first.
NOT_WANTED, RETURNING, CROSSED, BEGINNING, CROSSING, STALE = 0, 1, 2, 3, 4, 5


@jit
def clean_crops(boxes, by_x, edge):  # type: ignore[no-untyped-def]
    """(K,) bool: which boxes (K, 4) xywh, in order of x by `by_x` (K,), show little of any other detection."""
    clean, widest = np.ones(boxes.shape[0], dtype=np.bool_), 0.0
    for k in range(boxes.shape[0]):
        widest = max(widest, boxes[k, 2])
    for at in range(boxes.shape[0]):
        j = by_x[at]
        for after in range(at + 1, boxes.shape[0]):
            k = by_x[after]
            distance = boxes[k, 0] - boxes[j, 0]
            if distance >= (boxes[j, 2] + widest) / 2:
                break
            width = (boxes[j, 2] + boxes[k, 2]) / 2 - distance
            height = (boxes[j, 3] + boxes[k, 3]) / 2 - abs(boxes[j, 1] - boxes[k, 1])
            if width > 0.0 and height > 0.0:
                both = min(width, boxes[j, 2], boxes[k, 2]) * min(height, boxes[j, 3], boxes[k, 3])
                clean[j] &= both <= edge.clean * boxes[j, 2] * boxes[j, 3]
                clean[k] &= both <= edge.clean * boxes[k, 2] * boxes[k, 3]
    return clean


@jit
def lost_tracks(rows, match, edge):  # type: ignore[no-untyped-def]
    """The rows (L,) that may come back: confirmed, known by looks, without a detection, and not for too long."""
    lost = np.empty(match.shape[0], dtype=np.int64)
    count = 0
    state, newest, since = rows.state, rows.newest, rows.time_since_update
    for row in range(match.shape[0]):
        known = state[row] == CONFIRMED and newest[row] != NO_ROW
        if known and match[row] == NONE and since[row] <= edge.reenter_age:
            lost[count] = row
            count += 1
    return lost[:count]


@jit
def _may_be(rows, row, frame, boxes, k, edge, class_aware):  # type: ignore[no-untyped-def]
    """Whether lost track `row` could have come back as the k-th box, going by place and size."""
    if class_aware and rows.class_id[row] != frame.class_id[k]:
        return False
    height, since = rows.mean[row, 3], rows.time_since_update[row]
    if min(height, boxes[k, 3]) < edge.reenter_height * max(height, boxes[k, 3]):
        return False
    beyond = since - min(since, edge.memory)  # its speed tells where it is for so long only
    dx = (boxes[k, 0] - rows.mean[row, 0] + rows.mean[row, 4] * beyond) / height
    dy = (boxes[k, 1] - rows.mean[row, 1] + rows.mean[row, 5] * beyond) / height
    limit = edge.reach + edge.speed * since
    return dx * dx + dy * dy <= limit * limit


@jit
def _owners(rows, match, m):  # type: ignore[no-untyped-def]
    """The row of each of the M detections, NONE for none."""
    owner = np.full(m, NONE)
    for row in range(match.shape[0]):
        if match[row] != NONE:
            owner[match[row]] = row
    return owner


@jit
def _followed(rows, n, edge):  # type: ignore[no-untyped-def]
    """The confirmed rows (G,) of which it is known where they are."""
    return np.flatnonzero((rows.state[:n] == CONFIRMED) & (rows.time_since_update[:n] <= edge.memory))


@jit
def _about_to_cross(rows, n, edge):  # type: ignore[no-untyped-def]
    """(N,) bool: which rows touch another that is followed, both enlarged."""
    about = np.zeros(n, dtype=np.bool_)
    pairs = similar_rows(rows.mean, _followed(rows, n, edge), edge.near, 0.0)
    for p in range(pairs.shape[0]):
        about[pairs[p, 0]] = about[pairs[p, 1]] = True
    return about


@jit
def wanted_crops(rows, columns, match, frame, boxes, clean, dt, edge, class_aware):  # type: ignore[no-untyped-def]
    """Which detections must be embedded after the matching by motion, and why.

    Args:
        clean: (K,) bool, see `clean_crops`.

    Returns:
        (K,) int8, NOT_WANTED or the reason.
    """
    m = boxes.shape[0]
    wanted = np.zeros(m, dtype=np.int8)
    about = np.empty(0, dtype=np.bool_)  # rows about to cross another, once that is asked for
    owner, lost = _owners(rows, match, m), lost_tracks(rows, match, edge)
    for k in range(m):
        row = owner[k]
        if row == NONE or rows.state[row] == TENTATIVE:
            if sureness(frame.confidence[k]) >= edge.low:
                for other in lost:
                    if _may_be(rows, other, frame, boxes, k, edge, class_aware):
                        wanted[k] = RETURNING
                        break
            if row == NONE or wanted[k] != NOT_WANTED or not clean[k]:
                continue
            if columns.evidence[row] + evidence_of(frame.confidence[k]) >= edge.evidence:
                wanted[k] = BEGINNING
        elif not clean[k]:
            continue
        elif columns.partner[row] > 0 and columns.parted[row] <= edge.swap_age:
            if columns.pending[row] == 0:
                wanted[k] = CROSSED
        elif rows.newest[row] == NO_ROW:
            wanted[k] = BEGINNING
        elif columns.stale[row] >= edge.refresh - dt / 2:
            wanted[k] = STALE
        elif columns.stale[row] >= edge.near_refresh - dt / 2:
            if about.shape[0] == 0:
                about = _about_to_cross(rows, match.shape[0], edge)
            if about[row]:
                wanted[k] = CROSSING
    return wanted


@jit
def _normalised(learnt, distance):  # type: ignore[no-untyped-def]
    """A cosine distance on the scale from the usual of one object, 0, to that of two, 1."""
    same = (learnt[SAME_SUM] + PRIOR * SAME) / (learnt[SAME_COUNT] + PRIOR)
    other = (learnt[OTHER_SUM] + PRIOR * OTHER) / (learnt[OTHER_COUNT] + PRIOR)
    return (distance - same) / max(other - same, LEAST_SPREAD)


@jit
def _distance(rows, row, gallery, features, k, norm):  # type: ignore[no-untyped-def]
    return smallest_distance(gallery, rows.newest[row], rows.features[row], features, k, norm, -np.inf)


@jit
def reenter_tracks(rows, match, gallery, frame, boxes, features, learnt, edge, class_aware):  # type: ignore[no-untyped-def]
    """Give lost tracks the detections that look like them, of those that no confirmed track has. Changes `match`.

    Returns:
        (N,) bool, the rows that have come back.
    """
    n, m = match.shape[0], boxes.shape[0]
    back = np.zeros(n, dtype=np.bool_)
    lost = lost_tracks(rows, match, edge)
    if lost.shape[0] == 0:
        return back
    owner = _owners(rows, match, m)
    starts = np.zeros(lost.shape[0] + 1, dtype=np.int64)
    columns = np.empty(lost.shape[0] * m, dtype=np.int64)
    costs = np.empty(columns.shape[0])
    count = 0
    for g in range(lost.shape[0]):
        for k in range(m):
            free = owner[k] == NONE or rows.state[owner[k]] == TENTATIVE
            if not free or not frame.norm[k] > 0.0 or sureness(frame.confidence[k]) < edge.low:
                continue
            if not _may_be(rows, lost[g], frame, boxes, k, edge, class_aware):
                continue
            distance = _distance(rows, lost[g], gallery, features, frame.origin[k], frame.norm[k])
            distance = _normalised(learnt, distance)
            if distance < edge.reenter:
                columns[count], costs[count] = k, distance
                count += 1
        starts[g + 1] = count
    if count == 0:
        return back
    found = match_pairs(starts, columns[:count], costs[:count], m, FAR)
    for g in range(lost.shape[0]):
        if found[g] != NONE:
            if owner[found[g]] != NONE:
                match[owner[found[g]]] = NONE  # the tentative track was the lost one
            match[lost[g]] = found[g]
            back[lost[g]] = True
    return back


@jit
def learn_distances(rows, match, back, gallery, frame, features, clean, learnt):  # type: ignore[no-untyped-def]
    """Take note of how far features are from the gallery of their own track and from those of its neighbours."""
    n = match.shape[0]
    newest, held, places, norms = rows.newest, rows.features, frame.origin, frame.norm
    known = np.empty(n, dtype=np.int64)  # from left to right, as the order in which tracks were born means nothing
    count = 0
    for row in np.argsort(rows.mean[:n, 0], kind="mergesort"):
        if rows.state[row] == CONFIRMED and match[row] != NONE and held[row] >= ENOUGH:
            known[count], count = row, count + 1
    same, others = 0.0, 0.0
    of_same, of_others = 0, 0
    for i in range(count):
        row = known[i]
        k = match[row]
        if back[row] or not clean[k] or not norms[k] > 0.0:
            continue
        origin, norm = places[k], norms[k]
        same += smallest_distance(gallery, newest[row], held[row], features, origin, norm, -np.inf)
        of_same += 1
        for step in range(1, min(count, OTHERS + 1)):
            other = known[(i + step) % count]
            others += smallest_distance(gallery, newest[other], held[other], features, origin, norm, -np.inf)
            of_others += 1
    learn(learnt, SAME_SUM, same, of_same, FADE)
    learn(learnt, OTHER_SUM, others, of_others, FADE)


@jit
def _drop_pending(columns, row, gallery):  # type: ignore[no-untyped-def]
    release(gallery, columns.pending_newest[row], columns.pending_oldest[row])
    columns.pending_newest[row] = columns.pending_oldest[row] = NO_ROW
    columns.pending[row] = 0


@jit
def note_crossings(rows, columns, match, gallery, edge):  # type: ignore[no-untyped-def]
    """Note which tracks overlap now: until they have been told apart again, their galleries stay as they are."""
    n = match.shape[0]
    partner = np.full(n, NONE)
    pairs = similar_rows(rows.mean, _followed(rows, n, edge), 0.0, edge.overlap)
    for p in range(pairs.shape[0]):
        row, other = pairs[p]
        if match[row] != NONE or match[other] != NONE:
            # Of several that overlap a track its partner is the youngest, whatever order they are found in.
            partner[row], partner[other] = max(partner[row], other), max(partner[other], row)
    for row in range(n):
        if partner[row] != NONE:
            columns.partner[row], columns.parted[row] = rows.id[partner[row]], 0.0
            if columns.pending[row] > 0:
                _drop_pending(columns, row, gallery)


@jit
def _settle_pending(rows, columns, row, gallery):  # type: ignore[no-untyped-def]
    """Move a row's pending features into its gallery, and end its crossing."""
    place = columns.pending_oldest[row]
    queues = Queues(rows.newest, rows.oldest, rows.features)
    for _ in range(columns.pending[row]):
        append_unit(gallery, queues, row, gallery.unit, place, gallery.norm[place], BUDGET)
        place = place + 1 if place % BLOCK != BLOCK - 1 else gallery.newer[place // BLOCK] * BLOCK
    _drop_pending(columns, row, gallery)
    columns.partner[row] = 0


@jit
def remember_features(rows, columns, match, gallery, frame, features, clean, edge):  # type: ignore[no-untyped-def]
    """Put the features of clean crops into galleries, or into the queue of those seen since a crossing."""
    queues, waiting = Queues(rows.newest, rows.oldest, rows.features), pending_queues(columns)
    state, places, norms = rows.state, frame.origin, frame.norm
    partner, parted, stale = columns.partner, columns.parted, columns.stale
    for row in range(match.shape[0]):
        if state[row] == DELETED:
            continue
        if partner[row] > 0 and parted[row] > edge.swap_age:
            _settle_pending(rows, columns, row, gallery)
        k = match[row]
        if k == NONE or not clean[k] or not norms[k] > 0.0:
            continue
        if partner[row] == 0:
            append(gallery, queues, row, features, places[k], norms[k], BUDGET)
            stale[row] = 0.0
        elif parted[row] > 0.0:
            append(gallery, waiting, row, features, places[k], norms[k], PENDING)


@jit
def _mean_distance(rows, row, columns, shown, gallery, learnt):  # type: ignore[no-untyped-def]
    """Mean normalised distance of what row `shown` has looked like since the crossing from the gallery of `row`."""
    place, total = columns.pending_oldest[shown], 0.0
    for _ in range(columns.pending[shown]):
        total += _distance(rows, row, gallery, gallery.unit, place, 1.0)
        place = place + 1 if place % BLOCK != BLOCK - 1 else gallery.newer[place // BLOCK] * BLOCK
    return _normalised(learnt, total / columns.pending[shown])


@jit
def _exchange(column, i, j):  # type: ignore[no-untyped-def]
    for c in range(column.shape[1]):
        column[i, c], column[j, c] = column[j, c], column[i, c]


@jit
def settle_crossings(rows, columns, match, gallery, learnt, edge):  # type: ignore[no-untyped-def]
    """Where both tracks of a crossing have been seen clearly again, exchange them if that fits their galleries better.

    An identity keeps its row, its id and its gallery; what changes rows is the motion and all about the detection.
    """
    n = match.shape[0]
    ids, partner, pending = rows.id, columns.partner, columns.pending
    for row in range(n):
        if partner[row] == 0 or pending[row] == 0 or match[row] == NONE:
            continue
        other = np.searchsorted(ids[:row], partner[row])  # rows are in the order of their ids
        if other == row or ids[other] != partner[row] or partner[other] != ids[row]:
            continue
        if pending[other] == 0 or match[other] == NONE:
            continue
        if rows.newest[row] != NO_ROW and rows.newest[other] != NO_ROW:
            straight = _mean_distance(rows, row, columns, row, gallery, learnt)
            straight += _mean_distance(rows, other, columns, other, gallery, learnt)
            crossed = _mean_distance(rows, row, columns, other, gallery, learnt)
            crossed += _mean_distance(rows, other, columns, row, gallery, learnt)
            if (straight - crossed) / 2 > edge.swap:
                capacity = rows.id.shape[0]
                _exchange(rows.mean, row, other)
                _exchange(rows.covariance.reshape(capacity, 12), row, other)
                _exchange(rows.confidence.reshape(capacity, 1), row, other)
                _exchange(rows.ltwh, row, other)
                _exchange(rows.detection.reshape(capacity, 1), row, other)
                _exchange(rows.class_id.reshape(capacity, 1), row, other)
                _exchange(columns.pending_newest.reshape(capacity, 1), row, other)
                _exchange(columns.pending_oldest.reshape(capacity, 1), row, other)
                _exchange(columns.pending.reshape(capacity, 1), row, other)
                match[row], match[other] = match[other], match[row]
        for settled in (row, other):
            _settle_pending(rows, columns, settled, gallery)
            columns.stale[settled] = 0.0
