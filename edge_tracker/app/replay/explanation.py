"""An explanation: one frame of one track, in numbers and in words."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass
class Candidate:
    """A track and a detection that could have been matched. At the start of a track: its detection and other tracks.

    Attributes:
        detection: place in the frame's detections, from 0.
        track: the track.
        confidence: of the detection; None where it has none.
        numbers: what was compared: `iou`; for `edge` `similarity` and, for a lost track, `appearance` (normalised);
            for `deepsort` `mahalanobis` (squared) and `cosine`.
        verdict: what became of it.
        taken_by: id of the track that got the detection, None for none.
    """

    detection: int
    track: int
    confidence: float | None
    numbers: dict[str, float]
    verdict: str
    taken_by: int | None


@dataclass
class Explanation:
    """One frame of one track.

    Attributes:
        frame: its index.
        track: the id.
        event: "started", "matched", "missed" or "ended".
        state: "tentative" or "confirmed" before the frame; at its start, after it.
        since: frames since the last detection, this one included.
        predicted: left, top, width, height, pixels; None at its start.
        box: the same of the track after the frame; None when it has ended.
        detection: place of its detection in the frame, None without one.
        by: how it got it: "motion", "re-entry", "exchange", "cascade", "iou" or "start".
        limits: what the numbers were held to.
        candidates: the likeliest, best first.
        notes: what else happened to it.
    """

    frame: int
    track: int
    event: str
    state: str
    since: float
    predicted: list[float] | None
    box: list[float] | None
    detection: int | None
    by: str | None
    limits: dict[str, float]
    candidates: list[Candidate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    def __str__(self) -> str:
        got = "" if self.detection is None else f" detection {self.detection}" + (f" by {self.by}" if self.by else "")
        if self.event == "started":
            got = f" at detection {self.detection}"
        lines = [f"frame {self.frame}: track {self.track} ({self.state}) {self.event}{got}"]
        if self.predicted is not None:
            left, top, width, height = self.predicted
            lines.append(
                f"  predicted {left:.1f},{top:.1f} {width:.1f}x{height:.1f}, "
                f"{frames_in_words(self.since)} after its last detection"
            )
        for c in self.candidates:
            who = f"track {c.track}" if self.event == "started" else f"detection {c.detection}"
            sure = "" if c.confidence is None else f" (confidence {c.confidence:.2f})"
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in c.numbers.items())
            lines.append(f"  {who}{'' if self.event == 'started' else sure}: {numbers}: {c.verdict}")
        if not self.candidates:
            lines.append("  no track is near" if self.event == "started" else "  no detection is near")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def frames_in_words(count: float) -> str:
    """A number of frames with its noun."""
    return "1 frame" if count == 1 else f"{count:g} frames"
