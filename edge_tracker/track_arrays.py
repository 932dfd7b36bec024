"""TrackArrays: the tracks of one frame as a struct of arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_tracker.tracking.track_table import TrackTable

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, slots=True)
class TrackArrays:
    """K live tracks in the order in which they started.

    Attributes:
        ids: (K,) int64.
        ltrb: (K, 4) float64, the filter's boxes, pixels.
        class_ids: (K,) int64 of the detection last matched, -1 for none.
        confidence: (K,) float64 of this frame's detection, NaN without one.
        time_since_update: (K,) float64, frames since a detection was last matched.
        detection: (K,) int64, index of this frame's detection in the caller's order, -1 without one.
        confirmed: (K,) bool.
    """

    ids: np.ndarray
    ltrb: np.ndarray
    class_ids: np.ndarray
    confidence: np.ndarray
    time_since_update: np.ndarray
    detection: np.ndarray
    confirmed: np.ndarray

    @classmethod
    def of(cls, table: TrackTable) -> TrackArrays:
        """Copies of what a table holds now."""
        shown = table.shown()
        return cls(
            shown["id"],
            shown["ltrb"],
            shown["class_id"],
            shown["confidence"],
            shown["time_since_update"],
            shown["detection"],
            shown["confirmed"],
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, chosen: Any) -> TrackArrays:
        """Some of the tracks, by mask, slice or index array: `tracks[tracks.confirmed]`."""
        return TrackArrays(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def to_supervision(self) -> supervision.Detections:
        """The tracks as `supervision.Detections`, with `tracker_id` set; needs the package `supervision`.

        A confidence that is not known (no detection in this frame) becomes 0.
        """
        import supervision

        return supervision.Detections(
            xyxy=self.ltrb.astype(np.float32),
            confidence=np.nan_to_num(self.confidence, nan=0.0).astype(np.float32),
            class_id=self.class_ids,
            tracker_id=self.ids,
            data={"time_since_update": self.time_since_update, "detection": self.detection},
        )
