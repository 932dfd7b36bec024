"""edge-tracker: multi-object tracking for edge devices."""

from edge_tracker.deepsort import EdgeDeepSort
from edge_tracker.track import Track, TrackState
from edge_tracker.track_arrays import TrackArrays

__version__ = "0.1.0"

__all__ = ["EdgeDeepSort", "Track", "TrackArrays", "TrackState", "__version__"]
