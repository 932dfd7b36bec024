"""Whether the process works, and whether the run does all that it should."""

from __future__ import annotations

import time

from edge_tracker.app.stats import Stats

STUCK_S = 60.0  # frames come, but none is tracked


class Liveness:
    """Whether the process should be restarted: frames of a camera come, but for a minute none was tracked.

    A camera that is away is no reason, nor are models that take their time to load or to build. Progress is compared
    between questions, since a camera that has just come back has not tracked a frame for as long as it was away.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # by camera: its progress, and since when

    def stuck_reasons(self, stats: Stats) -> list[str]:
        """The reasons, a line for each camera."""
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
    """Why the run does not do all that it should: models that are not loaded, cameras that are away."""
    reasons = [] if stats.ready else ["the models are not loaded yet"]
    for name in cameras:
        camera = stats.cameras.get(name)
        if camera is None or not (camera.connected or camera.ended):
            reasons.append(f"{name}: {(camera.problem if camera else None) or 'not connected yet'}")
    return reasons
