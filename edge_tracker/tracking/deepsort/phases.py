"""The phases of a frame in exact mode, each over all tracks: predict, match (in `association`), update, finish."""

from __future__ import annotations

from edge_tracker.tracking.arrays import NONE, Floats, Ints, Record
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.deepsort.association import match_by_appearance, match_by_iou
from edge_tracker.tracking.detections import Scene, sort_by_x
from edge_tracker.tracking.gallery import Gallery, append, release
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import (
    CONFIRMED,
    DELETED,
    TENTATIVE,
    Tables,
    append_track,
    delete_tracks,
    note_detection,
    pass_time,
)


@jit
def predict_track(track: Record, dt: float, longest: float) -> None:
    """Move one track ahead by `dt` frames, `longest` at most."""
    kalman.predict(track, dt, longest)
    pass_time(track, dt)


@jit(phase=True)
def predict(tables: Tables, dt: float, settings: Record) -> None:
    """Move all tracks ahead by `dt` frames."""
    tracks = tables.tracks
    for row in range(tables.counts[0]["live"]):
        predict_track(tracks[row], dt, settings["max_age"] + 1)


@jit
def update_track(track: Record, measured: Floats, n_init: int) -> None:
    """Correct one track by its detection (4,) xyah; its `n_init`-th hit confirms it."""
    kalman.update(track, measured)
    track["hits"] += 1
    track["time_since_update"] = 0.0
    if track["state"] == TENTATIVE and track["hits"] >= n_init:
        track["state"] = CONFIRMED


@jit
def miss_track(track: Record, max_age: float) -> None:
    """Note that a track has no detection: a tentative one is deleted, a confirmed one after `max_age` frames."""
    if track["state"] == TENTATIVE or track["time_since_update"] > max_age:
        track["state"] = DELETED


@jit
def _note(gallery: Gallery, track: Record, detection: Record, features: Floats, budget: int) -> None:
    """Write a detection into the track that it was matched to, and its feature into the track's gallery.

    Args:
        gallery: the pool.
        track: TRACK; changed.
        detection: DETECTION.
        features: (M, D) float32 of the frame's detections.
        budget: features a gallery may hold; 0 for no limit.
    """
    note_detection(track, detection)
    if detection["norm"] > 0.0:
        append(gallery, track["gallery"], features, detection["origin"], detection["norm"], budget)


@jit(phase=True)
def update(tables: Tables, scene: Scene, settings: Record) -> None:
    """Correct the tracks that were matched, and note that the others were missed."""
    tracks, gallery, (detections, features) = tables.tracks, tables.gallery, scene
    for row in range(tables.counts[0]["live"]):
        track = tracks[row]
        if track["match"] == NONE:
            miss_track(track, settings["max_age"])
        else:
            detection = detections[track["match"]]
            update_track(track, detection["measured"], settings["n_init"])
            _note(gallery, track, detection, features, settings["budget"])


@jit(phase=True)
def finish(tables: Tables, scene: Scene, settings: Record) -> Ints:
    """Delete the tracks that have ended, and start one at every detection without a match.

    Returns:
        (K,) int64, the former rows of the tracks that ended (see `delete_tracks`).
    """
    tracks, gallery, (detections, features) = tables.tracks, tables.gallery, scene
    ended = delete_tracks(tables)
    for place in range(detections.shape[0]):
        detection = detections[place]
        if not detection["taken"]:
            track = tracks[append_track(tables)]
            kalman.start(track, detection["measured"])
            _note(gallery, track, detection, features, settings["budget"])
    for k in range(ended.shape[0]):
        release(gallery, tracks[tracks.shape[0] - 1 - k]["gallery"])
    return ended


@jit(phase=True)
def step(tables: Tables, scene: Scene, dt: float, settings: Record) -> Ints:
    """All phases in one call, for detections with features; returns as `finish`."""
    predict(tables, dt, settings)
    sort_by_x(scene.detections)
    match_by_appearance(tables, scene, settings)
    match_by_iou(tables, scene, dt, settings)
    update(tables, scene, settings)
    return finish(tables, scene, settings)


@jit(phase=True)
def step_by_motion(tables: Tables, scene: Scene, dt: float, settings: Record) -> Ints:
    """All phases in one call, for detections without features; returns as `finish`."""
    predict(tables, dt, settings)
    sort_by_x(scene.detections)
    match_by_iou(tables, scene, dt, settings)
    update(tables, scene, settings)
    return finish(tables, scene, settings)
