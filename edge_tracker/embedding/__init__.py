"""Images to appearance features."""

from edge_tracker.embedding.embedder import Embedder
from edge_tracker.embedding.standalone import Clip_Embedder, MobileNetv2_Embedder, TorchReID_Embedder

__all__ = ["Clip_Embedder", "Embedder", "MobileNetv2_Embedder", "TorchReID_Embedder"]
