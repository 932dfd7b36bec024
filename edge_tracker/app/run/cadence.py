"""The choice of the frames that the detector runs on."""

from __future__ import annotations

import math

from edge_tracker.app.config.schema import DetectorConfig

MOST_SKIPPED = 30


class Cadence:
    """Chooses the frames that the detector runs on: every Nth, or as many as a frame rate leaves time for."""

    def __init__(self, config: DetectorConfig) -> None:
        self._every, self._hold = config.every, config.hold_fps
        self._since = 0
        self._seconds: float | None = None  # that a detection takes, smoothed

    @property
    def every(self) -> int:
        """N at present."""
        if self._hold is None:
            return self._every
        return min(MOST_SKIPPED, max(1, math.ceil((self._seconds or 0.0) * self._hold)))

    def due(self) -> bool:
        """True if the detector is to run on the next frame; call once a frame."""
        self._since += 1
        if self._since < self.every and self._seconds is not None:
            return False
        self._since = 0
        return True

    def took(self, seconds: float) -> None:
        """Note how long a detection took."""
        self._seconds = seconds if self._seconds is None else 0.8 * self._seconds + 0.2 * seconds
