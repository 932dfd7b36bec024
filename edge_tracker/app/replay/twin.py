"""A copy of the tracker as it was before a frame, taken through that frame by the method's own phases."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from edge_tracker.app.replay.explanation import Candidate
from edge_tracker.app.replay.replaying import RecordedFrame
from edge_tracker.tracking.arrays import NONE
from edge_tracker.tracking.detections import Given
from edge_tracker.tracking.method import Method

SHOWN = 3  # candidates of each kind


class Twin(ABC):
    """The tracker before a frame, taken through that frame.

    Args:
        core: the copy.
        recorded: the frame.
        features: (M, D) float32, zero where none was asked for, or (0, D).

    Attributes:
        tracks: (N,) its tracks, predicted.
        scene: the detections that the method works on; places below are in it.
        state, class_id: (N,) of the tracks before the frame.
        since: (N,) frames since each row's last detection, when the frame was decided.
        predicted: (N, 4) ltwh.
        match: (N,) the place of each row's detection, NONE for none, in the end.
        limits: the numbers that pairs are held to.
    """

    limits: dict[str, float]
    match: np.ndarray
    predicted: np.ndarray

    def __init__(self, core: Method, recorded: RecordedFrame, features: np.ndarray) -> None:
        self.core, self.dt = core, recorded.dt
        self.scene = core.prepare(
            Given(
                np.asarray(recorded.ltwh, np.float64),
                np.asarray(recorded.confidence, np.float64),
                np.asarray(recorded.class_ids, np.int64),
                features,
            )
        )
        self.detections = self.scene.detections
        self.tracks = core.table.live
        self.n = len(self.tracks)
        self.state, self.class_id = self.tracks["state"].copy(), self.tracks["class_id"].copy()
        core.predict(self.dt)
        self.since = self.tracks["time_since_update"].copy()
        self._go()

    @abstractmethod
    def _go(self) -> None:
        """Take the predicted tracks through the rest of the frame."""

    def _boxes(self) -> np.ndarray:
        """Boxes (N, 4) ltwh of the tracks as they are now."""
        return np.array([self.core.table.box(row) for row in range(self.n)]).reshape(-1, 4)

    @abstractmethod
    def numbers(self, row: int, k: int) -> dict[str, float]:
        """The numbers that were compared of a row and the detection at place k."""

    @abstractmethod
    def near(self, row: int, k: int) -> tuple[float, ...] | None:
        """A sort key that puts the likeliest pairs first; None for pairs out of the question."""

    @abstractmethod
    def verdict(self, row: int, k: int) -> str:
        """The outcome of a pair."""

    @abstractmethod
    def by(self, row: int) -> str:
        """The stage in which a row got its detection."""

    @abstractmethod
    def end(self, row: int) -> str:
        """The reason why a row that had no detection has ended."""

    def notes(self, row: int) -> list[str]:
        """Further remarks on a row."""
        return []

    def owner(self, k: int, match: np.ndarray | None = None) -> int:
        """The row that has the detection at place k, NONE for none."""
        rows = np.flatnonzero((self.match if match is None else match) == k)
        return int(rows[0]) if len(rows) else NONE

    def id(self, row: int) -> int:
        """The id of a row."""
        return int(self.tracks[row]["id"])

    def origin(self, k: int) -> int:
        """The place of the detection at place k in the caller's order."""
        return int(self.detections[k]["origin"])

    def place(self, detection: int) -> int:
        """The place in the scene of one of the caller's detections, NONE if it was left out."""
        places = np.flatnonzero(self.detections["origin"] == detection)
        return int(places[0]) if len(places) else NONE

    def of_other_class(self, row: int, k: int) -> bool:
        """True if their classes forbid the pair."""
        return self.core.class_aware and bool(self.class_id[row] != self.detections[k]["class_id"])

    def candidate(self, row: int, k: int) -> Candidate:
        """A pair with its numbers and its outcome."""
        confidence = float(self.detections[k]["confidence"])
        owner = self.owner(k)
        return Candidate(
            detection=self.origin(k),
            track=self.id(row),
            confidence=None if np.isnan(confidence) else confidence,
            numbers=self.numbers(row, k),
            verdict=self.verdict(row, k),
            taken_by=None if owner == NONE else self.id(owner),
        )

    def detections_for(self, row: int) -> list[Candidate]:
        """The likeliest detections of a row, its own among them."""
        keys = {k: key for k in range(len(self.detections)) if (key := self.near(row, k)) is not None}
        best = sorted(keys, key=keys.__getitem__)[:SHOWN]
        own = int(self.match[row])
        if own != NONE and own not in best:
            best.append(own)
        return [self.candidate(row, k) for k in best]

    def tracks_for(self, k: int) -> list[Candidate]:
        """The likeliest tracks of the detection at place k."""
        keys = {row: key for row in range(self.n) if (key := self.near(row, k)) is not None}
        return [self.candidate(row, k) for row in sorted(keys, key=keys.__getitem__)[:SHOWN]]
