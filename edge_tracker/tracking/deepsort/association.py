"""Association of tracks and detections: the matching cascade by appearance, then the IoU stage."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import NONE, Floats, Ints, Record, Table, ascending, first_from, pushed
from edge_tracker.tracking.assignment import iou, match_pairs
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.detections import Scene, sorted_by_x
from edge_tracker.tracking.gallery import NO_ROW, Gallery, smallest_distance
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED, Tables, accept

# DeepSORT prices a forbidden pair this much above the largest allowed cost.
FORBIDDEN_MARGIN = 1e-5

# Gallery rows that give a pair its first upper bound where detections compete.
PROBED = 4


# A detection's box, and its bottom edge.
_BOX = np.dtype([("ltwh", "f4", 4), ("bottom", "f4")], align=True)


@jit
def _near(sorted_x: Floats, x: float, reach: float) -> tuple[int, float]:
    """First place in ascending `sorted_x` whose value may be within `reach` of x, and the last value that may."""
    slack = reach + 1e-9 * (abs(x) + reach)
    return first_from(sorted_x, x - slack), x + slack


@jit
def _is_candidate(track: Record, detection: Record, settings: Record) -> bool:
    """True if a detection is free, and of a class that the track may match."""
    other_class = settings["class_aware"] and track["class_id"] != detection["class_id"]
    return not (detection["taken"] or other_class)


@jit
def squared_mahalanobis(track: Record, detection: Record, variance: Floats, enough: float) -> float:
    """Squared Mahalanobis distance of a detection from a predicted track.

    Args:
        track, detection: the two.
        variance: (2 or 4,) innovation variances of the track, of as many coordinates as count.
        enough: stop adding up coordinates once the distance is above this.
    """
    distance = 0.0
    for i in range(variance.shape[0]):
        residual = detection["measured"][i] - track["mean"][i]
        distance += residual * residual / variance[i]
        if distance > enough:
            break
    return distance


@jit
def _gated_pairs(tracks: Table, group: Ints, detections: Table, settings: Record) -> tuple[Ints, Ints]:
    """Pairs of tracks and free detections whose squared Mahalanobis distance passes the gate.

    Args:
        tracks: (C,) TRACK.
        group: (G,) int64 rows.
        detections: (K,) DETECTION, whose order by x is known.
        settings: a record of `Settings`.

    Returns:
        starts (G + 1,), columns (E,) as `match_pairs` takes them.
    """
    variance = np.empty(2 if settings["gating_only_position"] else 4)
    gate = kalman.CHI2_95_2DOF if settings["gating_only_position"] else kalman.CHI2_95_4DOF
    starts = np.empty(group.shape[0] + 1, dtype=np.int64)
    columns = np.empty(2 * group.shape[0] + 16, dtype=np.int64)
    starts[0] = 0
    sorted_x = sorted_by_x(detections)
    count = np.int64(0)
    for g in range(group.shape[0]):
        track = tracks[group[g]]
        for i in range(variance.shape[0]):
            variance[i] = kalman.innovation_variance(track, i)
        at, last_x = _near(sorted_x, track["mean"][0], np.sqrt(gate * variance[0]))
        while at < sorted_x.shape[0] and sorted_x[at] <= last_x:
            column = detections[at]["by_x"]
            detection = detections[column]
            at += 1
            if not _is_candidate(track, detection, settings):
                continue
            if squared_mahalanobis(track, detection, variance, gate) <= gate:
                columns = pushed(columns, count, column)
                count += 1
        starts[g + 1] = count
    return starts, columns[:count]


@jit
def appearance_distance(
    gallery: Gallery, track: Record, detection: Record, features: Floats, count: int, enough: float
) -> float:
    """Smallest cosine distance of a detection from the newest features of a track.

    Args:
        gallery: the pool.
        track, detection: the two.
        features: (M, D) of the frame's detections.
        count: features of the track to compare with.
        enough: stop at the first distance no larger than this.
    """
    origin, norm = detection["origin"], detection["norm"]
    return smallest_distance(gallery, track["gallery"], count, features, origin, norm, enough)


@jit
def _match_gated(tables: Tables, scene: Scene, group: Ints, starts: Ints, columns: Ints, limit: float) -> Ints:
    """Best matching of the gated pairs by smallest cosine distance, knowing as few of the distances as it takes.

    A pair whose track and detection are each alone in the other's gate is settled by any gallery row near enough.
    Elsewhere each pair starts with bounds: 0 below, and above what the newest rows give. The best matching by the upper
    bounds stands if no other beats it even with its own pairs at their lower bounds; as long as one does, the
    distances that decide between the two are computed in full.

    Args:
        tables: the tracks and their galleries.
        scene: the detections and their features.
        group: (G,) int64 rows.
        starts, columns: the gated pairs.
        limit: largest distance that is allowed.

    Returns:
        (G,) int64, the detection (place in the scene) of each track of the group, or NONE.
    """
    tracks, gallery, (detections, features) = tables.tracks, tables.gallery, scene
    m = detections.shape[0]
    forbidden = limit + FORBIDDEN_MARGIN
    rivals = np.zeros(m, dtype=np.int64)
    for column in columns:
        rivals[column] += 1
    low, high = np.zeros(columns.shape[0]), np.empty(columns.shape[0])
    settled = True
    for g in range(group.shape[0]):
        track = tracks[group[g]]
        held = track["gallery"]["held"]
        alone = starts[g + 1] - starts[g] == 1
        for e in range(starts[g], starts[g + 1]):
            decides = alone and rivals[columns[e]] == 1
            looked_at = held if decides else min(held, PROBED)
            high[e] = appearance_distance(gallery, track, detections[columns[e]], features, looked_at, limit)
            if decides or (looked_at == held and high[e] > limit):
                low[e] = high[e]
            else:
                settled = False
    bound = np.empty(columns.shape[0])
    while True:
        best = match_pairs(starts, columns, high, m, forbidden)
        if settled:
            return best
        for g in range(group.shape[0]):
            for e in range(starts[g], starts[g + 1]):
                bound[e] = high[e] if columns[e] == best[g] else low[e]
        rival = match_pairs(starts, columns, bound, m, forbidden)
        settled = True
        for challenged in (rival, best):
            for g in range(group.shape[0]):
                if rival[g] == best[g]:
                    continue
                for e in range(starts[g], starts[g + 1]):
                    if columns[e] == challenged[g] and low[e] < high[e]:
                        track = tracks[group[g]]
                        held = track["gallery"]["held"]
                        detection = detections[columns[e]]
                        high[e] = appearance_distance(gallery, track, detection, features, held, -np.inf)
                        low[e] = high[e]
                        settled = False
            if not settled:
                break


@jit
def _from_left_to_right(detections: Table) -> Table:
    """The boxes (K,) _BOX of the detections, whose order by x is known, in that order and close together."""
    boxes = np.empty(detections.shape[0], dtype=_BOX)
    for at in range(boxes.shape[0]):
        box, ltwh = boxes[at], detections[detections[at]["by_x"]]["ltwh"]
        for i in range(4):
            box["ltwh"][i] = ltwh[i]
        box["bottom"] = ltwh[1] + ltwh[3]
    return boxes


@jit
def _overlapping_pairs(tracks: Table, group: Ints, detections: Table, settings: Record) -> tuple[Ints, Ints, Floats]:
    """Pairs of tracks and free detections within the IoU distance, with their cost; returns as `match_pairs` takes.

    Args:
        tracks, group, detections, settings: as for `_gated_pairs`.
    """
    starts = np.empty(group.shape[0] + 1, dtype=np.int64)
    columns = np.empty(2 * group.shape[0] + 16, dtype=np.int64)
    costs = np.empty(columns.shape[0])
    starts[0] = 0
    count = np.int64(0)
    sorted_x, boxes = sorted_by_x(detections), _from_left_to_right(detections)
    widest = np.float32(0.0)
    for at in range(boxes.shape[0]):
        widest = max(widest, boxes[at]["ltwh"][2])
    # Boxes that do not meet are at distance 1: only a limit that allows that needs to see all of them.
    must_meet = settings["max_iou_distance"] < 1.0
    for g in range(group.shape[0]):
        track = tracks[group[g]]
        box = kalman.box(track)
        bottom = box[1] + box[3]
        reach = (box[2] + widest) / 2 if must_meet else np.inf
        at, last_x = _near(sorted_x, track["mean"][0], reach)
        while at < sorted_x.shape[0] and not sorted_x[at] > last_x:
            other, column = boxes[at], detections[at]["by_x"]
            at += 1
            if must_meet and min(bottom, other["bottom"]) - max(box[1], other["ltwh"][1]) <= 0.0:
                continue
            if not _is_candidate(track, detections[column], settings):
                continue
            cost = 1.0 - iou(box, other["ltwh"])
            if cost <= settings["max_iou_distance"]:
                columns, costs = pushed(columns, count, column), pushed(costs, count, cost)
                count += 1
        starts[g + 1] = count
    return starts, columns[:count], costs[:count]


@jit
def _cascade_order(tracks: Table, n: int, max_age: float) -> Ints:
    """The confirmed rows (G,) of n that the cascade matches, those missed for the shortest time first."""
    group, since = np.empty(n, dtype=np.int64), np.empty(n)
    size = 0
    for row in range(n):
        track = tracks[row]
        known = track["state"] == CONFIRMED and track["gallery"]["newest"] != NO_ROW
        if known and track["time_since_update"] <= max_age:
            group[size], since[size] = row, track["time_since_update"]
            size += 1
    ordered = ascending(since[:size])
    for g in range(size):
        ordered[g] = group[ordered[g]]
    return ordered


@jit(phase=True)
def match_by_appearance(tables: Tables, scene: Scene, settings: Record) -> None:
    """The matching cascade: confirmed tracks by appearance within the gate, those missed for the shortest time first.

    Args:
        tables: the predicted tracks and their galleries; the matches are written into the tracks.
        scene: the detections, whose order by x is known, and their features (M, D).
        settings: a record of `Settings`.
    """
    tracks, detections = tables.tracks, scene.detections
    by_age = _cascade_order(tracks, tables.counts[0]["live"], settings["max_age"])
    first = np.int64(0)
    while first < by_age.shape[0]:
        since = tracks[by_age[first]]["time_since_update"]
        end = first + 1
        while end < by_age.shape[0] and tracks[by_age[end]]["time_since_update"] == since:
            end += 1
        level = by_age[first:end]
        starts, columns = _gated_pairs(tracks, level, detections, settings)
        limit = settings["max_cosine_distance"]
        accept(tracks, detections, level, _match_gated(tables, scene, level, starts, columns, limit))
        first = end


@jit(phase=True)
def match_by_iou(tables: Tables, scene: Scene, dt: float, settings: Record) -> None:
    """The IoU stage: tentative tracks and those missed in this frame only; without features, all tracks.

    Args:
        tables: the predicted tracks; the matches are written into them.
        scene: the detections, whose order by x is known.
        dt: frames since the last call.
        settings: a record of `Settings`.
    """
    tracks, detections, n = tables.tracks, scene.detections, tables.counts[0]["live"]
    has_features = scene.features.shape[0] > 0
    group = np.empty(n, dtype=np.int64)
    size = 0
    for row in range(n):
        track = tracks[row]
        since = track["time_since_update"]
        recent = not has_features or track["state"] != CONFIRMED or since <= dt
        # A step longer than a track can live ends it.
        if track["match"] == NONE and recent and since <= settings["max_age"] + 1:
            group[size] = row
            size += 1
    rest = group[:size]
    starts, columns, costs = _overlapping_pairs(tracks, rest, detections, settings)
    forbidden = settings["max_iou_distance"] + FORBIDDEN_MARGIN
    accept(tracks, detections, rest, match_pairs(starts, columns, costs, detections.shape[0], forbidden))
