"""Models on an NVIDIA Triton Inference Server."""
