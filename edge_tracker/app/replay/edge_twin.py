"""`method="edge"` explained: motion, re-entry and crossings."""

from __future__ import annotations

import numpy as np

from edge_tracker.app.replay.explanation import frames_in_words
from edge_tracker.app.replay.twin import Twin
from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.edge import crossings, requests
from edge_tracker.tracking.edge.filter import sureness
from edge_tracker.tracking.edge.motion import matchable, similarity
from edge_tracker.tracking.edge.reentry import lost_tracks, within_reach
from edge_tracker.tracking.edge.scale import cosine_distance, normalised
from edge_tracker.tracking.edge.tables import longest_gap
from edge_tracker.tracking.edge.tracker import EdgeTracker
from edge_tracker.tracking.gallery import NO_ROW
from edge_tracker.tracking.tables import CONFIRMED, TENTATIVE

_EMBEDDED_FOR = {
    requests.RETURNING: "a lost track may have come back as it",
    requests.CROSSED: "the track has crossed another",
    requests.BEGINNING: "the track has no features yet",
    requests.CROSSING: "the track is about to cross another",
    requests.STALE: "the track's features are old",
}


class EdgeTwin(Twin):
    """A `Twin` with `method="edge"`."""

    core: EdgeTracker

    def _go(self) -> None:
        core, dt = self.core, self.dt
        settings, compiled, table = core.settings, core.compiled, core.table
        self.limits = {
            "similarity": settings.similarity,
            "tentative_similarity": settings.tentative_similarity,
            "appearance": settings.reenter,
            "swap": settings.swap,
        }
        core.match_by_motion(self.scene, dt)
        self.motion = self.tracks["match"].copy()
        self.mean = self.tracks["mean"].copy()
        self.predicted = self._boxes()
        self.matchable = [matchable(track, dt, table.statistics, compiled) for track in self.tracks]
        self.gap = [longest_gap(track, dt, table.appearance, compiled) for track in self.tracks]
        self.wanted = np.zeros(len(self.detections), dtype=np.int8)
        self.appearance: dict[tuple[int, int], float] = {}
        self.out_of_reach: set[tuple[int, int]] = set()
        self.lost: set[int] = set()
        if table.appearance:
            self.wanted = core.wanted(self.scene, dt)
            self._compare_lost()
            core.match_by_appearance(self.scene)
        self.returns = self.tracks["returns"].copy()
        core.update(self.scene, dt)
        self.settled = self.tracks["match"].copy()
        self._said: dict[int, list[str]] = {}
        if table.appearance:
            self._cross()
        self.match = self.tracks["match"].copy()

    def _compare_lost(self) -> None:
        """Compare the lost tracks with the detections that they could come back as."""
        tables, compiled = self.core.table.tables, self.core.compiled
        for row in lost_tracks(tables, compiled).tolist():
            self.lost.add(row)
            track = self.tracks[row]
            for k, detection in enumerate(self.detections):
                if not within_reach(track, detection, compiled):
                    self.out_of_reach.add((row, k))
                elif detection["norm"] > 0.0:
                    feature = self.scene.features[detection["origin"]]
                    distance = cosine_distance(tables.gallery, track, feature, detection["norm"])
                    self.appearance[row, k] = float(normalised(self.core.table.statistics, distance))

    def _cross(self) -> None:
        """Take the tracks through their crossings, and put into words what happens."""
        tables, compiled, tracks = self.core.table.tables, self.core.compiled, self.tracks
        before = tracks["partner"].copy()
        crossings.note_crossings(tables, compiled)
        for row in range(self.n):
            partner = int(tracks[row]["partner"])
            if partner > 0 and partner != before[row]:
                self._say(row, f"crosses track {partner}: its gallery stays as it is until both are seen clearly")
        crossings.remember_features(tables, self.scene, compiled)
        # How well each identity fits the features that both have shown since, of the pairs about to be decided.
        fits: dict[tuple[int, int], tuple[float, float]] = {}
        for row, other in crossings.crossed_pairs(tables).tolist():
            if NO_ROW not in (tracks[row]["gallery"]["newest"], tracks[other]["gallery"]["newest"]):
                fits[row, other] = (self._fit((row, row), (other, other)), self._fit((row, other), (other, row)))
        crossings.settle_crossings(tables, compiled)
        for (row, other), (straight, crossed) in fits.items():
            exchanged = self.settled[row] != tracks[row]["match"]
            for one, two in ((row, other), (other, row)):
                outcome = f"identities exchanged, from detection {self.origin(self.settled[one])}"
                self._say(
                    one,
                    f"parted from track {self.id(two)}: appearance {straight:.3g} as it is, {crossed:.3g} exchanged: "
                    f"{'better' if crossed < straight else 'worse'} by {abs(straight - crossed):.3g}, swap "
                    f"{self.limits['swap']:.3g}: {outcome if exchanged else 'kept'}",
                )

    def _fit(self, *pairs: tuple[int, int]) -> float:
        """Mean normalised distance of the features that rows `shown` have had from the galleries of rows."""
        tables, tracks = self.core.table.tables, self.tracks
        return float(np.mean([crossings.mean_distance(tables, tracks[row], tracks[shown]) for row, shown in pairs]))

    def _say(self, row: int, what: str) -> None:
        self._said.setdefault(row, []).append(what)

    def _similarity(self, row: int, k: int, vertical: bool = True) -> float:
        return float(similarity(self.mean[row], self.detections[k]["measured"], 0.0, vertical))

    def _least(self, row: int) -> float:
        return self.limits["similarity" if self.state[row] == CONFIRMED else "tentative_similarity"]

    def numbers(self, row: int, k: int) -> dict[str, float]:
        numbers = {"iou": self._similarity(row, k, False), "similarity": self._similarity(row, k)}
        if (row, k) in self.appearance:
            numbers["appearance"] = self.appearance[row, k]
        return numbers

    def near(self, row: int, k: int) -> tuple[float, ...] | None:
        value = self._similarity(row, k)
        distance = self.appearance.get((row, k), np.inf)
        if value <= 0.0 and distance == np.inf:
            return None
        return (0.0, -value) if value > self._least(row) else (1.0, distance, -value)

    def by(self, row: int) -> str:
        if self.match[row] != self.settled[row]:
            return "exchange"
        return "re-entry" if self.returns[row] else "motion"

    def verdict(self, row: int, k: int) -> str:
        if self.match[row] == k:
            return {"motion": "taken", "re-entry": "taken: it has come back", "exchange": "got by the exchange"}[
                self.by(row)
            ]
        if self.of_other_class(row, k):
            return "of another class"
        least, sure = self._least(row), sureness(self.detections[k]["confidence"]) >= self.core.settings.low
        if self.motion[row] == k:
            if self.settled[row] == k:
                return f"taken by motion, and given to track {self.id(self.owner(k))} by the exchange"
            return f"taken by motion; then track {self.id(self.owner(k, self.settled))} came back as it"
        if row in self.lost and self._similarity(row, k) <= least:
            return self._verdict_by_appearance(row, k, sure)
        reasons = []
        if not self.matchable[row]:
            reasons.append(f"{frames_in_words(self.since[row])} without a detection: its prediction is not trusted")
        elif self._similarity(row, k) <= least:
            reasons.append(f"not similar enough (similarity <= {least:.3g})")
        elif self.state[row] == TENTATIVE and not sure:
            reasons.append(f"too unsure for a tentative track (confidence < low {self.core.settings.low:.3g})")
        owner = self.owner(k, self.motion)
        if owner not in (NONE, row):
            turn = ""
            if self.state[owner] == CONFIRMED and self.state[row] == TENTATIVE:
                turn = ", confirmed, whose turn is before"
            reasons.append(f"went to track {self.id(owner)} (similarity {self._similarity(owner, k):.3g}{turn})")
        elif not reasons and self.motion[row] != NONE:
            turn = "" if sure else ", since unsure ones come last"
            reasons.append(f"left for detection {self.origin(self.motion[row])}{turn}")
        if row in self.lost:
            reasons.append(self._verdict_by_appearance(row, k, sure))
        return "; ".join(reasons) or "not chosen"

    def _verdict_by_appearance(self, row: int, k: int, sure: bool) -> str:
        """The reason why a lost track has not come back as the detection at place k."""
        owner = self.owner(k, self.motion)
        if owner != NONE and self.state[owner] == CONFIRMED:
            return f"not similar enough, and of track {self.id(owner)} by motion"
        if not sure:
            return f"too unsure to come back as (confidence < low {self.core.settings.low:.3g})"
        if (row, k) in self.out_of_reach:
            return "out of its reach, or of another height"
        if (row, k) not in self.appearance:
            return "not embedded"
        if self.appearance[row, k] >= self.limits["appearance"]:
            return f"its appearance differs (appearance >= reenter {self.limits['appearance']:.3g})"
        taker = self.owner(k, self.settled)
        if taker == NONE:
            return f"left for detection {self.origin(self.settled[row])}, which makes the better sum"
        return f"track {self.id(taker)} came back as it (appearance {self.appearance.get((taker, k), np.nan):.3g})"

    def notes(self, row: int) -> list[str]:
        notes = list(self._said.get(row, []))
        k = int(self.match[row])
        if k != NONE and self.wanted[k] in _EMBEDDED_FOR:
            embedded = self.detections[k]["norm"] > 0.0
            notes.append(
                f"detection {self.origin(k)} {'was' if embedded else 'was to be, but was not'} embedded: "
                + _EMBEDDED_FOR[int(self.wanted[k])]
            )
        return notes

    def end(self, row: int) -> str:
        if self.state[row] == TENTATIVE:
            return "ended: a tentative track ends at its first frame without a detection"
        return f"ended: {frames_in_words(self.since[row])} without a detection, more than {self.gap[row]:.4g}"
