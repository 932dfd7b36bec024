"""Appearance features of images."""

from edge_tracker.embedding.embedder import Embedder
from edge_tracker.embedding.protocol import AppearanceEmbedder
from edge_tracker.embedding.standalone import Clip_Embedder, MobileNetv2_Embedder, TorchReID_Embedder

__all__ = ["AppearanceEmbedder", "Clip_Embedder", "Embedder", "MobileNetv2_Embedder", "TorchReID_Embedder"]
