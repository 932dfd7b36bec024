"""Exact mode explained: the cascade and the IoU stage."""

from __future__ import annotations

import numpy as np

from edge_tracker.app.replay.explanation import frames_in_words
from edge_tracker.app.replay.twin import Twin
from edge_tracker.tracking.arrays import NONE
from edge_tracker.tracking.assignment import iou
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.deepsort.association import appearance_distance, squared_mahalanobis
from edge_tracker.tracking.deepsort.tracker import DeepSortTracker
from edge_tracker.tracking.gallery import NO_ROW
from edge_tracker.tracking.tables import CONFIRMED, TENTATIVE


class DeepSortTwin(Twin):
    """A `Twin` in exact mode."""

    core: DeepSortTracker

    def _go(self) -> None:
        settings = self.core.settings
        self.predicted = self._boxes()
        self.core.match(self.scene, self.dt)
        self.match = self.tracks["match"].copy()
        self._dimensions = 2 if settings.gating_only_position else 4
        gate = kalman.CHI2_95_2DOF if settings.gating_only_position else kalman.CHI2_95_4DOF
        self.limits = {
            "mahalanobis": float(gate),
            "cosine": settings.max_cosine_distance,
            "iou": 1.0 - settings.max_iou_distance,
        }

    def _in_cascade(self, row: int) -> bool:
        known = self.state[row] == CONFIRMED and self.tracks[row]["gallery"]["newest"] != NO_ROW
        return bool(len(self.scene.features) and known and self.since[row] <= self.core.settings.max_age)

    def _in_iou_stage(self, row: int) -> bool:
        since = self.since[row]
        recent = len(self.scene.features) == 0 or self.state[row] != CONFIRMED or since <= self.dt
        return bool(recent and since <= self.core.settings.max_age + 1)

    def numbers(self, row: int, k: int) -> dict[str, float]:
        track, detection = self.tracks[row], self.detections[k]
        numbers = {"iou": float(iou(kalman.box(track), detection["ltwh"]))}
        if self._in_cascade(row):
            gallery, held = self.core.table.gallery, track["gallery"]["held"]
            variance = np.array([kalman.innovation_variance(track, i) for i in range(self._dimensions)])
            numbers["mahalanobis"] = float(squared_mahalanobis(track, detection, variance, np.inf))
            numbers["cosine"] = float(
                appearance_distance(gallery, track, detection, self.scene.features, held, -np.inf)
            )
        return numbers

    def near(self, row: int, k: int) -> tuple[float, ...] | None:
        numbers = self.numbers(row, k)
        distance = numbers.get("mahalanobis", np.inf)
        gated = distance <= self.limits["mahalanobis"]
        if not gated and numbers["iou"] <= 0.0:
            return None
        return (0.0, numbers["cosine"]) if gated else (1.0, -numbers["iou"])

    def _fits_cascade(self, row: int, numbers: dict[str, float]) -> bool:
        return (
            self._in_cascade(row)
            and numbers["mahalanobis"] <= self.limits["mahalanobis"]
            and numbers["cosine"] <= self.limits["cosine"]
        )

    def _not_by_cascade(self, row: int, numbers: dict[str, float]) -> list[str]:
        """Reasons why the cascade does not allow a pair; none if it does, or is not for the track."""
        if not self._in_cascade(row):
            return []
        if numbers["mahalanobis"] > self.limits["mahalanobis"]:
            return [f"outside the gate (mahalanobis > {self.limits['mahalanobis']:.4g})"]
        if numbers["cosine"] > self.limits["cosine"]:
            return [f"appearance differs (cosine > {self.limits['cosine']:.3g})"]
        return []

    def by(self, row: int) -> str:
        # The cascade leaves no pair apart that fits it, so one that fits was matched there.
        return "cascade" if self._fits_cascade(row, self.numbers(row, int(self.match[row]))) else "iou"

    def verdict(self, row: int, k: int) -> str:
        if self.of_other_class(row, k):
            return "of another class"
        numbers, limits, owner = self.numbers(row, k), self.limits, self.owner(k)
        if owner == row:
            if self.by(row) == "cascade":
                return f"taken in the cascade, level {self.since[row]:g}"
            return "; ".join([*self._not_by_cascade(row, numbers), "taken in the IoU stage"])
        reasons = self._not_by_cascade(row, numbers)
        if not self._fits_cascade(row, numbers):
            if not self._in_iou_stage(row):
                reasons.append(f"not in the IoU stage, {frames_in_words(self.since[row])} without a detection")
            elif 1.0 - numbers["iou"] > self.core.settings.max_iou_distance:
                reasons.append(f"too little overlap (iou < {limits['iou']:.3g})")
        if owner != NONE:
            theirs = self.numbers(owner, k)
            how = self.by(owner)
            shown = f"cosine {theirs['cosine']:.3g}" if how == "cascade" else f"iou {theirs['iou']:.3g}"
            younger = self.since[owner] < self.since[row]
            turn = ", whose turn is before" if how == "cascade" and younger else ""
            reasons.append(f"went to track {self.id(owner)} ({how}, {shown}{turn})")
        elif not reasons:
            reasons.append(f"left for detection {self.origin(self.match[row])}, which makes the better sum")
        return "; ".join(reasons)

    def end(self, row: int) -> str:
        if self.state[row] == TENTATIVE:
            return "ended: a tentative track ends at its first frame without a detection"
        limit = self.core.settings.max_age
        return f"ended: {frames_in_words(self.since[row])} without a detection, more than max_age {limit:g}"
