"""Running models: named arrays in, arrays out, in ONNX Runtime, in TensorRT or on a Triton server."""

from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.load import load_model
from edge_tracker.inference.model import Model

__all__ = ["EngineOptions", "Model", "load_model"]
