"""Object events and counts in Frigate's format. docs/mqtt.md lists the fields that are and are not supported.

Source of the format: Frigate's documentation, "MQTT".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from edge_tracker.app.frame_results import ObjectEvent
from edge_tracker.app.outputs.payloads import SCHEMA

NO_LABEL = "object"  # Frigate has no objects without a label


class FrigateView:
    """The objects of all cameras as Frigate's subscribers know them."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, int], dict[str, Any]] = {}
        self._told: dict[str, int] = {}
        self._touched: set[str] = set()

    def event(self, camera: str, event: ObjectEvent) -> dict[str, Any]:
        """The message for an event. `before` is the object in the previous message, or as it is now in the first."""
        after = _object(camera, event)
        before = self._objects.get((camera, event.id), after)
        if event.type == "end":
            self._objects.pop((camera, event.id), None)
        else:
            self._objects[camera, event.id] = after
        for known in (before, after):  # their labels may differ
            self._touched |= _counted(known, known["entered_zones"])
        return {"schema": SCHEMA, "type": event.type, "before": before, "after": after}

    def changed_counts(self) -> Iterator[tuple[str, int]]:
        """The counts that changed since the last call: `camera/label` or `zone/label`, and the number of objects.

        A count that the last event may have changed is also returned if it was never published, since the broker may
        have one from an earlier run.
        """
        counts: Counter[str] = Counter()
        for known in self._objects.values():
            counts.update(_counted(known, known["current_zones"]))
        for name in sorted(self._touched):
            if counts[name] != self._told.get(name):
                self._told[name] = counts[name]
                yield name, counts[name]
        self._touched.clear()


def _counted(known: dict[str, Any], zones: Iterable[str]) -> set[str]:
    """The names of the counts that include an object while it is in `zones`."""
    label = re.sub(r"[/+#\x00]", "_", known["label"])  # these have a meaning in topics
    return {f"{place}/{what}" for place in (known["camera"], *zones) for what in (label, "all")}


def _object(camera: str, event: ObjectEvent) -> dict[str, Any]:
    left, top, width, height = event.box
    corners = [round(left), round(top), round(left + width), round(top + height)]
    wide, high = max(0, corners[2] - corners[0]), max(0, corners[3] - corners[1])
    return {
        "id": f"{event.started:.6f}-{event.id}",
        "camera": camera,
        "frame_time": round(event.time if event.ended is None else event.ended, 6),
        "label": event.class_name or NO_LABEL,
        "sub_label": None,
        "top_score": event.top_score,
        "false_positive": False,
        "start_time": round(event.started, 6),
        "end_time": None if event.ended is None else round(event.ended, 6),
        "score": event.score,
        "box": corners,
        "area": wide * high,
        "ratio": round(wide / high, 4) if high else 0.0,
        "current_zones": list(event.zones),
        "entered_zones": list(event.entered_zones),
        "snapshot": None,
        "thumbnail": None,
        "has_snapshot": False,
        "has_clip": False,
        "stationary": False,
        "attributes": {},
        "current_attributes": [],
    }
