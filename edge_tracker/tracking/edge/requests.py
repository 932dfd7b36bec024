"""The choice of detections to embed, after the matching by motion."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import NONE, Bools, Ints, Record, Table
from edge_tracker.tracking.edge.filter import sureness
from edge_tracker.tracking.edge.motion import overlapping_tracks
from edge_tracker.tracking.edge.reentry import lost_tracks, may_return, owners
from edge_tracker.tracking.edge.tables import EdgeTables, evidence_of
from edge_tracker.tracking.gallery import NO_ROW
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED, TENTATIVE

# Reasons to embed a detection, the most valuable first.
NOT_WANTED, RETURNING, CROSSED, BEGINNING, CROSSING, STALE = 0, 1, 2, 3, 4, 5


@jit
def mark_clean(detections: Table, settings: Record) -> None:
    """Mark the detections, whose order by x is known, that show little of any other one."""
    m, widest = detections.shape[0], 0.0
    for k in range(m):
        detections[k]["clean"] = True
        widest = max(widest, detections[k]["measured"][2])
    share = settings["clean"]
    for at in range(m):
        one = detections[detections[at]["by_x"]]
        a = one["measured"]
        for after in range(at + 1, m):
            two = detections[detections[after]["by_x"]]
            b = two["measured"]
            distance = b[0] - a[0]
            if distance >= (a[2] + widest) / 2:
                break
            width = (a[2] + b[2]) / 2 - distance
            height = (a[3] + b[3]) / 2 - abs(a[1] - b[1])
            if width > 0.0 and height > 0.0:
                both = min(width, a[2], b[2]) * min(height, a[3], b[3])
                if not both <= share * a[2] * a[3]:
                    one["clean"] = False
                if not both <= share * b[2] * b[3]:
                    two["clean"] = False


@jit
def followed(tables: EdgeTables, settings: Record) -> Ints:
    """The confirmed rows (G,) int64 that motion can still match."""
    tracks, group = tables.tracks, np.empty(tables.counts[0]["live"], dtype=np.int64)
    count = 0
    for row in range(group.shape[0]):
        track = tracks[row]
        if track["state"] == CONFIRMED and track["time_since_update"] <= settings["memory"]:
            group[count] = row
            count += 1
    return group[:count]


@jit
def _about_to_cross(tables: EdgeTables, settings: Record) -> Bools:
    """(N,) bool: the rows that touch another one that is followed, both enlarged."""
    about = np.zeros(tables.counts[0]["live"], dtype=np.bool_)
    pairs = overlapping_tracks(tables.tracks, followed(tables, settings), settings["near"], 0.0)
    for p in range(pairs.shape[0]):
        about[pairs[p, 0]] = about[pairs[p, 1]] = True
    return about


@jit(phase=True)
def wanted_crops(tables: EdgeTables, detections: Table, dt: float, settings: Record) -> Ints:
    """Reasons for which detections must be embedded after the matching by motion.

    Args:
        tables: the tracks, matched by motion.
        detections: (K,) EDGE_DETECTION.
        dt: frames since the last call.
        settings: the parameters.

    Returns:
        (K,) int8, NOT_WANTED or the reason.
    """
    tracks = tables.tracks
    wanted = np.zeros(detections.shape[0], dtype=np.int8)
    about = np.empty(0, dtype=np.bool_)  # rows about to cross another, found when first needed
    owner, lost = owners(tables, detections), lost_tracks(tables, settings)
    for k in range(wanted.shape[0]):
        row, detection = owner[k], detections[k]
        if row == NONE or tracks[row]["state"] == TENTATIVE:
            if sureness(detection["confidence"]) >= settings["low"]:
                for other in lost:
                    if may_return(tracks[other], detection, settings):
                        wanted[k] = RETURNING
                        break
            if row == NONE or wanted[k] != NOT_WANTED or not detection["clean"]:
                continue
            if tracks[row]["evidence"] + evidence_of(detection["confidence"]) >= settings["evidence"]:
                wanted[k] = BEGINNING
            continue
        track = tracks[row]
        if not detection["clean"]:
            continue
        if track["partner"] > 0 and track["parted"] <= settings["swap_age"]:
            if track["pending"]["held"] == 0:
                wanted[k] = CROSSED
        elif track["gallery"]["newest"] == NO_ROW:
            wanted[k] = BEGINNING
        elif track["stale"] >= settings["refresh"] - dt / 2:
            wanted[k] = STALE
        elif track["stale"] >= settings["near_refresh"] - dt / 2:
            if about.shape[0] == 0:
                about = _about_to_cross(tables, settings)
            if about[row]:
                wanted[k] = CROSSING
    return wanted
