"""edge-tracker: multi-object tracking for edge devices."""

__version__ = "0.1.0"
