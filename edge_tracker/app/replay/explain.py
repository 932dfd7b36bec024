"""Why a track of a replay got its detection, or lost it, frame by frame.

Before a frame the tracker is copied; after it, the stages of the step are gone through on the copy, by the functions
that the step itself is made of, and the numbers that decided are read between them. What came out of it is read from
the step.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field

import numpy as np

from edge_tracker.app.replay.recording import RecordingEmbedder
from edge_tracker.app.replay.replay import RecordedFrame, Replay
from edge_tracker.errors import InputError
from edge_tracker.track_arrays import TrackArrays
from edge_tracker.tracking.assignment import NONE, iou
from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.deepsort.association import associate
from edge_tracker.tracking.deepsort.tracker import Tracker
from edge_tracker.tracking.detections import Frame, prepare
from edge_tracker.tracking.edge import appearance as edge_appearance
from edge_tracker.tracking.edge import filter as edge_filter
from edge_tracker.tracking.edge import motion as edge_matching
from edge_tracker.tracking.edge.filter import sureness
from edge_tracker.tracking.edge.tables import longest_gap
from edge_tracker.tracking.edge.tracker import EdgeTracker, match_by_looks, measure_features, open_frame, settle
from edge_tracker.tracking.gallery import NO_ROW, smallest_distance
from edge_tracker.tracking.tables import CONFIRMED, NEXT_ID, TENTATIVE, predict_tracks

STATES = {TENTATIVE: "tentative", CONFIRMED: "confirmed"}
SHOWN = 3  # candidates of each kind

_EMBEDDED_FOR = {
    edge_appearance.RETURNING: "a lost track may have come back as it",
    edge_appearance.CROSSED: "the track has crossed another",
    edge_appearance.BEGINNING: "the track has no looks yet",
    edge_appearance.CROSSING: "the track is about to cross another",
    edge_appearance.STALE: "the track's looks are old",
}


@dataclass
class Candidate:
    """A detection that a track could have got; or, at a birth, a track that could have got the detection.

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
        event: "born", "matched", "missed" or "ended".
        state: "tentative" or "confirmed" before the frame; at a birth, after it.
        since: frames since the last detection, this one included.
        predicted: left, top, width, height, pixels; None at a birth.
        box: the same of the track after the frame; None when it has ended.
        detection: place of its detection in the frame, None without one.
        by: how it got it: "motion", "re-entry", "exchange", "cascade", "iou" or "birth".
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
        if self.event == "born":
            got = f" at detection {self.detection}"
        lines = [f"frame {self.frame}: track {self.track} ({self.state}) {self.event}{got}"]
        if self.predicted is not None:
            left, top, width, height = self.predicted
            lines.append(
                f"  predicted {left:.1f},{top:.1f} {width:.1f}x{height:.1f}, {_frames(self.since)} after its last"
                " detection"
            )
        for c in self.candidates:
            who = f"track {c.track}" if self.event == "born" else f"detection {c.detection}"
            sure = "" if c.confidence is None else f" (confidence {c.confidence:.2f})"
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in c.numbers.items())
            lines.append(f"  {who}{'' if self.event == 'born' else sure}: {numbers}: {c.verdict}")
        if not self.candidates:
            lines.append("  no track is near" if self.event == "born" else "  no detection is near")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


class _Twin(ABC):
    """The tracker before a frame, taken through that frame.

    Attributes:
        core: the copy.
        rows: its tracks, predicted.
        n: how many.
        frame: the detections that the method works on; places below are in it.
        match: (N,) the place of each row's detection, NONE for none, in the end.
        since: (N,) frames since each row's last detection.
        state: (N,) before the frame.
        predicted: (N, 4) ltwh.
        limits: what numbers are held to.
    """

    limits: dict[str, float]

    def __init__(self, core: Tracker, given: RecordedFrame, features: np.ndarray) -> None:
        self.core, self.features, self.dt = core, features, given.dt
        self.n = len(core.store)
        core.reserve(len(given.ltwh), features)
        self.rows = core.store.rows
        self.state = self.rows.state[: self.n].copy()
        ltwh, confidence = np.asarray(given.ltwh, np.float64), np.asarray(given.confidence, np.float64)
        _, _, self.frame = self._prepared(ltwh, confidence, np.asarray(given.class_ids, np.int64))
        self.predicted = np.empty((self.n, 4))
        self.match = np.full(self.n, NONE)
        self._go()
        self.since = self.rows.time_since_update[: self.n]

    def _prepared(self, ltwh: np.ndarray, confidence: np.ndarray, classes: np.ndarray) -> tuple[int, int, Frame]:
        return prepare(ltwh, confidence, classes, self.features, self.core.settings)

    @abstractmethod
    def _go(self) -> None:
        """Take the copy through the frame."""

    @abstractmethod
    def numbers(self, row: int, k: int) -> dict[str, float]:
        """What was compared of a row and the detection at place k."""

    @abstractmethod
    def near(self, row: int, k: int) -> tuple[float, ...] | None:
        """A key by which the likeliest pairs come first; None for pairs that nobody would think of."""

    @abstractmethod
    def verdict(self, row: int, k: int) -> str:
        """What became of a pair."""

    @abstractmethod
    def by(self, row: int) -> str:
        """How a row got its detection."""

    @abstractmethod
    def end(self, row: int) -> str:
        """Why a row that had no detection has ended."""

    def notes(self, row: int) -> list[str]:
        """What else there is to say of a row."""
        return []

    def owner(self, k: int, match: np.ndarray | None = None) -> int:
        """The row that has the detection at place k, NONE for none."""
        rows = np.flatnonzero((self.match if match is None else match) == k)
        return int(rows[0]) if len(rows) else NONE

    def id(self, row: int) -> int:
        """The id of a row."""
        return int(self.rows.id[row])

    def place(self, detection: int) -> int:
        """The place in `frame` of one of the caller's detections, NONE if it was left out."""
        places = np.flatnonzero(self.frame.origin == detection)
        return int(places[0]) if len(places) else NONE

    def of_other_class(self, row: int, k: int) -> bool:
        """Whether their classes forbid the pair."""
        return bool(self.core.settings.class_aware and self._class[row] != self.frame.class_id[k])

    def _keep_class(self) -> None:
        self._class = self.rows.class_id[: self.n].copy()  # the step notes those of the detections over them

    def candidate(self, row: int, k: int) -> Candidate:
        """A pair with all there is to say of it."""
        confidence = float(self.frame.confidence[k])
        owner = self.owner(k)
        return Candidate(
            detection=int(self.frame.origin[k]),
            track=self.id(row),
            confidence=None if np.isnan(confidence) else confidence,
            numbers=self.numbers(row, k),
            verdict=self.verdict(row, k),
            taken_by=None if owner == NONE else self.id(owner),
        )

    def detections_for(self, row: int) -> list[Candidate]:
        """The likeliest detections of a row, its own among them."""
        keys = {k: key for k in range(len(self.frame.origin)) if (key := self.near(row, k)) is not None}
        best = sorted(keys, key=keys.__getitem__)[:SHOWN]
        own = int(self.match[row])
        if own != NONE and own not in best:
            best.append(own)
        return [self.candidate(row, k) for k in best]

    def tracks_for(self, k: int) -> list[Candidate]:
        """The likeliest tracks of the detection at place k."""
        keys = {row: key for row in range(self.n) if (key := self.near(row, k)) is not None}
        return [self.candidate(row, k) for row in sorted(keys, key=keys.__getitem__)[:SHOWN]]


class _DeepSortTwin(_Twin):
    def _go(self) -> None:
        s, settings = self.core.store, self.core.settings
        self._keep_class()
        predict_tracks(s.rows, 0, self.n, self.dt, settings.max_age + 1)
        self.predicted = np.array([kalman.box(s.rows.mean, row) for row in range(self.n)]).reshape(-1, 4)
        self.match = associate(s.rows, self.n, s.gallery, self.frame, self.features, self.dt, settings)
        self._dimensions = 2 if settings.gating_only_position else 4
        gate = kalman.CHI2_95_2DOF if settings.gating_only_position else kalman.CHI2_95_4DOF
        self.limits = {
            "mahalanobis": float(gate),
            "cosine": settings.max_cosine_distance,
            "iou": 1.0 - settings.max_iou_distance,
        }

    def _in_cascade(self, row: int) -> bool:
        known = self.state[row] == CONFIRMED and self.rows.newest[row] != NO_ROW
        return bool(len(self.features) and known and self.rows.time_since_update[row] <= self.core.settings.max_age)

    def _in_iou_stage(self, row: int) -> bool:
        since = self.rows.time_since_update[row]
        recent = len(self.features) == 0 or self.state[row] != CONFIRMED or since <= self.dt
        return bool(recent and since <= self.core.settings.max_age + 1)

    def numbers(self, row: int, k: int) -> dict[str, float]:
        numbers = {"iou": float(iou(kalman.box(self.rows.mean, row), self.frame.ltwh, k))}
        if self._in_cascade(row):
            variance = [
                kalman.innovation_variance(self.rows.mean, self.rows.covariance, row, i)
                for i in range(self._dimensions)
            ]
            residual = self.frame.xyah[k, : self._dimensions] - self.rows.mean[row, : self._dimensions]
            numbers["mahalanobis"] = float((residual**2 / variance).sum())
            numbers["cosine"] = float(
                smallest_distance(
                    self.core.store.gallery, self.rows.newest[row], self.rows.features[row], self.features,
                    self.frame.origin[k], self.frame.norm[k], -np.inf,
                )
            )  # fmt: skip
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
        """Why the cascade does not allow a pair; nothing if it does, or is not for the track."""
        if not self._in_cascade(row):
            return []
        if numbers["mahalanobis"] > self.limits["mahalanobis"]:
            return [f"outside the gate (mahalanobis > {self.limits['mahalanobis']:.4g})"]
        if numbers["cosine"] > self.limits["cosine"]:
            return [f"looks differ (cosine > {self.limits['cosine']:.3g})"]
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
                return f"taken in the cascade, level {self.rows.time_since_update[row]:g}"
            return "; ".join([*self._not_by_cascade(row, numbers), "taken in the IoU stage"])
        reasons = self._not_by_cascade(row, numbers)
        if not self._fits_cascade(row, numbers):
            if not self._in_iou_stage(row):
                reasons.append(f"not in the IoU stage, {_frames(self.rows.time_since_update[row])} without a detection")
            elif 1.0 - numbers["iou"] > self.core.settings.max_iou_distance:
                reasons.append(f"too little overlap (iou < {limits['iou']:.3g})")
        if owner != NONE:
            theirs = self.numbers(owner, k)
            how = self.by(owner)
            shown = f"cosine {theirs['cosine']:.3g}" if how == "cascade" else f"iou {theirs['iou']:.3g}"
            younger = self.rows.time_since_update[owner] < self.rows.time_since_update[row]
            turn = ", whose turn is before" if how == "cascade" and younger else ""
            reasons.append(f"went to track {self.id(owner)} ({how}, {shown}{turn})")
        elif not reasons:
            reasons.append(f"left for detection {self.frame.origin[self.match[row]]}, which makes the better sum")
        return "; ".join(reasons)

    def end(self, row: int) -> str:
        if self.state[row] == TENTATIVE:
            return "ended: a tentative track ends at its first frame without a detection"
        return (
            f"ended: {_frames(self.since[row])} without a detection, more than max_age {self.core.settings.max_age:g}"
        )


class _EdgeTwin(_Twin):
    core: EdgeTracker

    def _prepared(self, ltwh: np.ndarray, confidence: np.ndarray, classes: np.ndarray) -> tuple[int, int, Frame]:
        complaint, blamed, frame = prepare(ltwh, confidence, classes, self.features[:0], self.core.settings)
        if len(self.features):
            measure_features(frame, self.features)
        return complaint, blamed, frame

    def _go(self) -> None:
        core, frame, dt = self.core, self.frame, self.dt
        s, edge, aware = core.store, core.edge, core.settings.class_aware
        self._keep_class()
        self.appearance = s.appearance
        self.limits = {
            "similarity": edge.similarity,
            "tentative_similarity": edge.tentative_similarity,
            "appearance": edge.reenter,
            "swap": edge.swap,
        }
        self.boxes, clean, match = open_frame(s.rows, s.columns, s.counters, s.learnt, frame, dt, aware, edge)
        self.motion = match.copy()
        self.mean = s.rows.mean[: self.n].copy()
        self.predicted = np.array([edge_filter.box(s.rows.mean, row) for row in range(self.n)]).reshape(-1, 4)
        since = s.rows.time_since_update[: self.n].copy()
        self.matchable = edge_matching.matchable(s.rows, self.n, dt, s.learnt, edge)
        self.gap = [longest_gap(s.rows, row, dt, self.appearance, edge) for row in range(self.n)]
        self.wanted = np.zeros(len(self.boxes), dtype=np.int8)
        self.looks: dict[tuple[int, int], float] = {}
        self.out_of_reach: set[tuple[int, int]] = set()
        self.lost: set[int] = set()
        back = np.zeros(self.n, dtype=np.bool_)
        if self.appearance:
            self.wanted = edge_appearance.wanted_crops(
                s.rows, s.columns, match, frame, self.boxes, clean, dt, edge, aware
            )
            self._look_for_lost(match)
            back = match_by_looks(
                s.rows, match, s.gallery, frame, self.boxes, clean, self.features, s.learnt, edge, aware
            )
        self.back = back
        settle(s.rows, s.columns, s.learnt, match, back, frame, self.boxes, dt, self.appearance, edge)
        self.settled = match.copy()
        self._said: dict[int, list[str]] = {}
        if self.appearance:
            self._cross(match, clean)
        self.match = match
        s.rows.time_since_update[: self.n] = since  # as it was when all was decided

    def _look_for_lost(self, match: np.ndarray) -> None:
        """Note how like the lost tracks the detections are that they could come back as."""
        s, edge, frame = self.core.store, self.core.edge, self.frame
        for row in edge_appearance.lost_tracks(s.rows, match, edge).tolist():
            self.lost.add(row)
            for k in range(len(self.boxes)):
                if not edge_appearance._may_be(s.rows, row, frame, self.boxes, k, edge, False):
                    self.out_of_reach.add((row, k))
                elif frame.norm[k] > 0.0:
                    distance = edge_appearance._distance(
                        s.rows, row, s.gallery, self.features, frame.origin[k], frame.norm[k]
                    )
                    self.looks[row, k] = float(edge_appearance._normalised(s.learnt, distance))

    def _cross(self, match: np.ndarray, clean: np.ndarray) -> None:
        """The part of the step that deals with crossings, and what it does in words."""
        s, edge, n = self.core.store, self.core.edge, self.n
        rows, columns, gallery = s.rows, s.columns, s.gallery
        was = columns.partner[:n].copy()
        edge_appearance.note_crossings(rows, columns, match, gallery, edge)
        for row in range(n):
            partner = int(columns.partner[row])
            if partner > 0 and partner != was[row]:
                self._say(row, f"crosses track {partner}: its looks are kept as they are until both are seen clearly")
        edge_appearance.remember_features(rows, columns, match, gallery, self.frame, self.features, clean, edge)
        ids = {int(number): row for row, number in enumerate(rows.id[:n])}
        # The pairs about to be decided, and how well each identity fits what both have looked like since.
        fits: dict[tuple[int, int], tuple[float, float]] = {}
        for row in range(n):
            other = ids.get(int(columns.partner[row]), NONE)
            if other == NONE or other > row or columns.partner[other] != rows.id[row]:
                continue
            seen = min(columns.pending[row], columns.pending[other]) > 0 and NONE not in (match[row], match[other])
            if seen and NO_ROW not in (rows.newest[row], rows.newest[other]):
                fits[row, other] = (self._fit((row, row), (other, other)), self._fit((row, other), (other, row)))
        before = match.copy()
        edge_appearance.settle_crossings(rows, columns, match, gallery, s.learnt, edge)
        for (row, other), (straight, crossed) in fits.items():
            exchanged = before[row] != match[row]
            for one, two in ((row, other), (other, row)):
                outcome = (
                    f"identities exchanged, from detection {self.frame.origin[before[one]]}" if exchanged else "kept"
                )
                self._say(
                    one,
                    f"parted from track {self.id(two)}: appearance {straight:.3g} as it is, {crossed:.3g} exchanged: "
                    f"{'better' if crossed < straight else 'worse'} by {abs(straight - crossed):.3g}, swap "
                    f"{edge.swap:.3g}: {outcome}",
                )

    def _fit(self, *pairs: tuple[int, int]) -> float:
        """Mean normalised distance of what rows `shown` have looked like from the galleries of rows."""
        s = self.core.store
        distances = [
            edge_appearance._mean_distance(s.rows, row, s.columns, shown, s.gallery, s.learnt) for row, shown in pairs
        ]
        return float(np.mean(distances))

    def _say(self, row: int, what: str) -> None:
        self._said.setdefault(row, []).append(what)

    def _similarity(self, row: int, k: int, vertical: bool = True) -> float:
        return float(edge_matching.similarity(self.mean, row, self.boxes, k, 0.0, vertical))

    def _least(self, row: int) -> float:
        return self.limits["similarity" if self.state[row] == CONFIRMED else "tentative_similarity"]

    def numbers(self, row: int, k: int) -> dict[str, float]:
        numbers = {"iou": self._similarity(row, k, False), "similarity": self._similarity(row, k)}
        if (row, k) in self.looks:
            numbers["appearance"] = self.looks[row, k]
        return numbers

    def near(self, row: int, k: int) -> tuple[float, ...] | None:
        value = self._similarity(row, k)
        looks = self.looks.get((row, k), np.inf)
        if value <= 0.0 and looks == np.inf:
            return None
        return (0.0, -value) if value > self._least(row) else (1.0, looks, -value)

    def by(self, row: int) -> str:
        if self.match[row] != self.settled[row]:
            return "exchange"
        return "re-entry" if self.back[row] else "motion"

    def verdict(self, row: int, k: int) -> str:
        if self.match[row] == k:
            return {"motion": "taken", "re-entry": "taken: it has come back", "exchange": "got by the exchange"}[
                self.by(row)
            ]
        if self.of_other_class(row, k):
            return "of another class"
        least, sure = self._least(row), sureness(self.frame.confidence[k]) >= self.core.edge.low
        if self.motion[row] == k:
            if self.settled[row] == k:
                return f"taken by motion, and given to track {self.id(self.owner(k))} by the exchange"
            return f"taken by motion; then track {self.id(self.owner(k, self.settled))} came back as it"
        if row in self.lost and self._similarity(row, k) <= least:
            return self._verdict_by_looks(row, k, sure)
        reasons = []
        if not self.matchable[row]:
            reasons.append(f"{_frames(self.since_of(row))} without a detection: its prediction is not trusted")
        elif self._similarity(row, k) <= least:
            reasons.append(f"not similar enough (similarity <= {least:.3g})")
        elif self.state[row] == TENTATIVE and not sure:
            reasons.append(f"too unsure for a tentative track (confidence < low {self.core.edge.low:.3g})")
        owner = self.owner(k, self.motion)
        if owner not in (NONE, row):
            turn = ""
            if self.state[owner] == CONFIRMED and self.state[row] == TENTATIVE:
                turn = ", confirmed, whose turn is before"
            reasons.append(f"went to track {self.id(owner)} (similarity {self._similarity(owner, k):.3g}{turn})")
        elif not reasons and self.motion[row] != NONE:
            turn = "" if sure else ", since unsure ones come last"
            reasons.append(f"left for detection {self.frame.origin[self.motion[row]]}{turn}")
        if row in self.lost:
            reasons.append(self._verdict_by_looks(row, k, sure))
        return "; ".join(reasons) or "not chosen"

    def _verdict_by_looks(self, row: int, k: int, sure: bool) -> str:
        """Why a lost track has not come back as the detection at place k."""
        owner = self.owner(k, self.motion)
        if owner != NONE and self.state[owner] == CONFIRMED:
            return f"not similar enough, and of track {self.id(owner)} by motion"
        if not sure:
            return f"too unsure to come back as (confidence < low {self.core.edge.low:.3g})"
        if (row, k) in self.out_of_reach:
            return "out of its reach, or of another height"
        if (row, k) not in self.looks:
            return "not embedded"
        if self.looks[row, k] >= self.limits["appearance"]:
            return f"does not look like it (appearance >= reenter {self.limits['appearance']:.3g})"
        taker = self.owner(k, self.settled)
        if taker == NONE:
            return f"left for detection {self.frame.origin[self.settled[row]]}, which makes the better sum"
        return f"track {self.id(taker)} came back as it (appearance {self.looks.get((taker, k), np.nan):.3g})"

    def since_of(self, row: int) -> float:
        """Frames since the last detection, when the frame was decided."""
        return float(self.rows.time_since_update[row])

    def notes(self, row: int) -> list[str]:
        notes = list(self._said.get(row, []))
        k = int(self.match[row])
        if k != NONE and self.wanted[k] in _EMBEDDED_FOR:
            embedded = len(self.features) and self.frame.norm[k] > 0.0
            notes.append(
                f"detection {self.frame.origin[k]} {'was' if embedded else 'was to be, but was not'} embedded: "
                + _EMBEDDED_FOR[int(self.wanted[k])]
            )
        return notes

    def end(self, row: int) -> str:
        if self.state[row] == TENTATIVE:
            return "ended: a tentative track ends at its first frame without a detection"
        return f"ended: {_frames(self.since_of(row))} without a detection, more than {self.gap[row]:.4g}"


class Explainer:
    """Goes through a replay and explains one track.

    Args:
        replay: the replay, not begun.
        track: its id.
        first, last: frames (their indices) to explain; None for all.

    Attributes:
        seen: whether the track has lived in any frame so far, and in any of the frames explained.
    """

    def __init__(self, replay: Replay, track: int, first: int | None = None, last: int | None = None) -> None:
        self._replay, self._id = replay, track
        self._first, self._last = first, last
        self.seen = self.seen_within = False
        self._tap: RecordingEmbedder | None = None
        if replay.embedder is not None:
            self._tap = RecordingEmbedder(replay.embedder)
            replay.tracker.embedder = self._tap

    def __iter__(self) -> Iterator[tuple[RecordedFrame, TrackArrays, Explanation | None]]:
        """Each frame of the replay, its tracks, and the explanation where there is something to explain.

        Raises:
            SourceError: as for `Replay`.
            InputError: the track is in no frame, or in none of those asked for.
        """
        replay = self._replay
        core = replay.tracker.tracker.core
        for frame in replay.recording:
            replay.prepare(frame)
            store = core.store
            live = self._id in store.rows.id[: len(store)]
            number = int(store.counters[NEXT_ID])
            within = (self._first is None or frame.index >= self._first) and (
                self._last is None or frame.index <= self._last
            )
            before = None
            if within and (live or number <= self._id < number + len(frame.ltwh)):
                before = deepcopy(core)
            tracks = replay.advance(frame)
            features = self._features(frame)
            self.seen |= live or self._id in tracks.ids
            explanation = None
            if before is not None and (live or self._id in tracks.ids):
                self.seen_within = True
                twin = (_EdgeTwin if isinstance(before, EdgeTracker) else _DeepSortTwin)(before, frame, features)
                explanation = self._explain(twin, frame, tracks)
            yield frame, tracks, explanation
        if not self.seen:
            raise InputError(
                f"--explain {self._id}: the recording has no such track; its ids go up to {_last_id(core)}"
            )
        if not self.seen_within:
            raise InputError(f"--explain {self._id}: the track does not live in the frames given by --frames")

    def _features(self, frame: RecordedFrame) -> np.ndarray:
        """The features (M, D) that the step had, zero where it asked for none; (0, D) where there are none at all."""
        if self._tap is None or not len(frame.ltwh):
            return self._replay.tracker.tracker.core.no_features()
        places, got = self._tap.take(frame.ltwh)
        features = np.zeros((len(frame.ltwh), self._tap.dimension), dtype=np.float32)
        features[places] = got
        return features

    def _explain(self, twin: _Twin, frame: RecordedFrame, tracks: TrackArrays) -> Explanation:
        rows = np.flatnonzero(twin.rows.id[: twin.n] == self._id)
        after = np.flatnonzero(tracks.ids == self._id)
        detection, box, state = None, None, 0
        if len(after):
            row = int(after[0])
            left, top, right, bottom = tracks.ltrb[row].tolist()
            box = [left, top, right - left, bottom - top]
            detection = int(tracks.detection[row]) if tracks.detection[row] >= 0 else None
            state = CONFIRMED if tracks.confirmed[row] else TENTATIVE
        if not len(rows):
            assert detection is not None
            born = Explanation(
                frame.index, self._id, "born", STATES[state], 0.0, None, box, detection, "birth", twin.limits,
                twin.tracks_for(twin.place(detection)),
            )  # fmt: skip
            return born
        row = int(rows[0])
        event = "ended" if not len(after) else "missed" if detection is None else "matched"
        by = twin.by(row) if event == "matched" and twin.match[row] != NONE else None
        explanation = Explanation(
            frame.index, self._id, event, STATES[int(twin.state[row])], float(twin.since[row]),
            twin.predicted[row].tolist(), box, detection, by, twin.limits, twin.detections_for(row), twin.notes(row),
        )  # fmt: skip
        if event == "ended":
            explanation.notes.append(twin.end(row))
        elif state == CONFIRMED and twin.state[row] == TENTATIVE:
            explanation.notes.append("confirmed")
        if twin.match[row] != (NONE if detection is None else twin.place(detection)):
            explanation.notes.append("the numbers above do not account for what happened: please report this")
        return explanation


def _last_id(core: Tracker) -> int:
    """The last id that was given away."""
    return int(core.store.counters[NEXT_ID]) - 1


def _frames(count: float) -> str:
    return "1 frame" if count == 1 else f"{count:g} frames"
