"""Detecting objects in frames."""

from edge_tracker.detection.detections import Detections
from edge_tracker.detection.detector import Detector
from edge_tracker.detection.mot import MotDetections

__all__ = ["Detections", "Detector", "MotDetections"]
