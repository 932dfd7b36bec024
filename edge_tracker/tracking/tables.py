"""The table of live tracks: one row a track, in the order in which they started."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_tracker.tracking.arrays import NONE, Ints, Record, Table
from edge_tracker.tracking.gallery import (
    QUEUE,
    Gallery,
    clear,
)
from edge_tracker.tracking.jit import jit

TENTATIVE, CONFIRMED, DELETED = 1, 2, 3

NO_CLASS = -1
NO_DETECTION = -1

# A track.
#   mean: x, y, then a, h (exact) or w, h (edge), and their velocities; pixels and frames.
#   covariance: of each coordinate its variance, its covariance with its velocity, and the velocity's variance.
#   age: frames since the first detection, from 1; time_since_update: since a detection was last matched.
#   hits: detections matched, the first included.
#   class_id: of the detection last matched, NO_CLASS for none. ltwh: its box.
#   confidence: of this frame's detection, NaN without one; detection: its place in the caller's order, NO_DETECTION
#   without one; match: its place among the detections of the frame that the method works on, NONE without one.
#   gallery: its features.
TRACK = np.dtype(
    [
        ("mean", "f8", 8),
        ("covariance", "f8", (4, 3)),
        ("id", "i8"),
        ("age", "f8"),
        ("time_since_update", "f8"),
        ("hits", "i8"),
        ("class_id", "i8"),
        ("confidence", "f8"),
        ("detection", "i8"),
        ("match", "i8"),
        ("ltwh", "f4", 4),
        ("gallery", QUEUE),
        ("state", "i1"),
    ],
    align=True,
)

# The number of live rows, and the id of the next track.
COUNTS = np.dtype([("live", "i8"), ("next_id", "i8")], align=True)


# A track as callers see it: its box as left, top, right, bottom in pixels, and fields of TRACK.
SHOWN = np.dtype(
    [
        ("ltrb", "f8", 4),
        ("id", "i8"),
        ("class_id", "i8"),
        ("confidence", "f8"),
        ("time_since_update", "f8"),
        ("detection", "i8"),
        ("confirmed", "?"),
    ],
    align=True,
)


class Tables(NamedTuple):
    """The state that a method keeps from frame to frame.

    Attributes:
        tracks: (C,) TRACK, of which the first N are live.
        counts: (1,) COUNTS.
        gallery: the pool of all tracks' features; D is 0 until the first feature is seen.
    """

    tracks: Table
    counts: Table
    gallery: Gallery


@jit
def pass_time(track: Record, dt: float) -> None:
    """Let `dt` frames pass for a track: it has no detection until it is matched."""
    track["age"] += dt
    track["time_since_update"] += dt
    track["detection"] = NO_DETECTION
    track["match"] = NONE
    track["confidence"] = np.nan


@jit
def note_detection(track: Record, detection: Record) -> None:
    """Write a detection's box, place, confidence and class into the track that it was matched to."""
    for i in range(4):
        track["ltwh"][i] = detection["ltwh"][i]
    track["detection"] = detection["origin"]
    track["confidence"] = detection["confidence"]
    track["class_id"] = detection["class_id"]


@jit
def accept(tracks: Table, detections: Table, group: Ints, matched: Ints) -> None:
    """Write the matches of a group of tracks, and mark their detections as taken.

    Args:
        tracks: (C,) TRACK.
        detections: (K,) DETECTION.
        group: (G,) int64 rows.
        matched: (G,) int64, the place of each one's detection, NONE for none.
    """
    for g in range(group.shape[0]):
        if matched[g] != NONE:
            tracks[group[g]]["match"] = matched[g]
            detections[matched[g]]["taken"] = True


@jit
def show_track(shown: Record, track: Record, ltwh: tuple[float, float, float, float]) -> None:
    """Copy a track, whose box is `ltwh`, into a record of SHOWN."""
    ltrb = shown["ltrb"]
    ltrb[0], ltrb[1] = ltwh[0], ltwh[1]
    ltrb[2], ltrb[3] = ltwh[0] + ltwh[2], ltwh[1] + ltwh[3]
    shown["id"] = track["id"]
    shown["class_id"] = track["class_id"]
    shown["confidence"] = track["confidence"]
    shown["time_since_update"] = track["time_since_update"]
    shown["detection"] = track["detection"]
    shown["confirmed"] = track["state"] == CONFIRMED


@jit
def append_track(tables: Tables) -> int:
    """Append a tentative track with one hit, whose motion and detection are still to be set; returns its row."""
    counts = tables.counts[0]
    row = counts["live"]
    track = tables.tracks[row]
    track["id"] = counts["next_id"]
    track["state"] = TENTATIVE
    track["hits"] = 1
    track["age"] = 1.0
    track["time_since_update"] = 0.0
    track["match"] = NONE
    clear(track["gallery"])
    counts["live"] += 1
    counts["next_id"] += 1
    return row


@jit
def delete_tracks(tables: Tables) -> Ints:
    """Take deleted tracks out of the live rows, which close up in order.

    The k-th deleted row is kept at place C - 1 - k until the next frame, so that a caller's `Track` can take its last
    values along; its features are still to be released.

    Returns:
        (K,) int64, the former places of the deleted rows, ascending.
    """
    tracks, live = tables.tracks, tables.counts[0]["live"]
    deleted = 0
    for row in range(live):
        if tracks[row]["state"] == DELETED:
            deleted += 1
    ended = np.empty(deleted, dtype=np.int64)
    if deleted == 0:
        return ended
    at = 0
    for row in range(live):
        if tracks[row]["state"] == DELETED:
            tracks[tracks.shape[0] - 1 - at] = tracks[row]
            ended[at] = row
            at += 1
        elif at > 0:
            tracks[row - at] = tracks[row]
    tables.counts[0]["live"] = live - deleted
    return ended


def whole(frames: float) -> int | float:
    """A number of frames as an int, unless time steps were fractions."""
    return int(frames) if frames == int(frames) else float(frames)
