"""Recorded runs over real sequences, for the tests of recording, replay and explanation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge_tracker import EdgeDeepSort
from edge_tracker.app.config.loading import Config, load_config
from edge_tracker.app.open_tracker import open_tracker
from edge_tracker.app.replay.recording import Recorder
from edge_tracker.detection.mot import MotDetections
from edge_tracker.detection.result import Detections
from edge_tracker.track_arrays import TrackArrays

FPS = {"PETS09-S2L1": 7.0, "TUD-Stadtmitte": 25.0}


class SmallEmbedder:
    """An embedder that takes a crop's colours for its feature: real appearance, without a model. Counts the crops."""

    dimension = 24

    def __init__(self) -> None:
        self.asked = 0

    def embed(self, frame, ltwh, masks=None, polygons=None) -> np.ndarray:
        features = np.zeros((len(ltwh), self.dimension), dtype=np.float32)
        height, width = frame.shape[:2]
        for k, (left, top, w, h) in enumerate(np.asarray(ltwh)):
            x, y = max(0, int(left)), max(0, int(top))
            crop = frame[y : min(height, int(top + h)), x : min(width, int(left + w))]
            if crop.size:
                features[k] = cv2.resize(crop, (2, 4), interpolation=cv2.INTER_AREA).reshape(-1) - 100.0
        self.asked += len(ltwh)
        return features

    def close(self) -> None:
        pass


def configuration(method: str, **tracker) -> Config:
    return load_config({"tracker": {"method": method, **tracker}}, needs_source=False)


def frames_of(
    data: Path, sequence: str, count: int, images: bool
) -> Iterator[tuple[int, Detections, np.ndarray | None]]:
    """Number, detections and image of the first frames of a sequence."""
    found = MotDetections(data / "mot15" / sequence / "det" / "det.txt")
    video = cv2.VideoCapture(str(data / "mot15" / sequence / "vtest.avi")) if images else None
    for index in range(1, count + 1):
        yield index, found.detect(index), None if video is None else video.read()[1]
    if video is not None:
        video.release()


def track(tracker: EdgeDeepSort, found: Detections, image: np.ndarray | None, dt: float = 1.0) -> TrackArrays:
    return tracker.update(found.ltwh, found.confidence, found.class_id, frame=image, dt=dt)


def record(
    folder: Path,
    data: Path,
    sequence: str = "PETS09-S2L1",
    method: str = "edge",
    count: int = 200,
    appearance: bool = False,
    limit: int | None = None,
    lead: int = 0,
    dt: float = 1.0,
    **settings,
) -> list[TrackArrays]:
    """Record a run over the first frames of a sequence, and return the tracks of each frame.

    Args:
        appearance: with `SmallEmbedder`; only PETS09-S2L1 has images.
        lead: frames to track before the recording begins, as a run that goes on from a saved state has.
    """
    config = configuration(method, **settings)
    tracker = open_tracker(config, SmallEmbedder() if appearance else None, FPS[sequence])  # type: ignore[arg-type]
    answers = []
    recorder = None
    for index, found, image in frames_of(data, sequence, lead + count, appearance):
        if index == lead + 1:
            recorder = Recorder(folder, tracker, config.model_dump(), frame_rate=FPS[sequence], limit=limit)
        answer = track(tracker, found, image, dt)
        if recorder is not None:
            size = None if image is None else image.shape
            recorder.write(
                index, (index - 1) / FPS[sequence], dt, size, found.ltwh, found.confidence, found.class_id, found.names,
                answer,
            )  # fmt: skip
            answers.append(answer)
    assert recorder is not None
    recorder.close()
    return answers
