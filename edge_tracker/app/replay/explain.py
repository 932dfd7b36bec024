"""Explanations of a track of a replay, frame by frame: the detection it was matched to, and the reasons.

Before a frame the tracker is copied; after it, the copy goes through the same phases, and the numbers that decided are
read between them. The outcome itself is read from the tracker.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import numpy as np

from edge_tracker.app.replay.deepsort_twin import DeepSortTwin
from edge_tracker.app.replay.edge_twin import EdgeTwin
from edge_tracker.app.replay.explanation import Explanation
from edge_tracker.app.replay.recording import RecordingEmbedder
from edge_tracker.app.replay.replaying import RecordedFrame, Replay
from edge_tracker.app.replay.twin import Twin
from edge_tracker.errors import InputError
from edge_tracker.track_arrays import TrackArrays
from edge_tracker.tracking.arrays import NONE
from edge_tracker.tracking.edge.tracker import EdgeTracker
from edge_tracker.tracking.tables import CONFIRMED, TENTATIVE

STATES = {TENTATIVE: "tentative", CONFIRMED: "confirmed"}


class Explainer:
    """Goes through a replay and explains one track.

    Args:
        replay: the replay, not begun.
        track: its id.
        first, last: frames (their indices) to explain; None for all.

    Attributes:
        seen: true once the track has lived in a frame; seen_within: in one of the frames explained.
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
            live = self._id in core.table.live["id"]
            number = core.table.next_id
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
                twin = (EdgeTwin if isinstance(before, EdgeTracker) else DeepSortTwin)(before, frame, features)
                explanation = self._explain(twin, frame, tracks)
            yield frame, tracks, explanation
        if not self.seen:
            raise InputError(
                f"--explain {self._id}: the recording has no such track; its ids go up to {core.table.next_id - 1}"
            )
        if not self.seen_within:
            raise InputError(f"--explain {self._id}: the track does not live in the frames given by --frames")

    def _features(self, frame: RecordedFrame) -> np.ndarray:
        """The features (M, D) that the step had, zero where it asked for none; (0, D) where there are none at all."""
        if self._tap is None or not len(frame.ltwh):
            return self._replay.tracker.tracker.core.no_features()
        places, got = self._tap.take(frame.ltwh)
        features = np.zeros((len(frame.ltwh), self._tap.dimension), dtype=np.float32)
        features[places] = np.where(np.isfinite(got).all(axis=1, keepdims=True), got, 0.0)
        return features

    def _explain(self, twin: Twin, frame: RecordedFrame, tracks: TrackArrays) -> Explanation:
        rows = np.flatnonzero(twin.tracks["id"] == self._id)
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
            return Explanation(
                frame.index, self._id, "started", STATES[state], 0.0, None, box, detection, "start", twin.limits,
                twin.tracks_for(twin.place(detection)),
            )  # fmt: skip
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
