"""edge-tracker: multi-object tracking for edge devices."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_tracker import configured
from edge_tracker.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge_tracker.deepsort import EdgeDeepSort
    from edge_tracker.embedding.standalone import Clip_Embedder, MobileNetv2_Embedder, TorchReID_Embedder
    from edge_tracker.track import Track, TrackState
    from edge_tracker.track_arrays import TrackArrays

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

# Imported when first asked for: the command's help needs no Numba, and a tracker no OpenCV.
_MODULES = {
    "Clip_Embedder": "edge_tracker.embedding.standalone",
    "EdgeDeepSort": "edge_tracker.deepsort",
    "MobileNetv2_Embedder": "edge_tracker.embedding.standalone",
    "TorchReID_Embedder": "edge_tracker.embedding.standalone",
    "Track": "edge_tracker.track",
    "TrackArrays": "edge_tracker.track_arrays",
    "TrackState": "edge_tracker.track",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _open_configured(config: str | Path | Mapping[str, Any], frame_rate: float | None) -> EdgeDeepSort:
    from edge_tracker.app.open_tracker import open_configured

    return open_configured(config, frame_rate)


configured.open_configured = _open_configured
