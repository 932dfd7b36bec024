"""Tracks and events as JSON. docs/results.md and docs/mqtt.md describe the fields."""

from __future__ import annotations

import math
from typing import Any

from edge_tracker.app.frame_results import FrameTracks, ObjectEvent, ZoneEvent
from edge_tracker.app.sources.frames import Frame

SCHEMA = 1


def tracks_payload(camera: str, frame: Frame, tracks: FrameTracks) -> dict[str, Any]:
    """All objects of a frame, as a message."""
    return {
        "schema": SCHEMA,
        "camera": camera,
        "frame": frame.index,
        "stream_time": round(frame.time, 3),
        "time": round(frame.wall, 3),
        "predicted": tracks.predicted,
        "tracks": [_track(tracks, k) for k in range(len(tracks))],
    }


def track_fields(tracks: FrameTracks) -> list[dict[str, Any]]:
    """The objects of a frame, for the JSON lines and the page."""
    fields: list[dict[str, Any]] = []
    for k in range(len(tracks)):
        left, top, right, bottom = tracks.ltrb[k].tolist()
        class_id = int(tracks.class_ids[k])
        fields.append(
            {
                "id": int(tracks.ids[k]),
                "class": tracks.class_name(k),
                "class_id": class_id if class_id >= 0 else None,
                "confidence": _score(tracks.confidence[k]),
                "box": _rounded((left, top, right - left, bottom - top)),
            }
        )
        if tracks.is_coasting(k):
            fields[-1]["predicted"] = True
    for field, zones in zip(fields, tracks.zones, strict=False):
        field["zones"] = list(zones)
    return fields


def _track(tracks: FrameTracks, k: int) -> dict[str, Any]:
    left, top, right, bottom = tracks.ltrb[k].tolist()
    return {
        "id": int(tracks.ids[k]),
        "class": tracks.class_name(k),
        "score": _score(tracks.confidence[k]),
        "box": _rounded((left, top, right - left, bottom - top)),
        "zones": list(tracks.zones[k]) if tracks.zones else [],
        "predicted": tracks.is_coasting(k),
    }


def event_payload(camera: str, event: ObjectEvent | ZoneEvent) -> dict[str, Any]:
    """An event of an object, a zone or a line, as a message."""
    return {"schema": SCHEMA, "camera": camera, **event_fields(event)}


def event_fields(event: ObjectEvent | ZoneEvent) -> dict[str, Any]:
    """An event of an object, a zone or a line."""
    if isinstance(event, ZoneEvent):
        return {
            "kind": "zone" if event.type in ("enter", "exit") else "line",
            "type": event.type,
            "name": event.name,
            "id": event.id,
            "class": event.class_name,
            "time": round(event.time, 3),
            "dwell": None if event.dwell is None else round(event.dwell, 3),
        }
    return {
        "kind": "object",
        "type": event.type,
        "id": event.id,
        "class": event.class_name,
        "score": _score(event.score),
        "top_score": _score(event.top_score),
        "box": _rounded(event.box),
        "zones": list(event.zones),
        "entered_zones": list(event.entered_zones),
        "started": round(event.started, 3),
        "time": round(event.time, 3),
        "ended": None if event.ended is None else round(event.ended, 3),
    }


def totals_payload(camera: str, wall: float, totals: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The counts of a camera's zones and lines."""
    return {"schema": SCHEMA, "camera": camera, "time": round(wall, 3), "totals": totals}


def _score(value: float | None) -> float | None:
    """A confidence; None if it is missing or not a number."""
    return round(float(value), 4) if value is not None and math.isfinite(value) else None


def _rounded(box: tuple[float, float, float, float]) -> list[float]:
    return [round(value, 2) for value in box]
