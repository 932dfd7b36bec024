"""deep-sort-realtime's embedders, with their names and arguments, without torch.

`model_wts_path` is an `.onnx` or `.engine` file here; without it the exported model is searched for by name. `gpu=True`
uses the best GPU that works, or else the CPU, as the reference does; `gpu=False` uses the CPU. `half` means the FP16
file, on a GPU only. `predict` takes any number of images of any size, and returns one feature (D,) for each.
"""

from __future__ import annotations

from pathlib import Path

from edge_tracker.embedding.embedder import Embedder
from edge_tracker.embedding.models import model_name as name_of


class MobileNetv2_Embedder(Embedder):
    """MobileNetV2's 1280 bottleneck features."""

    def __init__(
        self,
        model_wts_path: str | Path | None = None,
        half: bool = True,
        max_batch_size: int = 16,
        bgr: bool = True,
        gpu: bool = True,
    ) -> None:
        super().__init__(
            model_wts_path or name_of("mobilenet"),
            device="auto" if gpu else "cpu",
            bgr=bgr,
            batch=max_batch_size,
            half=half,
        )


class TorchReID_Embedder(Embedder):
    """A person re-identification network of Torchreid's, by default OSNet-AIN: 512 features."""

    def __init__(
        self,
        model_name: str | None = None,
        model_wts_path: str | Path | None = None,
        bgr: bool = True,
        gpu: bool = True,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model_wts_path or name_of("torchreid", model_name),
            device="auto" if gpu else "cpu",
            bgr=bgr,
            batch=max_batch_size or 16,
        )


class Clip_Embedder(Embedder):
    """A CLIP image encoder: "RN50", "RN101", "RN50x4", "RN50x16", "ViT-B/32" or "ViT-B/16"."""

    def __init__(
        self,
        model_name: str = "ViT-B/32",
        model_wts_path: str | Path | None = None,
        max_batch_size: int = 16,
        bgr: bool = True,
        gpu: bool = True,
    ) -> None:
        super().__init__(
            model_wts_path or f"clip_{model_name}".replace("/", "-"),
            device="auto" if gpu else "cpu",
            bgr=bgr,
            batch=max_batch_size,
        )
