"""The phases of a frame in exact mode, each over all tracks: predict, (match, in `association`), update, finish."""

from __future__ import annotations

from edge_tracker.tracking.arrays import Floats, Ints, Record
from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.detections import Scene
from edge_tracker.tracking.gallery import append, release
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
    unmatched,
)


@jit
def predict_track(track: Record, dt: float, longest: float) -> None:
    """Move one track ahead by `dt` frames, `longest` at most."""
    kalman.predict(track, dt, longest)
    pass_time(track, dt)


@jit(phase=True)
def predict(tables: Tables, dt: float, settings: Record) -> None:
    """Move all tracks ahead by `dt` frames."""
    for row in range(tables.counts[0]["live"]):
        predict_track(tables.tracks[row], dt, settings["max_age"] + 1)


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
def _note(tables: Tables, track: Record, scene: Scene, place: int, budget: int) -> None:
    """Write the detection at a place of the scene into the track that got it, and its feature into the gallery."""
    detection = scene.detections[place]
    note_detection(track, detection)
    if detection["norm"] > 0.0:
        append(tables.gallery, track["gallery"], scene.features[detection["origin"]], detection["norm"], budget)


@jit(phase=True)
def update(tables: Tables, scene: Scene, settings: Record) -> None:
    """Correct the tracks that were matched, and note that the others were missed."""
    for row in range(tables.counts[0]["live"]):
        track = tables.tracks[row]
        place = track["match"]
        if place == NONE:
            miss_track(track, settings["max_age"])
        else:
            update_track(track, scene.detections[place]["measured"], settings["n_init"])
            _note(tables, track, scene, place, settings["budget"])


@jit(phase=True)
def finish(tables: Tables, scene: Scene, settings: Record) -> Ints:
    """Delete the tracks that have ended, and start one at every detection that no track was matched to.

    Returns:
        (K,) int64, the former rows of the tracks that ended (see `delete_tracks`).
    """
    places = unmatched(tables, scene.detections)
    ended = delete_tracks(tables)
    for place in places:
        track = tables.tracks[append_track(tables)]
        kalman.start(track, scene.detections[place]["measured"])
        _note(tables, track, scene, place, settings["budget"])
    for k in range(ended.shape[0]):
        release(tables.gallery, tables.tracks[tables.tracks.shape[0] - 1 - k]["gallery"])
    return ended
