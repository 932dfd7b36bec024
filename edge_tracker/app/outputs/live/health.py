"""Liveness and readiness of a run."""

from __future__ import annotations

import time

from edge_tracker.app.stats import Stats

STUCK_S = 60.0  # frames arrive for this long, but none is tracked


class Liveness:
    """Finds cameras that deliver frames of which none was tracked for `STUCK_S`; a restart may help.

    A camera that is away is no reason for a restart, and neither are models that are still loading or being built.
    Progress is measured between probes, not from the last frame: a camera that has just come back has tracked nothing
    for as long as it was away.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # by camera: progress, and since when

    def stuck_reasons(self, stats: Stats) -> list[str]:
        """One line for each camera that is stuck."""
        now, reasons = time.monotonic(), []
        for name, camera in stats.cameras.copy().items():
            progress = (camera.frames, camera.reconnects)
            seen = self._seen.get(name)
            if seen is None or seen[0] != progress or not (stats.ready and camera.connected):
                self._seen[name] = (progress, now)
            elif now - seen[1] > STUCK_S:
                reasons.append(f"{name}: connected, but no frame was tracked for {now - seen[1]:.0f} s")
        return reasons


def unready_reasons(stats: Stats, cameras: list[str]) -> list[str]:
    """The reasons a run is not ready, one line each: models that are not loaded, cameras that are away."""
    reasons = [] if stats.ready else ["the models are not loaded yet"]
    for name in cameras:
        camera = stats.cameras.get(name)
        if camera is None or not (camera.connected or camera.ended):
            reasons.append(f"{name}: {(camera.problem if camera else None) or 'not connected yet'}")
    return reasons
