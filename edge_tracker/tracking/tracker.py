"""One frame of DeepSORT on arrays: predict, matching cascade, IoU stage, lifecycle.

The method is that of Wojke, Bewley and Paulus (2017, arXiv 1703.07402) as deep-sort-realtime runs it; what is computed,
and in which order, is chosen so that only what the answer depends on is computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking import kalman
from edge_tracker.tracking.appearance import NO_ROW, Queues, append, feature_norm, smallest_distance
from edge_tracker.tracking.assignment import NONE, iou, match_pairs, suppress
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.store import (
    CONFIRMED,
    LIVE,
    NO_CLASS,
    TrackStore,
    bury,
    predict_tracks,
    release_buried,
    settle_tracks,
    start_tracks,
)

# DeepSORT prices a forbidden pair this much above the largest allowed cost.
FORBIDDEN_MARGIN = 1e-5

# Gallery rows that give a pair its first upper bound where detections compete.
PROBED = 4

# What `prepare` found wrong with a detection.
OK, BAD_BOX, BAD_CONFIDENCE, BAD_FEATURE = 0, 1, 2, 3
_COMPLAINTS = {
    BAD_BOX: "box (ltwh) is not finite",
    BAD_CONFIDENCE: "confidence is not finite",
    BAD_FEATURE: "feature has a NaN or infinite value",
}


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


class Frame(NamedTuple):
    """The detections of one frame that the method works on, K of the caller's M.

    Attributes:
        origin: (K,) int64, place in the caller's order.
        ltwh: (K, 4) float32.
        xyah: (K, 4) float64, rounded through float32 as in deep-sort-realtime.
        confidence: (K,) float64, NaN for unknown.
        class_id: (K,) int64.
        norm: (K,) float64, length of the feature, 0 for no appearance.
    """

    origin: np.ndarray
    ltwh: np.ndarray
    xyah: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    norm: np.ndarray


@jit
def prepare(ltwh, confidence, class_ids, features, settings):  # type: ignore[no-untyped-def]
    """Check the detections of a frame, leave out boxes without area, suppress non-maxima, convert.

    Args:
        ltwh: (M, 4) float64.
        confidence: (M,) float64, or (0,) where unknown.
        class_ids: (M,) int64, or (0,) where unknown.
        features: (M, D) float32, or (0, D) where there are none.

    Returns:
        A tuple of OK or the complaint, the detection it is about, and the `Frame`.
    """
    m = ltwh.shape[0]
    index = np.empty(m, dtype=np.int64)
    boxes = np.empty((m, 4), dtype=np.float32)
    xyah = np.empty((m, 4))
    scores = np.full(m, np.nan)
    classes = np.full(m, NO_CLASS)
    norms = np.zeros(m)
    complaint, blamed, k = OK, NONE, 0
    for j in range(m):
        wrong = OK
        if (ltwh[j, 2] <= 0.0 or ltwh[j, 3] <= 0.0) and np.isfinite(ltwh[j].sum()):
            continue
        for c in range(4):
            boxes[k, c] = ltwh[j, c]
        two = np.float32(2.0)
        xyah[k, 0] = boxes[k, 0] + boxes[k, 2] / two
        xyah[k, 1] = boxes[k, 1] + boxes[k, 3] / two
        xyah[k, 2] = boxes[k, 2] / boxes[k, 3]
        xyah[k, 3] = boxes[k, 3]
        for c in range(4):
            if not (np.isfinite(boxes[k, c]) and np.isfinite(xyah[k, c])):
                wrong = BAD_BOX
        if confidence.shape[0] > 0:
            scores[k] = confidence[j]
            if not np.isfinite(scores[k]):
                wrong = BAD_CONFIDENCE
        if class_ids.shape[0] > 0:
            classes[k] = class_ids[j]
        if features.shape[0] > 0:
            norms[k] = feature_norm(features, j)
            if not np.isfinite(norms[k]):
                wrong = BAD_FEATURE
        if wrong != OK:
            if settings.drop_invalid:
                continue
            if complaint == OK:
                complaint, blamed = wrong, j
        index[k] = j
        k += 1
    if settings.nms_max_overlap < 1.0 and k > 1:
        keep = suppress(boxes[:k], scores[:k], settings.nms_max_overlap)
        at = 0
        for j in range(k):
            if keep[j]:
                index[at], boxes[at], xyah[at] = index[j], boxes[j], xyah[j]
                scores[at], classes[at], norms[at] = scores[j], classes[j], norms[j]
                at += 1
        k = at
    return complaint, blamed, Frame(index[:k], boxes[:k], xyah[:k], scores[:k], classes[:k], norms[:k])


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
        recent = features.shape[0] == 0 or rows.state[row] != CONFIRMED or rows.time_since_update[row] <= dt
        if match[row] == NONE and recent:
            group[size] = row
            size += 1
    rest = group[:size]
    starts, columns, costs = _overlapping_pairs(rows, rest, frame, by_x, sorted_x, taken, settings)
    forbidden = settings.max_iou_distance + FORBIDDEN_MARGIN
    _accept(rest, match_pairs(starts, columns, costs, m, forbidden), match, taken)
    return match


@jit
def note(rows, gallery, first, match, frame, features, budget):  # type: ignore[no-untyped-def]
    """Note on rows the detections that they were matched to or born from, and how those looked.

    Args:
        first: the row that `match` begins with.
        match: (n,) int64, which detection of the frame each row got, NONE for none.
        features: (M, D) float32 in the caller's order, or (0, D).
        budget: features that a track may hold; 0 for no limit.
    """
    ltwh, detection, confidence, class_id = rows.ltwh, rows.detection, rows.confidence, rows.class_id
    queues = Queues(rows.newest, rows.oldest, rows.features)
    for j in range(match.shape[0]):
        row, k = first + j, match[j]
        if k == NONE:
            continue
        for i in range(4):
            ltwh[row, i] = frame.ltwh[k, i]
        detection[row] = frame.origin[k]
        confidence[row] = frame.confidence[k]
        class_id[row] = frame.class_id[k]
        if frame.norm[k] > 0.0:
            append(gallery, queues, row, features, frame.origin[k], frame.norm[k], budget)


@jit
def give_birth(rows, counters, gallery, frame, features, match, budget):  # type: ignore[no-untyped-def]
    """Start a track at every detection of a frame that no track was matched to, in detection order."""
    taken = np.zeros(frame.origin.shape[0], dtype=np.bool_)
    for row in range(match.shape[0]):
        if match[row] != NONE:
            taken[match[row]] = True
    unmatched = np.flatnonzero(~taken)
    first = counters[LIVE]
    start_tracks(rows, counters, frame.xyah, unmatched)
    note(rows, gallery, first, unmatched, frame, features, budget)


@jit
def step(rows, counters, gallery, ltwh, confidence, class_ids, features, dt, settings):  # type: ignore[no-untyped-def]
    """One whole frame. If a detection is not valid nothing is changed.

    Arguments as for `prepare` and `associate`.

    Returns:
        OK or the complaint, the detection it is about, and (K,) int64, the rows that were buried (see `bury`).
    """
    complaint, blamed, frame = prepare(ltwh, confidence, class_ids, features, settings)
    if complaint != OK:
        return complaint, blamed, np.empty(0, dtype=np.int64)
    n = counters[LIVE]
    predict_tracks(rows, 0, n, dt, settings.max_age + 1)
    match = associate(rows, n, gallery, frame, features, dt, settings)
    settle_tracks(rows, 0, match, frame.xyah, settings.n_init, settings.max_age)
    note(rows, gallery, 0, match, frame, features, settings.budget)
    buried = bury(rows, counters)
    give_birth(rows, counters, gallery, frame, features, match, settings.budget)
    release_buried(rows, gallery, buried.shape[0])
    return complaint, blamed, buried


NO_FLOATS = np.empty(0)
NO_CLASSES = np.empty(0, dtype=np.int64)


class Tracker:
    """DeepSORT over a `TrackStore`: arrays in, the store changed.

    Args:
        max_iou_distance: largest 1 - IoU at which the IoU stage matches.
        max_age: frames a confirmed track lives without a detection.
        n_init: hits that confirm a track; before that a single miss ends it.
        nms_max_overlap: a detection is dropped when more than this share of its area is covered by one of higher
            confidence; 1 for no suppression.
        max_cosine_distance: largest cosine distance at which the cascade matches.
        nn_budget: features a track's gallery holds, the newest ones; None for no limit.
        gating_only_position: gate on the centre alone instead of on centre, aspect ratio and height.
        class_aware: match a track only to detections of its own class.
        drop_invalid: leave out detections with NaN or infinite values instead of refusing the frame.

    Attributes:
        store: the tracks.
        settings: the above as the compiled code takes it.

    Raises:
        InputError: an argument that is out of range, by name.
    """

    def __init__(
        self,
        max_iou_distance: float = 0.7,
        max_age: int = 30,
        n_init: int = 3,
        nms_max_overlap: float = 1.0,
        max_cosine_distance: float = 0.2,
        nn_budget: int | None = 100,
        gating_only_position: bool = False,
        class_aware: bool = False,
        drop_invalid: bool = False,
    ) -> None:
        _check("max_iou_distance", max_iou_distance, 0)
        _check("max_age", max_age, 0)
        _check("n_init", n_init, 1, whole=True)
        _check("nms_max_overlap", nms_max_overlap, 0)
        _check("max_cosine_distance", max_cosine_distance, 0)
        if nn_budget is not None:
            _check("nn_budget", nn_budget, 1, whole=True)
        self.settings = Settings(
            max_iou_distance=float(max_iou_distance),
            max_age=float(max_age),
            n_init=int(n_init),
            nms_max_overlap=float(nms_max_overlap),
            max_cosine_distance=float(max_cosine_distance),
            budget=int(nn_budget or 0),
            gating_only_position=bool(gating_only_position),
            class_aware=bool(class_aware),
            drop_invalid=bool(drop_invalid),
        )
        self.store = TrackStore()

    def no_features(self) -> np.ndarray:
        """What stands for "no features" in `step`: (0, D)."""
        return self.store.gallery.unit[:0]

    def reserve(self, detections: int, features: np.ndarray) -> None:
        """Make room in the store for what one frame can add.

        Raises:
            InputError: features of another length than the tracks have.
        """
        if len(features):
            dimension = self.store.dimension
            if dimension not in (0, features.shape[1]):
                raise InputError(
                    f"features have {features.shape[1]} values, those of earlier frames {dimension}: "
                    "use one embedder, or delete_all_tracks() before changing it"
                )
            self.store.reserve_features(detections, features.shape[1])
        self.store.reserve(detections)

    def step(
        self, ltwh: np.ndarray, confidence: np.ndarray, class_ids: np.ndarray, features: np.ndarray, dt: float
    ) -> np.ndarray:
        """Run one frame.

        Args:
            ltwh: (M, 4) float64, pixels.
            confidence: (M,) float64, or `NO_FLOATS`.
            class_ids: (M,) int64, or `NO_CLASSES`.
            features: (M, D) float32, or `no_features()`.
            dt: frames since the last call.

        Returns:
            (K,) int64, the rows of the tracks that ended (see `bury`).

        Raises:
            InputError: a detection with a NaN or infinite value, by index. The store is unchanged.
        """
        self.reserve(len(ltwh), features)
        store = self.store
        complaint, blamed, buried = step(
            store.rows, store.counters, store.gallery, ltwh, confidence, class_ids, features, dt, self.settings
        )
        if complaint:
            complain(complaint, blamed)
        return buried


def complain(complaint: int, blamed: int) -> None:
    """Turn what `prepare` found into an InputError."""
    raise InputError(f"detection {blamed}: {_COMPLAINTS[complaint]} (drop_invalid=True leaves such detections out)")


def _check(name: str, value: Any, least: float, *, whole: bool = False) -> None:
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not good or not np.isfinite(value) or value < least or (whole and int(value) != value):
        raise InputError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number of at least {least}")
