"""The algorithm: arrays in, arrays out. Needs NumPy and Numba only."""

from __future__ import annotations


def warmup(method: str = "deepsort") -> None:
    """Compile everything that runs a frame, or load it from Numba's cache, so that no frame has to wait for it.

    Args:
        method: "deepsort" or "edge", as for `EdgeDeepSort`.
    """
    if method == "edge":
        _warm_up_edge()
    else:
        _warm_up_deepsort()


def _warm_up_deepsort() -> None:
    import numpy as np

    from edge_tracker.tracking import tables as store
    from edge_tracker.tracking.deepsort import kalman
    from edge_tracker.tracking.deepsort.association import associate
    from edge_tracker.tracking.deepsort.tracker import Tracker, give_birth
    from edge_tracker.tracking.detections import prepare

    tracker = Tracker(n_init=1, max_age=1)
    boxes = np.array([[0.0, 0.0, 10.0, 20.0], [4.0, 0.0, 10.0, 20.0]])
    features = np.eye(2, dtype=np.float32)
    confidence, classes = np.ones(2), np.zeros(2, dtype=np.int64)
    for seen in (2, 2, 1, 0, 0):
        tracker.step(boxes[:seen], confidence[:seen], classes[:seen], features[:seen], 1.0)
        tracker.store.state_dict()
        tracker.store.take(np.arange(len(tracker.store)))
    tracker.store.snapshot()

    # What tracks with methods of their own go through, one by one.
    rows, counters, gallery = tracker.store.rows, tracker.store.counters, tracker.store.gallery
    tracker.reserve(2, features)
    _, _, frame = prepare(boxes, confidence, classes, features, tracker.settings)
    match = associate(rows, len(tracker.store), gallery, frame, features, 1.0, tracker.settings)
    give_birth(rows, counters, gallery, frame, features, match, 1)
    store.predict_tracks(rows, 0, 1, 1.0, 2.0)
    store.settle_tracks(rows, 0, match[:1], frame.xyah, 1, 1.0)
    store.release_buried(rows, gallery, len(store.bury(rows, counters)))
    tracker.store.add_feature(0, features[0], budget=1)
    kalman.box(rows.mean, 0)
    kf = kalman.KalmanFilter()
    state = kf.update(*kf.predict(*kf.initiate(frame.xyah[0])), frame.xyah[0])
    kf.gating_distance(*state, frame.xyah)


def _warm_up_edge() -> None:
    import numpy as np

    from edge_tracker.tracking.detections import prepare
    from edge_tracker.tracking.edge.appearance import BUDGET
    from edge_tracker.tracking.edge.tracker import EdgeTracker

    tracker = EdgeTracker()
    boxes = np.array([[0.0, 0.0, 10.0, 20.0], [40.0, 0.0, 10.0, 20.0]])  # apart: crops that overlap are not kept
    features = np.eye(2, dtype=np.float32)
    confidence, classes = np.ones(2), np.zeros(2, dtype=np.int64)

    def embed(wanted: np.ndarray, m: int) -> np.ndarray:
        return features[:m]

    for seen in (2, 2, 2, 1, 0):
        tracker.step(boxes[:seen], confidence[:seen], classes[:seen], features[:seen], 1.0)
        tracker.step(boxes[:seen], confidence[:seen], classes[:seen], features[:seen], 1.0, embed)
    for seen in (2, 2, 0):
        tracker.step(boxes[:seen], confidence[:seen], classes[:seen], features[:seen], 1.0)
        tracker.store.take(np.arange(len(tracker.store)))
    other = EdgeTracker()
    other.store.load_state_dict(tracker.store.state_dict(), BUDGET)
    tracker.store.snapshot()

    # What tracks with methods of their own go through, one by one.
    tracker.reserve(2, features)
    _, _, frame = prepare(boxes, confidence, classes, features, tracker.settings)
    tracker.store.predict(0, 1.0, 2.0)
    match, _ = tracker.match(frame, features, 1.0, None, 2)
    tracker.store.correct(0, frame.xyah[0], 1.0, 2)
    tracker.store.miss(1, 1.0)
    tracker.store.box(0)
    tracker.store.add_feature(0, features[0], BUDGET)
    tracker.conclude(frame, features, match)
