"""Detecting objects in frames."""

from edge_tracker.detection.detector import Detector
from edge_tracker.detection.mot import MotDetections
from edge_tracker.detection.result import Detections

__all__ = ["Detections", "Detector", "MotDetections"]
