"""Tracks that cross: galleries are frozen until the identities are settled, and wrong ones are exchanged back."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import NONE, Ints, Record, Table, nones
from edge_tracker.tracking.detections import Scene
from edge_tracker.tracking.edge.motion import overlapping_tracks
from edge_tracker.tracking.edge.requests import followed
from edge_tracker.tracking.edge.scale import cosine_distance, normalised
from edge_tracker.tracking.edge.tables import PENDING, EdgeTables
from edge_tracker.tracking.gallery import NO_ROW, Gallery, append, append_unit, clear, newer_row, release
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import DELETED

BUDGET = np.int64(10)  # features a gallery holds; for a literal Numba would compile another form of `append`


@jit
def _drop_pending(gallery: Gallery, track: Record) -> None:
    """Give the pending features of a track back to the pool."""
    release(gallery, track["pending"])
    clear(track["pending"])


@jit
def note_crossings(tables: EdgeTables, settings: Record) -> None:
    """Note which tracks overlap now: until they have been told apart again, their galleries stay as they are."""
    tracks, n = tables.tracks, tables.counts[0]["live"]
    partner = nones(n)
    pairs = overlapping_tracks(tracks, followed(tables, settings), 0.0, settings["overlap"])
    for p in range(pairs.shape[0]):
        row, other = pairs[p, 0], pairs[p, 1]
        if tracks[row]["match"] != NONE or tracks[other]["match"] != NONE:
            # Of several that overlap a track its partner is the youngest, whatever order they are found in.
            partner[row], partner[other] = max(partner[row], other), max(partner[other], row)
    for row in range(n):
        if partner[row] != NONE:
            track = tracks[row]
            track["partner"], track["parted"] = tracks[partner[row]]["id"], 0.0
            if track["pending"]["held"] > 0:
                _drop_pending(tables.gallery, track)


@jit
def _settle_pending(gallery: Gallery, track: Record) -> None:
    """Move a track's pending features into its gallery, and end its crossing."""
    row = track["pending"]["oldest"]
    for _ in range(track["pending"]["held"]):
        append_unit(gallery, track["gallery"], gallery.unit, row, gallery.norm[row], BUDGET)
        row = newer_row(gallery.blocks, row)
    _drop_pending(gallery, track)
    track["partner"] = 0


@jit
def remember_features(tables: EdgeTables, scene: Scene, settings: Record) -> None:
    """Put the features of clean crops into galleries, or into the queue of those seen since a crossing."""
    tracks, gallery, (detections, features) = tables.tracks, tables.gallery, scene
    for row in range(tables.counts[0]["live"]):
        track = tracks[row]
        if track["state"] == DELETED:
            continue
        if track["partner"] > 0 and track["parted"] > settings["swap_age"]:
            _settle_pending(gallery, track)
        if track["match"] == NONE:
            continue
        detection = detections[track["match"]]
        if not detection["clean"] or not detection["norm"] > 0.0:
            continue
        origin, norm = detection["origin"], detection["norm"]
        if track["partner"] == 0:
            append(gallery, track["gallery"], features, origin, norm, BUDGET)
            track["stale"] = 0.0
        elif track["parted"] > 0.0:
            append(gallery, track["pending"], features, origin, norm, PENDING)


@jit
def mean_distance(tables: EdgeTables, track: Record, shown: Record) -> float:
    """Mean normalised distance of the features that track `shown` has had since the crossing from a track's gallery."""
    gallery, unit = tables.gallery, tables.gallery.unit
    row, total = shown["pending"]["oldest"], 0.0
    for _ in range(shown["pending"]["held"]):
        total += cosine_distance(gallery, track, unit, row, 1.0)
        row = newer_row(gallery.blocks, row)
    return normalised(tables.statistics[0], total / shown["pending"]["held"])


@jit
def _exchange(a: Record, b: Record) -> None:
    """Exchange two tracks' motion, detection and pending features: each identity keeps its row, id and gallery."""
    for i in range(8):
        a["mean"][i], b["mean"][i] = b["mean"][i], a["mean"][i]
    for i in range(4):
        a["ltwh"][i], b["ltwh"][i] = b["ltwh"][i], a["ltwh"][i]
        for j in range(3):
            a["covariance"][i, j], b["covariance"][i, j] = b["covariance"][i, j], a["covariance"][i, j]
    a["confidence"], b["confidence"] = b["confidence"], a["confidence"]
    a["detection"], b["detection"] = b["detection"], a["detection"]
    a["class_id"], b["class_id"] = b["class_id"], a["class_id"]
    a["match"], b["match"] = b["match"], a["match"]
    p, q = a["pending"], b["pending"]
    p["newest"], q["newest"] = q["newest"], p["newest"]
    p["oldest"], q["oldest"] = q["oldest"], p["oldest"]
    p["held"], q["held"] = q["held"], p["held"]


@jit
def row_of(tracks: Table, end: int, number: int) -> int:
    """The row before `end` of the track with this id, NONE if there is none; rows are in the order of their ids."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if tracks[middle]["id"] < number:
            low = middle + 1
        else:
            high = middle
    return low if low < end and tracks[low]["id"] == number else NONE


@jit
def crossed_pairs(tables: EdgeTables) -> Ints:
    """The crossings (P, 2) in which both tracks have been seen clearly again; in each the higher row first."""
    tracks, n = tables.tracks, tables.counts[0]["live"]
    pairs = np.empty((n, 2), dtype=np.int64)
    count = 0
    for row in range(n):
        track = tracks[row]
        if track["partner"] == 0 or track["pending"]["held"] == 0 or track["match"] == NONE:
            continue
        other = row_of(tracks, row, track["partner"])
        if other == NONE or tracks[other]["partner"] != track["id"]:
            continue
        if tracks[other]["pending"]["held"] > 0 and tracks[other]["match"] != NONE:
            pairs[count, 0], pairs[count, 1] = row, other
            count += 1
    return pairs[:count]


@jit
def settle_crossings(tables: EdgeTables, settings: Record) -> None:
    """Settle the crossings of `crossed_pairs`: exchange two tracks if that fits their galleries better."""
    pairs = crossed_pairs(tables)
    for p in range(pairs.shape[0]):
        track, other = tables.tracks[pairs[p, 0]], tables.tracks[pairs[p, 1]]
        if track["gallery"]["newest"] != NO_ROW and other["gallery"]["newest"] != NO_ROW:
            straight = mean_distance(tables, track, track)
            straight += mean_distance(tables, other, other)
            crossed = mean_distance(tables, track, other)
            crossed += mean_distance(tables, other, track)
            if (straight - crossed) / 2 > settings["swap"]:
                _exchange(track, other)
        _settle_pending(tables.gallery, track)
        _settle_pending(tables.gallery, other)
        track["stale"] = other["stale"] = 0.0
