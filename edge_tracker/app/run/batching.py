"""One detector and one embedder for several cameras: calls made while the model is busy are batched in its next call.

There is no thread for it: the caller that gets the model's lock runs the calls of all that wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from edge_tracker.app.stats import Stats
from edge_tracker.detection.detector import Detector
from edge_tracker.detection.result import Detections
from edge_tracker.embedding.embedder import Embedder
from edge_tracker.inference import Model

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class _Call(Generic[Asked, Answer]):
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.done = False


class Batcher(Generic[Asked, Answer]):
    """Batches calls from several threads.

    Args:
        run: answers a batch of calls, in order.
        most: most calls in a batch.
    """

    def __init__(self, run: Callable[[Sequence[Asked]], Sequence[Answer]], most: int) -> None:
        self._run, self._most = run, most
        self._waiting: list[_Call[Asked, Answer]] = []
        self._busy = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        """The answer to one call. An error is raised in all callers of the batch."""
        call: _Call[Asked, Answer] = _Call(asked)
        self._waiting.append(call)  # atomic, as is taking from the front below
        while not call.done:
            with self._busy:
                if not call.done:
                    self._work()
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]

    def _work(self) -> None:
        calls = self._waiting[: self._most]
        del self._waiting[: len(calls)]
        try:
            for call, answer in zip(calls, self._run([call.asked for call in calls]), strict=True):
                call.answer = answer
        except BaseException as error:
            for call in calls:
                call.error = error
        finally:
            for call in calls:
                call.done = True


class SharedDetector:
    """A `Detector` that several threads may call."""

    def __init__(self, detector: Detector, cameras: int, stats: Stats) -> None:
        self.detector = detector
        self._stats = stats
        self._ask: Batcher[np.ndarray, Detections | None] = Batcher(self._detect, cameras)

    @property
    def model(self) -> Model:
        return self.detector.model

    def detect(self, frame: np.ndarray) -> Detections | None:
        """As `Detector.detect`; None for a frame that a server did not process in time."""
        return self._ask(frame)

    def _detect(self, frames: Sequence[np.ndarray]) -> list[Detections | None]:
        self._stats.detector_calls += 1
        self._stats.detector_frames += len(frames)
        return self.detector.detect_all(frames)


class SharedEmbedder:
    """An `Embedder` that several trackers may call, each from its own thread."""

    def __init__(self, embedder: Embedder, cameras: int, stats: Stats) -> None:
        self._embedder = embedder
        self._stats = stats
        self._ask: Batcher[tuple[np.ndarray, np.ndarray], np.ndarray] = Batcher(self._embed, cameras)
        self.dimension = embedder.dimension

    @property
    def model(self) -> Model:
        return self._embedder.model

    def embed(self, frame: Any, ltwh: Any, masks: Any = None, polygons: Any = None) -> np.ndarray:
        """As `Embedder.embed`, for boxes."""
        if not len(ltwh):
            return np.zeros((0, self.dimension), np.float32)
        return self._ask((frame, ltwh))

    def _embed(self, asked: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        self._stats.embedder_calls += 1
        self._stats.embedder_cameras += len(asked)
        return self._embedder.embed_all([frame for frame, _ in asked], [ltwh for _, ltwh in asked])

    def close(self) -> None:
        """Free the model."""
        self._embedder.close()
