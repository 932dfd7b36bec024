"""Lost tracks that come back: recognised by appearance, within reach of their prediction."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import NONE, Ints, Record, Table, nones
from edge_tracker.tracking.assignment import match_pairs
from edge_tracker.tracking.detections import Scene
from edge_tracker.tracking.edge.filter import sureness
from edge_tracker.tracking.edge.scale import cosine_distance, normalised
from edge_tracker.tracking.edge.tables import EdgeTables
from edge_tracker.tracking.gallery import NO_ROW
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED, TENTATIVE

FAR = 10.0  # far above any distance, so that as many tracks as possible come back


@jit
def lost_tracks(tables: EdgeTables, settings: Record) -> Ints:
    """The rows (L,) that may come back: confirmed, with features, without a detection, and not for too long."""
    tracks, lost = tables.tracks, np.empty(tables.counts[0]["live"], dtype=np.int64)
    count = 0
    for row in range(lost.shape[0]):
        track = tracks[row]
        known = track["state"] == CONFIRMED and track["gallery"]["newest"] != NO_ROW
        if known and track["match"] == NONE and track["time_since_update"] <= settings["reenter_age"]:
            lost[count] = row
            count += 1
    return lost[:count]


@jit
def within_reach(track: Record, detection: Record, settings: Record) -> bool:
    """True if a lost track could have come back as a detection, going by place and size."""
    mean, measured, since = track["mean"], detection["measured"], track["time_since_update"]
    height = mean[3]
    if min(height, measured[3]) < settings["reenter_height"] * max(height, measured[3]):
        return False
    beyond = since - min(since, settings["memory"])  # its speed is trusted for so long only
    dx = (measured[0] - mean[0] + mean[4] * beyond) / height
    dy = (measured[1] - mean[1] + mean[5] * beyond) / height
    limit = settings["reach"] + settings["speed"] * since
    return dx * dx + dy * dy <= limit * limit


@jit
def may_return(track: Record, detection: Record, settings: Record) -> bool:
    """True if a lost track could have come back as a detection, going by class, place and size."""
    if settings["class_aware"] and track["class_id"] != detection["class_id"]:
        return False
    return within_reach(track, detection, settings)


@jit
def owners(tables: EdgeTables, detections: Table) -> Ints:
    """The row of each of the detections, (K,) int64, NONE for none."""
    tracks, owner = tables.tracks, nones(detections.shape[0])
    for row in range(tables.counts[0]["live"]):
        match = tracks[row]["match"]
        if match != NONE:
            owner[match] = row
    return owner


@jit
def reenter_tracks(tables: EdgeTables, scene: Scene, settings: Record) -> None:
    """Give lost tracks the detections that resemble them, out of those that no confirmed track has.

    The tracks that come back have `returns` set; a tentative track that had the detection loses it.
    """
    tracks, gallery, (detections, features) = tables.tracks, tables.gallery, scene
    statistics, m = tables.statistics[0], detections.shape[0]
    lost = lost_tracks(tables, settings)
    if lost.shape[0] == 0:
        return
    owner = owners(tables, detections)
    starts = np.empty(lost.shape[0] + 1, dtype=np.int64)
    columns = np.empty(lost.shape[0] * m, dtype=np.int64)
    costs = np.empty(columns.shape[0])
    starts[0] = 0
    count = 0
    for g in range(lost.shape[0]):
        track = tracks[lost[g]]
        for k in range(m):
            detection = detections[k]
            free = owner[k] == NONE or tracks[owner[k]]["state"] == TENTATIVE
            if not free or not detection["norm"] > 0.0 or sureness(detection["confidence"]) < settings["low"]:
                continue
            if not may_return(track, detection, settings):
                continue
            origin, norm = detection["origin"], detection["norm"]
            distance = cosine_distance(gallery, track, features, origin, norm)
            distance = normalised(statistics, distance)
            if distance < settings["reenter"]:
                columns[count], costs[count] = k, distance
                count += 1
        starts[g + 1] = count
    if count == 0:
        return
    found = match_pairs(starts, columns[:count], costs[:count], m, FAR)
    for g in range(lost.shape[0]):
        if found[g] != NONE:
            if owner[found[g]] != NONE:
                tracks[owner[found[g]]]["match"] = NONE  # the tentative track was the lost one
            tracks[lost[g]]["match"] = found[g]
            tracks[lost[g]]["returns"] = True
            detections[found[g]]["taken"] = True
