"""The figures and the newest tracks of a run, as JSON fields."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from edge_tracker.app.outputs.live.camera_image import CameraImage
from edge_tracker.app.outputs.payloads import track_fields
from edge_tracker.app.stats import CameraStats, Histogram, Stats
from edge_tracker.version import __version__


def run_status(stats: Stats, images: dict[str, CameraImage]) -> dict[str, Any]:
    """The figures of a run and its cameras: everything that the page shows."""
    return {
        "version": __version__,
        "uptime_s": round(time.monotonic() - stats.started, 1),
        "ready": stats.ready,
        "reloads": stats.reloads,
        "models_changed": stats.models_changed,
        "mqtt": None
        if stats.mqtt_connected is None
        else {"connected": stats.mqtt_connected, "queue": stats.mqtt_queue, "lost": stats.mqtt_lost},
        "servers": {name: asdict(status) for name, status in stats.servers.copy().items()},
        "cameras": [
            camera_status(stats.cameras.get(name) or CameraStats(name), image.size) for name, image in images.items()
        ],
    }


def newest_tracks(images: dict[str, CameraImage]) -> dict[str, Any]:
    """The newest frame of each camera and its tracks, by name; None before the first frame."""
    fields: dict[str, Any] = {}
    for name, image in images.items():
        newest = image.newest
        if newest is None:
            fields[name] = None
            continue
        frame, tracks = newest
        fields[name] = {
            "frame": frame.index,
            "time": round(frame.time, 3),
            "wall": round(frame.wall, 3),
            "tracks": track_fields(tracks),
        }
    return fields


def camera_status(camera: CameraStats, size: tuple[int, int] | None) -> dict[str, Any]:
    """The figures of a camera.

    Durations are a count and a sum: two requests give the mean of the time between them.

    Args:
        camera: its figures.
        size: width and height of its frames in pixels; None before the first.
    """
    last = camera.last_frame
    return {
        "name": camera.name,
        "connected": camera.connected,
        "ended": camera.ended,
        "problem": camera.problem,
        "size": size,
        "fps": round(camera.fps, 2),
        "frames": camera.frames,
        "dropped": camera.dropped,
        "reconnects": camera.reconnects,
        "active": camera.active,
        "objects": camera.tracks,
        "detections": camera.detections,
        "embedded": camera.embedded,
        "frame_age_s": None if last is None else round(max(0.0, time.monotonic() - last), 3),
        "latency": _duration(camera.latency),
        "stages": {stage: _duration(histogram) for stage, histogram in camera.stages.copy().items()},
        "queues": camera.queues.copy(),
        "lost": camera.lost.copy(),
        "failing": camera.failing.copy(),
        "counts": {name: totals.copy() for name, totals in camera.totals.copy().items()},
    }


def _duration(histogram: Histogram) -> dict[str, float]:
    return {"count": histogram.count, "total_s": round(histogram.total, 6)}
