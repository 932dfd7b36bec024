"""The results of a frame: the reported tracks, and the events of objects, zones and lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_tracker.track_arrays import TrackArrays


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """An object was first reported (`new`), is still there (`update`), or its track has ended (`end`).

    Attributes:
        type: one of the three.
        id: the track's identity.
        class_name: class of the detection last matched; None if detections have no class.
        score: confidence of that detection; None if detections have none.
        top_score: the highest score so far.
        box: left, top, width, height, pixels, when it was last seen.
        zones: names of the zones that contain it.
        entered_zones: names of all zones that it has entered.
        started, time: unix seconds of its first report, and of this event.
        ended: unix seconds when it was last seen, for `end`; else None.
    """

    type: Literal["new", "update", "end"]
    id: int
    class_name: str | None
    score: float | None
    top_score: float | None
    box: tuple[float, float, float, float]
    zones: tuple[str, ...]
    entered_zones: tuple[str, ...]
    started: float
    time: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class ZoneEvent:
    """An object entered or left a zone, or crossed a line.

    Attributes:
        type: `enter` and `exit` of a zone; `in` (from left to right, as seen from the line's start to its end) and
            `out` over a line.
        name: of the zone or line.
        id, class_name: of the object.
        time: unix seconds.
        dwell: for `exit`, the seconds that the object was inside; else None.
    """

    type: Literal["enter", "exit", "in", "out"]
    name: str
    id: int
    class_name: str | None
    time: float
    dwell: float | None = None


@dataclass(frozen=True)
class FrameTracks:
    """The objects of one frame: confirmed tracks that matched a detection of this frame, or of one shortly before.

    Attributes:
        ids: (K,) int64 identities, from 1.
        ltrb: (K, 4) float64 boxes in pixels, estimated by the Kalman filter, finite.
        class_ids: (K,) int64; -1 without a class.
        confidence: (K,) float64 of the matched detection; NaN without one.
        names: class names; a class without a name is called by its number.
        predicted: True if the boxes are predicted, for a frame without detection (`detector.every`).
        zones: for each object the names of the zones that contain it; empty if no zones are configured.
        events: the events of this frame, in order.
        coasting: for each object True if its box is predicted for lack of a detection (`outputs.coast`); or empty.
    """

    ids: np.ndarray
    ltrb: np.ndarray
    class_ids: np.ndarray
    confidence: np.ndarray
    names: Sequence[str] = ()
    predicted: bool = False
    zones: Sequence[tuple[str, ...]] = ()
    events: Sequence[ObjectEvent | ZoneEvent] = ()
    coasting: Sequence[bool] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def class_name(self, k: int) -> str | None:
        """The class name of object `k`, or None."""
        class_id = int(self.class_ids[k])
        if class_id < 0:
            return None
        return self.names[class_id] if class_id < len(self.names) else str(class_id)

    def is_coasting(self, k: int) -> bool:
        """True if the box of object `k` is predicted for lack of a detection."""
        return len(self.coasting) > 0 and self.coasting[k]

    def labels(self) -> list[str]:
        """The label of each box: identity and class, in brackets while it coasts."""
        texts = [f"{i} {self.class_name(k) or ''}".rstrip() for k, i in enumerate(self.ids.tolist())]
        return [f"({text})" if self.is_coasting(k) else text for k, text in enumerate(texts)]


def reported(tracks: TrackArrays, names: Sequence[str], coast: int = 0, predicted: bool = False) -> FrameTracks:
    """The results of a frame, without events.

    Args:
        tracks: all live tracks.
        names: class names.
        coast: frames without a detection for which a track is still reported.
        predicted: as for `FrameTracks`.
    """
    seen = (tracks.detection >= 0) | (tracks.time_since_update <= coast)
    # A box that is not finite would break readers of the results.
    shown = tracks[tracks.confirmed & seen & np.isfinite(tracks.ltrb).all(axis=1)]
    return FrameTracks(
        *(shown.ids, shown.ltrb, shown.class_ids, shown.confidence),
        names=names,
        predicted=predicted,
        coasting=(shown.detection < 0).tolist(),
    )
