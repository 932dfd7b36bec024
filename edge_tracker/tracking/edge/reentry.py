"""Lost tracks that come back: told by appearance, within reach of where they were last seen."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import Ints, Record, Table, filled
from edge_tracker.tracking.assignment import NONE, match_pairs
from edge_tracker.tracking.detections import Scene
from edge_tracker.tracking.edge.filter import sureness
from edge_tracker.tracking.edge.scale import cosine_distance, normalised
from edge_tracker.tracking.edge.tables import EdgeTables
from edge_tracker.tracking.gallery import NO_ROW
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED, TENTATIVE

FAR = 10.0  # so much more than any distance that as many tracks as possible come back


@jit
def lost_tracks(tables: EdgeTables, settings: Record) -> Ints:
    """The rows (L,) that may come back: confirmed, with features, without a detection, and not for too long."""
    lost = np.empty(tables.counts[0]["live"], dtype=np.int64)
    count = 0
    for row in range(lost.shape[0]):
        track = tables.tracks[row]
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
    beyond = since - min(since, settings["memory"])  # its speed tells where it is for so long only
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
    owner = filled(detections.shape[0], NONE)
    for row in range(tables.counts[0]["live"]):
        match = tables.tracks[row]["match"]
        if match != NONE:
            owner[match] = row
    return owner


@jit
def reenter_tracks(tables: EdgeTables, scene: Scene, settings: Record) -> None:
    """Give lost tracks the detections that resemble them, out of those that no confirmed track has.

    The tracks that come back have `returns` set; a tentative track that had the detection loses it.
    """
    tracks, detections, m = tables.tracks, scene.detections, scene.detections.shape[0]
    lost = lost_tracks(tables, settings)
    if lost.shape[0] == 0:
        return
    owner = owners(tables, detections)
    starts = np.empty(lost.shape[0] + 1, dtype=np.int64)
    columns = np.empty(lost.shape[0] * m, dtype=np.int64)
    costs = np.empty(columns.shape[0])
    count = starts[0] = 0
    for g in range(lost.shape[0]):
        track = tracks[lost[g]]
        for k in range(m):
            detection = detections[k]
            free = owner[k] == NONE or tracks[owner[k]]["state"] == TENTATIVE
            if not free or not detection["norm"] > 0.0 or sureness(detection["confidence"]) < settings["low"]:
                continue
            if not may_return(track, detection, settings):
                continue
            feature = scene.features[detection["origin"]]
            distance = cosine_distance(tables.gallery, track, feature, detection["norm"])
            distance = normalised(tables.statistics[0], distance)
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
