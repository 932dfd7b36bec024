"""One frame of `method="edge"` on arrays; docs/edge-method.md describes it.

Two halves, so that the embedder can be asked in between for the few crops that matter: `open_frame` predicts and
matches by motion, `close_frame` lets lost tracks come back, corrects, tells crossed identities apart, buries and bears.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_tracker.tracking.assignment import NONE
from edge_tracker.tracking.deepsort.tracker import Embed, Tracker, check, note_detections
from edge_tracker.tracking.detections import OK, Frame, complain, prepare
from edge_tracker.tracking.edge.appearance import (
    BUDGET,
    NOT_WANTED,
    clean_crops,
    learn_distances,
    note_crossings,
    reenter_tracks,
    remember_features,
    settle_crossings,
    wanted_crops,
)
from edge_tracker.tracking.edge.filter import CONFIDENCE_SUM, SEEN, USUAL_FADE, learn, sureness
from edge_tracker.tracking.edge.motion import match_by_motion
from edge_tracker.tracking.edge.settings import EdgeSettings
from edge_tracker.tracking.edge.tables import (
    EdgeStore,
    bury_edge,
    predict_edge,
    release_edge,
    settle_edge,
    start_edge,
)
from edge_tracker.tracking.gallery import Queues, append, feature_norm
from edge_tracker.tracking.jit import jit
from edge_tracker.tracking.tables import CONFIRMED, LIVE

HITS = 2  # that confirm a track, given the evidence


@jit
def boxes_of(frame):  # type: ignore[no-untyped-def]
    """The detections of a frame as (K, 4) float64 x, y, w, h."""
    boxes = np.empty((frame.ltwh.shape[0], 4))
    for k in range(boxes.shape[0]):
        for i in range(2):
            boxes[k, i + 2] = frame.ltwh[k, i + 2]
            boxes[k, i] = frame.ltwh[k, i] + boxes[k, i + 2] / 2
    return boxes


@jit
def look_over(frame, learnt, edge):  # type: ignore[no-untyped-def]
    """The boxes (K, 4) xywh, their order by x (K,), and which are clean (K,): with no appearance none has to be."""
    boxes = boxes_of(frame)
    by_x = np.argsort(boxes[:, 0], kind="mergesort")
    clean = clean_crops(boxes, by_x, edge) if learnt[SEEN] > 0 else np.zeros(boxes.shape[0], dtype=np.bool_)
    return boxes, by_x, clean


@jit
def settle(rows, columns, learnt, match, back, frame, boxes, dt, appearance, edge):  # type: ignore[no-untyped-def]
    """Correct the rows that were matched and note their detections; mark the others as missed."""
    settle_edge(rows, columns, learnt, 0, match, back, boxes, frame.confidence, HITS, dt, appearance, edge)
    note_detections(rows, 0, match, frame)


@jit
def learn_confidences(learnt, state, match, confidence):  # type: ignore[no-untyped-def]
    """Take note of the confidences of the detections that confirmed tracks have got."""
    total, count = 0.0, 0
    for row in range(match.shape[0]):
        if match[row] != NONE and state[row] == CONFIRMED:
            total, count = total + sureness(confidence[match[row]]), count + 1
    learn(learnt, CONFIDENCE_SUM, total, count, USUAL_FADE)


@jit
def conclude(rows, columns, counters, gallery, learnt, match, frame, boxes, clean, features, appearance, edge):  # type: ignore[no-untyped-def]
    """What follows when all rows are corrected: what is learnt, crossings, deaths, births. May change `match`.

    Returns:
        (K,) int64, the former places of the rows that died.
    """
    taken = np.zeros(boxes.shape[0], dtype=np.bool_)
    for row in range(match.shape[0]):
        if match[row] != NONE:
            taken[match[row]] = True
    learn_confidences(learnt, rows.state, match, frame.confidence)
    if appearance:
        note_crossings(rows, columns, match, gallery, edge)
        remember_features(rows, columns, match, gallery, frame, features, clean, edge)
        settle_crossings(rows, columns, match, gallery, learnt, edge)
    buried = bury_edge(rows, columns, counters)
    queues = Queues(rows.newest, rows.oldest, rows.features)
    first, born = counters[LIVE], np.empty(boxes.shape[0], dtype=np.int64)
    for k in range(boxes.shape[0]):
        if taken[k] or sureness(frame.confidence[k]) < edge.low:
            continue
        row = start_edge(rows, columns, counters, learnt, boxes, k, frame.confidence[k], edge)
        born[row - first] = k
        if appearance and clean[k] and frame.norm[k] > 0.0:
            append(gallery, queues, row, features, frame.origin[k], frame.norm[k], BUDGET)
            columns.stale[row] = 0.0
    note_detections(rows, first, born[: counters[LIVE] - first], frame)
    release_edge(rows, columns, gallery, buried.shape[0])
    return buried


@jit
def match_by_looks(rows, match, gallery, frame, boxes, clean, features, learnt, edge, class_aware):  # type: ignore[no-untyped-def]
    """Add to the matches by motion those of lost tracks that come back; returns which rows (N,) those are."""
    back = reenter_tracks(rows, match, gallery, frame, boxes, features, learnt, edge, class_aware)
    learn_distances(rows, match, back, gallery, frame, features, clean, learnt)
    return back


@jit
def open_frame(rows, columns, counters, learnt, frame, dt, class_aware, edge):  # type: ignore[no-untyped-def]
    """Predict all tracks and match them by motion.

    Returns:
        The boxes (K, 4) xywh, which of them are clean (see `look_over`), and the match (N,).
    """
    n = counters[LIVE]
    boxes, by_x, clean = look_over(frame, learnt, edge)
    predict_edge(rows, columns, learnt, 0, n, dt, edge)
    return boxes, clean, match_by_motion(rows, n, frame, boxes, by_x, dt, learnt, edge, class_aware)


@jit
def close_frame(rows, columns, counters, gallery, learnt, match, frame, boxes, clean, features, dt, class_aware, edge):  # type: ignore[no-untyped-def] # fmt: skip
    """The rest of the frame; returns as `conclude`."""
    appearance = learnt[SEEN] > 0
    back = np.zeros(match.shape[0], dtype=np.bool_)
    if appearance:
        back = match_by_looks(rows, match, gallery, frame, boxes, clean, features, learnt, edge, class_aware)
    settle(rows, columns, learnt, match, back, frame, boxes, dt, appearance, edge)
    return conclude(rows, columns, counters, gallery, learnt, match, frame, boxes, clean, features, appearance, edge)


@jit
def step(rows, columns, counters, gallery, learnt, ltwh, confidence, class_ids, features, dt, settings, edge):  # type: ignore[no-untyped-def]
    """One whole frame with the features given, or none. If a detection is not valid nothing is changed.

    Returns:
        As `tracker.step`.
    """
    complaint, blamed, frame = prepare(ltwh, confidence, class_ids, features, settings)
    if complaint != OK:
        return complaint, blamed, np.empty(0, dtype=np.int64)
    aware = settings.class_aware
    boxes, clean, match = open_frame(rows, columns, counters, learnt, frame, dt, aware, edge)
    buried = close_frame(
        rows, columns, counters, gallery, learnt, match, frame, boxes, clean, features, dt, aware, edge
    )
    return complaint, blamed, buried


@jit
def measure_features(frame, features):  # type: ignore[no-untyped-def]
    """Write the lengths of features (M, D) that came after `prepare` into the frame."""
    for k in range(frame.origin.shape[0]):
        norm = feature_norm(features, frame.origin[k])
        frame.norm[k] = norm if np.isfinite(norm) else 0.0


class EdgeTracker(Tracker):
    """`method="edge"` over an `EdgeStore`, in the place of `Tracker`.

    Args:
        frame_rate: frames per second, in which `dt` counts.
        edge: the parameters.
        max_embeddings: crops that the embedder is asked for in a frame at most; None for no limit.
        nms_max_overlap, class_aware, drop_invalid: as for `Tracker`.

    Raises:
        InputError: an argument that is out of range, by name.
    """

    store: EdgeStore

    def __init__(
        self,
        frame_rate: float = 30.0,
        edge: EdgeSettings | None = None,
        max_embeddings: int | None = None,
        nms_max_overlap: float = 1.0,
        class_aware: bool = False,
        drop_invalid: bool = False,
    ) -> None:
        check("frame_rate", frame_rate, 1e-3, 1e6)
        if max_embeddings is not None:
            check("max_embeddings", max_embeddings, 0, whole=True)
        self.edge = (EdgeSettings() if edge is None else edge).in_frames(float(frame_rate))
        self.max_embeddings = max_embeddings
        super().__init__(
            max_age=int(max(self.edge.memory, self.edge.reenter_age)),
            n_init=HITS,
            nn_budget=BUDGET,
            nms_max_overlap=nms_max_overlap,
            class_aware=class_aware,
            drop_invalid=drop_invalid,
        )

    def new_store(self) -> EdgeStore:
        return EdgeStore(self.edge)

    def reserve(self, detections: int, features: np.ndarray) -> None:
        super().reserve(detections, features)
        if features.shape[1] > 0:
            self.store.learnt[SEEN] = 1.0
            # A frame adds each feature once, and may begin a block for each queue that moves into its gallery.
            count = 2 * detections + len(self.store)
            self.store.reserve_features(count, features.shape[1])

    def step(
        self,
        ltwh: np.ndarray,
        confidence: np.ndarray,
        class_ids: np.ndarray,
        features: np.ndarray,
        dt: float,
        embed: Embed | None = None,
    ) -> np.ndarray:
        if embed is not None:
            return self._step_and_ask(ltwh, confidence, class_ids, dt, embed)
        self.reserve(len(ltwh), features)
        s = self.store
        complaint, blamed, buried = step(
            s.rows, s.columns, s.counters, s.gallery, s.learnt, ltwh, confidence, class_ids, features, dt,
            self.settings, self.edge,
        )  # fmt: skip
        if complaint:
            complain(complaint, blamed)
        return buried

    def _step_and_ask(
        self, ltwh: np.ndarray, confidence: np.ndarray, class_ids: np.ndarray, dt: float, embed: Embed
    ) -> np.ndarray:
        """`step`, the features got from `embed` where they matter. If that fails, nothing is changed."""
        features = embed(np.empty(0, dtype=np.int64), len(ltwh))
        complaint, blamed, frame = prepare(ltwh, confidence, class_ids, features[:0], self.settings)
        if complaint:
            complain(complaint, blamed)
        self.reserve(len(ltwh), features)
        s, aware = self.store, self.settings.class_aware
        undo = self._remember()
        try:
            boxes, clean, match = open_frame(s.rows, s.columns, s.counters, s.learnt, frame, dt, aware, self.edge)
            features = self._ask(match, frame, boxes, clean, dt, embed, len(ltwh))
        except BaseException:
            undo()
            raise
        return close_frame(
            s.rows, s.columns, s.counters, s.gallery, s.learnt, match, frame, boxes, clean, features, dt, aware,
            self.edge,
        )  # fmt: skip

    def _ask(
        self, match: np.ndarray, frame: Frame, boxes: np.ndarray, clean: np.ndarray, dt: float, embed: Embed, m: int
    ) -> np.ndarray:
        """Features (M, D) of the detections that motion alone does not settle, within the budget; zero elsewhere."""
        s = self.store
        wanted = wanted_crops(s.rows, s.columns, match, frame, boxes, clean, dt, self.edge, self.settings.class_aware)
        chosen = np.flatnonzero(wanted != NOT_WANTED)
        if self.max_embeddings is not None and len(chosen) > self.max_embeddings:
            chosen = chosen[np.argsort(wanted[chosen], kind="stable")[: self.max_embeddings]]
        features = embed(frame.origin[np.sort(chosen)], m)
        measure_features(frame, features)
        return features

    def _remember(self) -> Callable[[], None]:
        """Note all that `open_frame` changes; what is returned puts it back."""
        s, n = self.store, len(self.store)
        held = (s.rows.mean, s.rows.covariance, s.rows.age, s.rows.time_since_update, s.rows.detection,
                s.rows.confidence, s.columns.stale, s.columns.parted)  # fmt: skip
        before = [column[:n].copy() for column in held]
        learnt = s.learnt.copy()

        def undo() -> None:
            for column, old in zip(held, before, strict=True):
                column[:n] = old
            s.learnt[:] = learnt

        return undo

    # --- what tracks with methods of their own go through ---------------------------------------------------------

    def match(
        self, frame: Frame, features: np.ndarray, dt: float, embed: Embed | None, m: int
    ) -> tuple[np.ndarray, np.ndarray]:
        s, aware = self.store, self.settings.class_aware
        s.dt = dt
        boxes, by_x, clean = look_over(frame, s.learnt, self.edge)
        match = match_by_motion(s.rows, len(s), frame, boxes, by_x, dt, s.learnt, self.edge, aware)
        if embed is not None:
            features = self._ask(match, frame, boxes, clean, dt, embed, m)
        s.anew = np.zeros(len(match), dtype=np.bool_)
        if s.appearance:
            s.anew = match_by_looks(s.rows, match, s.gallery, frame, boxes, clean, features, s.learnt, self.edge, aware)
        return match, features

    def conclude(self, frame: Frame, features: np.ndarray, match: np.ndarray) -> np.ndarray:
        s = self.store
        s.anew = np.zeros(0, dtype=np.bool_)
        boxes, _, clean = look_over(frame, s.learnt, self.edge)
        return conclude(
            s.rows, s.columns, s.counters, s.gallery, s.learnt, match, frame, boxes, clean, features, s.appearance,
            self.edge,
        )  # fmt: skip
