"""Finding the objects of a frame: by a model, or in recorded detections."""

from __future__ import annotations

from typing import Protocol

from edge_tracker.app.run.batching import SharedDetector
from edge_tracker.app.sources.frames import Frame
from edge_tracker.detection.mot import MotDetections
from edge_tracker.detection.result import Detections
from edge_tracker.inference.model import Model


class FindsObjects(Protocol):
    """A detector, or recorded detections in its place.

    Attributes:
        name: its name in the log.
    """

    name: str

    def find(self, frame: Frame) -> Detections | None:
        """The detections of a frame; None if a server did not process it in time."""


def described(model: Model) -> str:
    """The name of a model in the log."""
    return model.name if model.path is None else f"{model.path.name} on {model.device}"


class ModelFinder:
    """Asks a model, which several cameras may share."""

    def __init__(self, detector: SharedDetector) -> None:
        self.detector = detector
        self.name = described(detector.model)

    def find(self, frame: Frame) -> Detections | None:
        assert frame.image is not None
        return self.detector.detect(frame.image)


class ReplayFinder:
    """Gives recorded detections."""

    def __init__(self, recorded: MotDetections, name: str) -> None:
        self._recorded = recorded
        self.name = name

    def find(self, frame: Frame) -> Detections:
        return self._recorded.detect(frame.index)
