"""edge-tracker: multi-object tracking for edge devices."""

from typing import TYPE_CHECKING, Any

from edge_tracker.deepsort import EdgeDeepSort
from edge_tracker.track import Track, TrackState
from edge_tracker.track_arrays import TrackArrays
from edge_tracker.version import __version__

if TYPE_CHECKING:
    from edge_tracker.embedding.standalone import Clip_Embedder, MobileNetv2_Embedder, TorchReID_Embedder

__all__ = [
    "Clip_Embedder",
    "EdgeDeepSort",
    "MobileNetv2_Embedder",
    "TorchReID_Embedder",
    "Track",
    "TrackArrays",
    "TrackState",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # The embedders bring OpenCV and an inference engine along: imported when asked for.
    if name in ("Clip_Embedder", "MobileNetv2_Embedder", "TorchReID_Embedder"):
        from edge_tracker.embedding import standalone

        return getattr(standalone, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
