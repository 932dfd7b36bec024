"""Object events: an object appeared, is still there, or is gone."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from edge_tracker.app.frame_results import ObjectEvent
from edge_tracker.app.saved import Saved, parse_saved


class _Object(Saved):
    """An object's saved values; `seen` and `started` are Unix seconds."""

    class_name: str | None
    score: float | None
    top_score: float | None
    box: tuple[float, float, float, float]
    zones: tuple[str, ...]
    entered_zones: tuple[str, ...]
    started: float
    seen: float


class _SavedObjects(Saved):
    objects: dict[int, _Object]


class ObjectEvents:
    """Turns the objects of each frame into events, for one camera.

    An object is `new` when it is first reported. It gets an `update` at once when its zones change, otherwise when it
    is seen and its last event is `update_every` seconds old. It gets its `end` when its track has been deleted, with
    its values when last seen, and no zones.

    Args:
        update_every: seconds of stream time.
    """

    def __init__(self, update_every: float) -> None:
        self._update_every = update_every
        self._objects: dict[int, _Object] = {}
        self._reported: dict[int, float] = {}  # stream time of the last event; an object from a saved state has none

    def update(
        self,
        ids: np.ndarray,
        ltrb: np.ndarray,
        class_names: Sequence[str | None],
        scores: np.ndarray,
        zones: Sequence[tuple[str, ...]],
        live_ids: Collection[int],
        time: float,
        wall: float,
    ) -> list[ObjectEvent]:
        """Take one frame, and return its events. Without ids and live_ids, all objects end.

        Args:
            ids: (K,) identities of the objects reported.
            ltrb: (K, 4) their boxes, pixels.
            class_names: K names; None for objects without a class.
            scores: (K,) confidences; nan where there are none.
            zones: K tuples, the zones that each object is in; or empty.
            live_ids: identities of all live tracks, including those not seen in this frame.
            time: stream time in seconds, never less than in the frame before.
            wall: Unix seconds.

        Returns:
            The ends first, then the others by object.
        """
        events = [self._end(id, wall) for id in sorted(self._objects.keys() - set(live_ids))]
        boxes = np.asarray(ltrb, np.float64).reshape(-1, 4).tolist()
        rows = zip(
            np.asarray(ids).tolist(),
            boxes,
            class_names,
            np.asarray(scores, np.float64).tolist(),
            zones or [()] * len(boxes),
            strict=True,
        )
        for id, (left, top, right, bottom), class_name, confidence, where in rows:
            before = self._objects.get(id)
            last = None if before is None else before.score  # of the detection last matched, while it coasts
            score = confidence if math.isfinite(confidence) else last
            entered = () if before is None else before.entered_zones
            top_score = None if before is None else before.top_score
            known = self._objects[id] = _Object.model_construct(
                class_name=class_name,
                score=score,
                top_score=max((s for s in (score, top_score) if s is not None), default=None),
                box=(left, top, right - left, bottom - top),
                zones=where,
                entered_zones=(*entered, *(name for name in where if name not in entered)),
                started=wall if before is None else before.started,
                seen=wall,
            )
            reported = self._reported.get(id)
            due = reported is None or time - reported >= self._update_every
            if before is None or before.zones != where or due:
                self._reported[id] = time
                events.append(_event("new" if before is None else "update", id, known, wall))
        return events

    def state(self) -> dict[str, Any]:
        """The state with which a later run can continue, as plain JSON."""
        return _SavedObjects.model_construct(objects=self._objects).model_dump(mode="json")

    def load(self, state: Any) -> None:
        """Continue from `state()`, before the first frame.

        Objects that are still tracked continue, without another `new`; the others get their `end` in the first frame.
        Anything but such a state is logged and changes nothing.
        """
        saved = parse_saved(_SavedObjects, state, "objects")
        if saved is None:
            return
        self._objects, self._reported = dict(saved.objects), {}

    def _end(self, id: int, wall: float) -> ObjectEvent:
        known = self._objects.pop(id)
        self._reported.pop(id, None)
        return _event("end", id, known, wall)


def _event(type: Any, id: int, known: _Object, wall: float) -> ObjectEvent:
    ended = type == "end"
    return ObjectEvent(
        type,
        id,
        known.class_name,
        known.score,
        known.top_score,
        known.box,
        () if ended else known.zones,
        known.entered_zones,
        known.started,
        wall,
        known.seen if ended else None,
    )
