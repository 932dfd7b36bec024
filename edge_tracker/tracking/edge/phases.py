"""The phases of a frame in `method="edge"`, each over all tracks: measure, predict, match, update, finish."""

from __future__ import annotations

import numpy as np

from edge_tracker.tracking.arrays import NONE, Ints, Record, Table
from edge_tracker.tracking.detections import Scene, sort_by_x
from edge_tracker.tracking.edge import filter as edge_filter
from edge_tracker.tracking.edge.crossings import BUDGET, note_crossings, remember_features, settle_crossings
from edge_tracker.tracking.edge.filter import inaccuracy, sureness
from edge_tracker.tracking.edge.motion import match_by_motion
from edge_tracker.tracking.edge.reentry import reenter_tracks
from edge_tracker.tracking.edge.requests import mark_clean
from edge_tracker.tracking.edge.scale import observe_distances
from edge_tracker.tracking.edge.statistics import USUAL_FADE, observe
from edge_tracker.tracking.edge.tables import (
    LONG_AGO,
    EdgeTables,
    evidence_of,
    miss_track,
    predict_track,
    update_track,
)
from edge_tracker.tracking.gallery import append, clear, release
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED, append_track, delete_tracks, note_detection

HITS = 2  # that confirm a track, given the evidence


@jit(phase=True)
def measure_detections(detections: Table, appearance: bool, settings: Record) -> None:
    """Measure the detections (K,) as x, y, w, h, sort them by x, and mark the clean ones: none without appearance."""
    for k in range(detections.shape[0]):
        measured, ltwh = detections[k]["measured"], detections[k]["ltwh"]
        for i in range(2):
            measured[i + 2] = ltwh[i + 2]
            measured[i] = ltwh[i] + measured[i + 2] / 2
        detections[k]["clean"] = False
    sort_by_x(detections)
    if appearance:
        mark_clean(detections, settings)


@jit(phase=True)
def predict(tables: EdgeTables, dt: float, settings: Record) -> None:
    """Move all tracks ahead by `dt` frames."""
    tracks, statistics = tables.tracks, tables.statistics[0]
    for row in range(tables.counts[0]["live"]):
        predict_track(tracks[row], dt, statistics, settings)


@jit(phase=True)
def match_by_appearance(tables: EdgeTables, scene: Scene, settings: Record) -> None:
    """Let lost tracks come back, and gather appearance distances; after the matching by motion."""
    reenter_tracks(tables, scene, settings)
    observe_distances(tables, scene)


@jit(phase=True)
def update(tables: EdgeTables, scene: Scene, dt: float, settings: Record) -> None:
    """Correct the tracks that were matched, and note that the others were missed."""
    tracks, detections, statistics = tables.tracks, scene.detections, tables.statistics[0]
    appearance = statistics["seen"] > 0.0
    for row in range(tables.counts[0]["live"]):
        track = tracks[row]
        if track["match"] == NONE:
            miss_track(track, dt, appearance, settings)
            continue
        detection = detections[track["match"]]
        update_track(track, detection["measured"], detection["confidence"], HITS, statistics, settings)
        note_detection(track, detection)


@jit
def observe_confidences(tables: EdgeTables, detections: Table) -> None:
    """Gather the confidences of the detections that confirmed tracks have got."""
    total, count = 0.0, np.int64(0)
    tracks = tables.tracks
    for row in range(tables.counts[0]["live"]):
        track = tracks[row]
        if track["match"] != NONE and track["state"] == CONFIRMED:
            total, count = total + sureness(detections[track["match"]]["confidence"]), count + 1
    observe(tables.statistics[0]["confidence"], total, count, USUAL_FADE)


@jit
def _start_track(tables: EdgeTables, scene: Scene, place: int, settings: Record) -> None:
    """Append a tentative track at the detection at a place of the scene."""
    track, detection = tables.tracks[append_track(tables)], scene.detections[place]
    off = inaccuracy(tables.statistics[0], detection["confidence"], settings)
    edge_filter.start(track, detection["measured"], off, settings)
    note_detection(track, detection)
    track["evidence"] = evidence_of(detection["confidence"])
    track["stale"] = track["parted"] = LONG_AGO
    track["partner"] = 0
    track["returns"] = False
    clear(track["pending"])
    if detection["clean"] and detection["norm"] > 0.0:
        append(tables.gallery, track["gallery"], scene.features, detection["origin"], detection["norm"], BUDGET)
        track["stale"] = 0.0


@jit(phase=True)
def finish(tables: EdgeTables, scene: Scene, settings: Record) -> Ints:
    """Gather statistics, settle crossings, delete the tracks that have ended, and start new ones.

    Returns:
        (K,) int64, the former rows of the tracks that ended (see `tables.delete_tracks`).
    """
    observe_confidences(tables, scene.detections)
    if tables.statistics[0]["seen"] > 0.0:
        note_crossings(tables, settings)
        remember_features(tables, scene, settings)
        settle_crossings(tables, settings)
    tracks, gallery, detections = tables.tracks, tables.gallery, scene.detections
    ended = delete_tracks(tables)
    for place in range(detections.shape[0]):
        detection = detections[place]
        if not detection["taken"] and sureness(detection["confidence"]) >= settings["low"]:
            _start_track(tables, scene, place, settings)
    for k in range(ended.shape[0]):
        track = tracks[tracks.shape[0] - 1 - k]
        release(gallery, track["gallery"])
        release(gallery, track["pending"])
    return ended


@jit(phase=True)
def open_frame(tables: EdgeTables, detections: Table, dt: float, settings: Record) -> None:
    """The phases up to the matching by motion, in one call."""
    measure_detections(detections, tables.statistics[0]["seen"] > 0.0, settings)
    predict(tables, dt, settings)
    match_by_motion(tables, detections, dt, settings)


@jit(phase=True)
def close_frame(tables: EdgeTables, scene: Scene, dt: float, settings: Record) -> Ints:
    """The phases after the matching by motion, in one call; returns as `finish`."""
    if tables.statistics[0]["seen"] > 0.0:
        match_by_appearance(tables, scene, settings)
    update(tables, scene, dt, settings)
    return finish(tables, scene, settings)
