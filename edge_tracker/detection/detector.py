"""Detecting objects with a model."""

from __future__ import annotations

import ast
import difflib
import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_tracker.detection import decode
from edge_tracker.detection.coco import COCO_CATEGORIES, COCO_NAMES
from edge_tracker.detection.result import Detections
from edge_tracker.errors import ConfigError, ModelError, ServerError
from edge_tracker.inference.availability import DEADLINE_MS, ServerStatus
from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.images import Fit, Image, ImageBatch, check_image, infer_input
from edge_tracker.inference.load import load_model
from edge_tracker.inference.model import Feeds, Model, Outputs, TensorSpec, signature
from edge_tracker.inference.runner import Runner

logger = logging.getLogger(__name__)


class Detector:
    """Finds objects with a YOLO or DETR model.

    A file from `make export` describes its inputs and outputs. For any other file they are derived from its metadata
    (Ultralytics and RF-DETR write some) and from the names and shapes of its tensors; `edge_tracker.detection.decode`
    lists the layouts and the image input of each. Boxes are clipped to the frame.

    Args:
        model: a name ("yolov3-tiny"), a path to an `.onnx` or `.engine`, the address of a model on a Triton server
            ("triton://HOST:PORT/MODEL"), or a loaded model, which the caller has to close.
        confidence: lowest score of a detection, 0..1.
        nms_iou: if two boxes of one class overlap by more than this IoU, the less confident one is dropped. DETRs and
            end-to-end YOLOs need no suppression, and get none.
        classes: names or numbers of the classes to detect; None for all.
        format: the layout, if it is not recognised or recognised wrongly; a key of `decode.LAYOUTS`.
        size: height and width of the image tensor, for a model with dynamic sizes and without metadata.
        names: the class names, for a model without them. By default, a model of 80 classes or of an unknown number is
            assumed to have COCO's.
        device: "auto", "cpu", "cuda" or "tensorrt".
        threads: CPU threads; 0 for all cores.
        batch: largest batch, for `detect_all`; for a model of fixed batch size it is that size.
        engine: options for building an engine; its batch is `batch`.
        build: False to raise an error instead of building an engine that is missing or stale.
        deadline_ms: time limit on a server for all frames of one call, milliseconds.
        fallback: a detector of the same classes, if perhaps another network, used while the server is unavailable,
            which it may then be from the start. Closed with this one.

    Attributes:
        model: the loaded model.
        names: the class names.
        format: the layout.

    Raises:
        ServerError: the server is unavailable, and there is no fallback.
        ModelError: no such model, or one that fits no layout.
        ConfigError: an unknown format or class, a number out of range, or a fallback for a model that is not on a
            server.
        DeviceError: the device cannot be used.
    """

    names: Sequence[str]
    format: str

    def __init__(
        self,
        model: str | Path | Model,
        *,
        confidence: float = 0.3,
        nms_iou: float = 0.45,
        classes: Iterable[str | int] | None = None,
        format: str | None = None,
        size: tuple[int, int] | None = None,
        names: Sequence[str] | None = None,
        device: str = "auto",
        threads: int = 0,
        batch: int = 1,
        engine: EngineOptions | None = None,
        build: bool = True,
        deadline_ms: int = DEADLINE_MS,
        fallback: Detector | None = None,
    ) -> None:
        for what, value in (("confidence", confidence), ("nms_iou", nms_iou)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{what} must lie between 0 and 1, not {value}")
        if format is not None and format not in decode.LAYOUTS:
            raise ConfigError(f"unknown detector format {format!r}; one of {', '.join(decode.LAYOUTS)}")
        self.confidence, self.nms_iou = confidence, nms_iou
        owned = isinstance(model, (str, Path))
        if isinstance(model, (str, Path)):
            options = replace(engine or EngineOptions(), batch=batch)
            model = load_model(
                *(model, device, threads),
                engine=options,
                build=build,
                deadline_ms=deadline_ms,
                required=fallback is None,
            )
        self.model = model
        self._fallback = fallback
        self._runner = Runner(model, fallback, owned=owned)
        if fallback is not None:
            self.names, self.format = fallback.names, fallback.format

        def prepare() -> None:
            self._prepare(format, size, names, batch)
            self._wanted = _class_ids(classes, self.names)

        self._runner.start(prepare, does="detects", otherwise="frames have no detections")

    @property
    def status(self) -> ServerStatus | None:
        """The state of the model's server, and its counts; None for a model that is not on a server."""
        return self._runner.status

    def _prepare(
        self, format: str | None, size: tuple[int, int] | None, names: Sequence[str] | None, batch: int
    ) -> None:
        """Determine the model's image input and layout, and run it once."""
        model, manifest = self.model, self.model.manifest
        described = signature(model.inputs, model.outputs)
        if manifest is not None and manifest.task != "detector":
            raise ModelError(f"{model.name}: an {manifest.task}, not a detector ({described})")
        known = names or (manifest.classes if manifest else ()) or _metadata_names(model.metadata)
        other = self._fallback
        if other is not None and known and tuple(known) != tuple(other.names):
            raise ModelError(f"{model.name}: the fallback {other.model.name} has other classes")

        image = _image_tensor(model.inputs)
        if image is None:
            raise ModelError(f"{model.name}: not a detector with one image input ({described})")
        plain = manifest.input if manifest else infer_input(image, size or _metadata_size(model.metadata))
        if plain is None:
            raise ModelError(
                f"{model.name}: its image input has no fixed size, or not three channels: give `size` ({described})"
            )
        # The only other input is RT-DETR's original image size, by which it multiplies its boxes. It is given the size
        # of the tensor, so that its boxes are in tensor pixels, as those of all other models.
        self._fixed = image.shape[0] is not None
        rows = image.shape[0] or min(batch, model.batch_limit or batch)
        self._extra = {
            tensor.name: np.array([[plain.width, plain.height]] * rows, tensor.dtype)
            for tensor in model.inputs
            if tensor.name == "orig_target_sizes"
        }
        self._batch = ImageBatch(plain, rows)
        probe = model.run(self._feeds(1))
        outputs = dict(zip((tensor.name for tensor in model.outputs), probe, strict=True))

        self.format = (
            format
            or (manifest.detector_format if manifest else "")
            or decode.choose(outputs, (plain.height, plain.width), model.metadata, len(known) or None)
            or ""
        )
        if self.format not in decode.LAYOUTS:
            raise ModelError(
                f"{model.name}: fits no detector format ({described}); known formats: {', '.join(decode.LAYOUTS)}"
            )
        self._layout = decode.LAYOUTS[self.format]
        spec = plain
        if manifest is None:
            # A graph with uint8 input normalises by itself.
            own = {"mean": None, "std": None} if image.dtype == np.uint8 else {}
            spec = replace(plain, **{**self._layout.input, **own})
        self._batch = ImageBatch(spec, rows)
        self._options = decode.DecodeOptions(spec.height, spec.width, self.confidence, len(known) or None)
        try:
            self._decode(probe)
        except (KeyError, IndexError, ValueError, ModelError) as error:
            raise ModelError(f"{model.name}: its outputs do not fit format {self.format} ({described})") from error
        self.names = tuple(known) or _guess_names(self.format, outputs)
        logger.info(
            "%s: format %s, image %dx%d, %d classes",
            *(model.short_name, self.format, spec.width, spec.height, len(self.names)),
        )

    def detect(self, frame: Image) -> Detections:
        """The objects in a frame (H, W, 3) uint8, BGR; most confident first.

        Raises:
            InputError: not such a frame.
            ServerError: the server is unavailable or did not answer in time, and there is no fallback.
        """
        found = self.detect_all([frame])[0]
        if found is None:
            problem = self.status.problem if self.status is not None else None
            raise ServerError(f"{self.model.name}: {problem or 'did not answer in time'}")
        return found

    def detect_all(self, frames: Sequence[Image]) -> list[Detections | None]:
        """The objects in each of several frames, in batches; None for a frame that was not processed, since the server
        is unavailable or did not answer in time.

        Raises:
            InputError: not such a frame.
        """
        checked = [check_image(frame, "frame") for frame in frames]
        found: list[Detections | None] = [None if frame.size else Detections.none(self.names) for frame in checked]
        rows = [index for index, frame in enumerate(checked) if frame.size]

        def ask() -> list[int]:
            self._detect_batches(checked, rows, found)
            return [index for index in rows if found[index] is None]

        def instead(fallback: Detector, missed: Sequence[int]) -> None:
            for index, seen in zip(missed, fallback.detect_all([checked[index] for index in missed]), strict=True):
                found[index] = seen

        self._runner.run(rows, ask, instead)
        return found

    def _detect_batches(self, frames: Sequence[Image], rows: Sequence[int], found: list[Detections | None]) -> None:
        """Write the detections of the frames `rows` into `found`; frames that a server lost stay None."""
        sent: deque[tuple[Sequence[int], list[Fit]]] = deque()

        def batches() -> Iterator[Feeds]:
            for start in range(0, len(rows), len(self._batch)):
                some = rows[start : start + len(self._batch)]
                sent.append((some, [self._batch.put(row, frames[index]) for row, index in enumerate(some)]))
                yield self._feeds(len(some))

        for outputs in self._runner.stream(batches()):
            some, fits = sent.popleft()
            if outputs is None:
                continue
            for row, index in enumerate(some):
                boxes = self._boxes(outputs, row)
                if boxes is not None:
                    found[index] = self._found(boxes, fits[row], frames[index].shape)

    def _boxes(self, outputs: Outputs, row: int) -> decode.Candidates | None:
        """As `_decode`; None if the outputs of a server no longer fit the format."""
        try:
            return self._decode(outputs, row)
        except (KeyError, IndexError, ValueError, ModelError) as error:
            if not self._runner.refuse(f"its outputs do not fit format {self.format} ({error})"):
                raise
            return None

    def _found(self, boxes: decode.Candidates, fit: Fit, shape: tuple[int, ...]) -> Detections:
        """The detections among the candidates of one frame of the given shape, in frame pixels."""
        ltrb, score, class_id = boxes.ltrb, boxes.score, boxes.class_id.astype(np.int64)
        keep = np.isfinite(ltrb).all(axis=1)
        if self._wanted is not None:
            keep &= np.isin(class_id, self._wanted)
        ltrb, score, class_id = ltrb[keep], score[keep], class_id[keep]
        order = self._suppress(ltrb, score, class_id) if self._layout.nms else np.argsort(-score, kind="stable")

        height, width = shape[:2]
        ltrb = np.clip(fit.to_image(ltrb[order]), 0, np.array([width, height] * 2, np.float32))
        ltwh = _ltwh(ltrb)
        if class_id.size and class_id.max() >= len(self.names):
            self.names = (*self.names, *map(str, range(len(self.names), class_id.max() + 1)))
        found = Detections(ltwh, score[order].astype(np.float32), class_id[order], self.names)
        return found.select(np.flatnonzero((ltwh[:, 2:] > 0).all(axis=1)))

    def close(self) -> None:
        """Free the model, unless it was passed in loaded, and the fallback."""
        self._runner.close()

    def _feeds(self, count: int) -> dict[str, npt.NDArray[Any]]:
        rows = len(self._batch) if self._fixed else count
        extra = {name: array[:rows] for name, array in self._extra.items()}
        return {self._batch.spec.name: self._batch.tensor(rows), **extra}

    def _decode(self, outputs: Outputs, row: int = 0) -> decode.Candidates:
        """The candidates in one image of a batch."""
        named = {
            tensor.name: array[row].astype(np.float32, copy=False)
            for tensor, array in zip(self.model.outputs, outputs, strict=True)
            if array.ndim > 1
        }
        return self._layout.decode(named, self._options)

    def _suppress(self, ltrb: npt.NDArray[Any], score: npt.NDArray[Any], class_id: npt.NDArray[Any]) -> Any:
        """Indices of the boxes that remain after suppression within each class, most confident first."""
        if not len(ltrb):
            return np.zeros(0, np.int64)
        kept = cv2.dnn.NMSBoxesBatched(_ltwh(ltrb).tolist(), score.tolist(), class_id.tolist(), 0.0, self.nms_iou)
        return np.asarray(kept, np.int64)


def _ltwh(ltrb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([ltrb[:, :2], ltrb[:, 2:] - ltrb[:, :2]], axis=1)


def _image_tensor(inputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The image input, if there is one and all other inputs are known."""
    images = [tensor for tensor in inputs if len(tensor.shape) == 4]
    others = [tensor.name for tensor in inputs if len(tensor.shape) != 4]
    return images[0] if len(images) == 1 and set(others) <= {"orig_target_sizes"} else None


def _metadata(metadata: dict[str, str], key: str) -> Any:
    """A value that Ultralytics wrote as a Python literal; None if it is missing or not a literal."""
    try:
        return ast.literal_eval(metadata[key])
    except (KeyError, ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _metadata_size(metadata: dict[str, str]) -> tuple[int, int] | None:
    size = _metadata(metadata, "imgsz")
    if isinstance(size, int):
        size = (size, size)
    whole = isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)
    return (size[0], size[1]) if whole else None


def _metadata_names(metadata: dict[str, str]) -> tuple[str, ...]:
    """Class names in order; () if the file has none."""
    names = _metadata(metadata, "names")
    if names is None:
        try:  # RF-DETR's
            names = {int(k): v for k, v in json.loads(metadata["rfdetr_inference"])["class_id_to_name"].items()}
        except (KeyError, ValueError, TypeError, AttributeError):
            return ()
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(k, int) and 0 <= k < 100_000 for k in names):
        return ()
    return tuple(str(names.get(number, "")) for number in range(max(names, default=-1) + 1))


def _guess_names(format: str, outputs: decode.NamedOutputs) -> tuple[str, ...]:
    """Names for a model without them: COCO's, if the number of classes fits."""
    first = next(iter(outputs.values()))
    columns = {
        "yolov5": first.shape[-1] - 5,
        "yolox": first.shape[-1] - 5,
        "yolox-decoded": first.shape[-1] - 5,
        "yolov8": first.shape[1] - 4,
        "rtdetr": first.shape[-1] - 4,
        "detr": outputs["logits"].shape[-1] if "logits" in outputs else 0,
        "rfdetr": outputs["labels"].shape[-1] if "labels" in outputs else 0,
    }
    count = columns.get(format, len(COCO_NAMES))
    if count == len(COCO_CATEGORIES):
        return COCO_CATEGORIES
    return COCO_NAMES if count == len(COCO_NAMES) else tuple(str(number) for number in range(count))


def _class_ids(classes: Iterable[str | int] | None, names: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """The numbers of the wanted classes.

    Raises:
        ConfigError: a class that the detector does not have; with similar ones.
    """
    if classes is None:
        return None
    ids = []
    lower = {name.lower(): number for number, name in enumerate(names) if name}
    for wanted in [classes] if isinstance(classes, (str, int)) else classes:
        number = wanted if isinstance(wanted, int) else lower.get(str(wanted).lower())
        if number is None or not 0 <= number < len(names):
            near = difflib.get_close_matches(str(wanted).lower(), lower, n=3)
            known = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(list(lower)[:10])}, ..."
            raise ConfigError(f"the detector has no class {wanted!r}; {known}")
        ids.append(number)
    return np.array(ids, np.int64)
