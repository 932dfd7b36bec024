"""From a network to its files: FP32, FP16 and INT8, each written only after it has passed the gate."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from edge_tracker.detection import Detector as RuntimeDetector
from edge_tracker.detection.coco import COCO_NAMES
from edge_tracker.embedding import Embedder as RuntimeEmbedder
from edge_tracker.errors import ModelError
from edge_tracker.files import atomic_path
from edge_tracker.inference import load_model
from edge_tracker.inference.images import Image, ImageBatch
from edge_tracker.inference.manifest import ImageInput, ModelManifest
from export import graph, parity, samples, yolov3_tiny
from export.demo_video import demo_video
from export.families import PRECISIONS, YOLOV3_TINY, file_of
from export.network import Network
from export.parity import Figures
from export.samples import Array, Samples
from export.weights import source_of

log = logging.getLogger(__name__)

COMPARED_CROPS = 256
NOISE_CROPS = 32
REFERENCE_FRAMES = 8

# The detector's input: letterboxed by the program, everything else is in the graph.
DETECTOR_INPUT = ImageInput("images", yolov3_tiny.HEIGHT, yolov3_tiny.WIDTH, resize="letterbox")


@dataclass(frozen=True)
class ExportedFile:
    """One exported file, as the table shows it."""

    name: str
    precision: str
    path: Path
    opset: int
    figures: Figures
    seconds: float


@dataclass(frozen=True)
class Gate:
    """The images that models are compared on. The demo video is fetched when first needed, and read once.

    Attributes:
        weights: returns the weights of the default detector, which finds the people in the video.
        crops: a folder of crops to compare on instead. Then tracks are not compared.
        video: a video instead of the demo video.
        frames: number of its frames to use; None for all.
    """

    weights: Callable[[], Path]
    crops: Path | None = None
    video: Path | None = None
    frames: int | None = 150

    @cached_property
    def film(self) -> Path:
        """The video."""
        return self.video or demo_video("Pass another video with people in it: --video PATH, or crops: --crops FOLDER")

    @cached_property
    def samples(self) -> Samples:
        """Real crops, and the frames that they come from."""
        if self.crops is not None:
            return samples.from_folder(self.crops)
        with tempfile.TemporaryDirectory() as folder:
            detector = Path(folder, "yolov3-tiny.onnx")
            model = yolov3_tiny.build(yolov3_tiny.read_weights(self.weights()))
            graph.stamp(model, _detector_manifest(model, "fp32", {}))
            onnx.save(model, detector)
            return samples.from_video(self.film, detector, self.frames)


def export_embedder(
    network: Network,
    output: Path,
    gate: Gate,
    precisions: Sequence[str] = ("fp32", "fp16"),
    opset: int = 17,
    calibration: Path | None = None,
) -> Iterator[ExportedFile]:
    """Export a network as an embedder.

    Args:
        network: the network.
        output: folder for the files.
        gate: the images to compare on.
        precisions: some of `PRECISIONS`. FP32 is always built and compared, since the others are made from it.
        opset: ONNX opset.
        calibration: folder of crops to determine INT8's ranges.

    Yields:
        Each file when it is in place.

    Raises:
        ParityError: a file does not match the network. It is not put in place, earlier files are, and an older file of
            its name stays.
        ModelError: the network cannot be exported.
    """
    started = time.monotonic()
    prepare = network.prepare
    full = network.to_embedder(opset)
    graph.check(full, network.name)

    real = gate.samples
    crops = [*real.crops, *samples.noise(NOISE_CROPS, prepare.height, prepare.width)]
    compared = [*real.some(COMPARED_CROPS), *range(len(real.crops), len(crops))]
    log.info("%s: %d crops through its source", network.name, len(compared))
    source = np.concatenate(
        [network.run(planes) for planes in samples.batches([crops[i] for i in compared], prepare.planes)]
    )
    manifest = ModelManifest(
        name=network.name,
        task="embedder",
        network=network.words,
        input=prepare.image,
        output=graph.OUTPUT,
        preprocessing=prepare.words(),
        dimension=source.shape[1],
        source=network.source,
        tools=graph.tool_versions(),
    )

    tracks: dict[tuple[int, int], int] = {}
    for precision in PRECISIONS:
        if precision not in {"fp32", *precisions}:
            continue
        model = full
        if precision == "fp16":
            model = graph.to_fp16(full)
        elif precision.startswith("int8"):
            if calibration is None:
                raise ModelError(f"{network.name}: INT8 is calibrated on your own crops: --calibration FOLDER")
            calibrating = samples.from_folder(calibration).crops
            ranges = [batch.copy() for batch in samples.batches(calibrating, prepare.image)]
            if precision == "int8":
                model = graph.to_int8(full, ranges)
            else:
                model = graph.to_int8_cpu(full, ranges, network.float_nodes)
        graph.check(model, f"{network.name} {precision}")
        draft = replace(manifest, precision=precision, opset=graph.opset_of(model))
        with _judged(model, draft) as path:
            log.info("%s %s: %d crops through ONNX Runtime", network.name, precision, len(crops))
            given = _features(path, crops)
        figures = parity.compare_features(source, given[compared], len(compared) - NOISE_CROPS, parity.TIE[precision])
        if real.frames:
            ids = parity.track(real.frames, given[: len(real.crops)])
            if precision == "fp32":
                tracks = ids
            else:
                figures["same_ids"] = parity.same_ids(tracks, ids)
        parity.enforce(figures, precision, network.name)
        if precision in precisions:
            record = {
                "on": f"{len(compared) - NOISE_CROPS} crops from {real.origin}, {NOISE_CROPS} of noise",
                **figures,
            }
            yield _write(model, replace(draft, verification=record), output, figures, time.monotonic() - started)
        started = time.monotonic()


@contextmanager
def _judged(model: onnx.ModelProto, manifest: ModelManifest) -> Iterator[Path]:
    """A temporary file that computes like the model on its target device: for FP16, with FP16's roundings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        graph.stamp(model, manifest)
        onnx.save(model, path)
        if manifest.precision == "fp16":
            load_model(path, device="cpu").close()  # the runtime must accept the file itself
            onnx.save(graph.rounded(model), path)
        yield path


def _features(path: Path, crops: Sequence[Image]) -> Array:
    """The features (len(crops), D) that the runtime computes with a file."""
    embedder = RuntimeEmbedder(path, device="cpu")
    try:
        return np.stack(embedder.predict(crops))
    finally:
        embedder.close()


def export_detector(
    weights: Path, output: Path, gate: Gate, precisions: Sequence[str] = ("fp32", "fp16"), opset: int = 17
) -> Iterator[ExportedFile]:
    """Export the default detector. Its FP32 file is compared with a plain computation in NumPy, layer by layer.

    Args:
        weights: Darknet's weights file.
        output: folder for the files.
        gate: the images to compare on.
        precisions: some of "fp32", "fp16".
        opset: ONNX opset.

    Raises:
        ParityError: as `export_embedder`.
        ModelError: the weights are another network's, or INT8 was requested.
    """
    name = YOLOV3_TINY.name
    if any(precision.startswith("int8") for precision in precisions):
        raise ModelError(f"{name}: only embedders are exported in INT8; omit it from --precision for this model")
    layers = yolov3_tiny.read_weights(weights)
    frames = list(samples.frames_of(gate.film, gate.frames))
    source = source_of(YOLOV3_TINY, weights)
    reference = None
    for precision in ("fp32", "fp16"):
        started = time.monotonic()
        model = yolov3_tiny.build(layers, opset, half=precision == "fp16")
        manifest = _detector_manifest(model, precision, source)
        with _judged(model, manifest) as path:
            log.info("%s %s: comparing on %d frames", name, precision, len(frames))
            detector = RuntimeDetector(path, device="cpu")
            found = [detector.detect(frame) for frame in frames]
            figures: Figures = {}
            if precision == "fp32":
                reference = found
                figures = _compare_raw(layers, path, frames)
            elif reference is not None:
                figures["same_detections"] = parity.same_detections(reference, found)
            detector.close()
        parity.enforce(figures, precision, name)
        if precision in precisions:
            done = replace(manifest, verification={"on": f"{len(frames)} frames of {gate.film.name}", **figures})
            yield _write(model, done, output, figures, time.monotonic() - started)


def _compare_raw(layers: dict[str, yolov3_tiny.Convolution], path: Path, frames: Sequence[Image]) -> Figures:
    """Figures of the detector's raw output on some of the frames."""
    model = load_model(path, device="cpu")
    batch = ImageBatch(DETECTOR_INPUT, 1)
    source, given = [], []
    for frame in frames[:: max(1, len(frames) // REFERENCE_FRAMES)]:
        batch.put(0, frame)
        source.append(yolov3_tiny.reference(layers, batch.tensor(1)[0]))
        given.append(model.run({DETECTOR_INPUT.name: batch.tensor(1)})[0][0])
    model.close()
    return parity.compare_boxes(source, given)


def _detector_manifest(model: onnx.ModelProto, precision: str, source: dict[str, str]) -> ModelManifest:
    return ModelManifest(
        name=YOLOV3_TINY.name,
        task="detector",
        network=YOLOV3_TINY.network,
        input=DETECTOR_INPUT,
        output="detections",
        preprocessing="uint8 BGR to float RGB, NHWC to NCHW, pixel / 255",
        detector_format="yolov5",
        classes=COCO_NAMES,
        precision=precision,
        opset=graph.opset_of(model),
        source=source,
        tools=graph.tool_versions(),
    )


def _write(
    model: onnx.ModelProto, manifest: ModelManifest, output: Path, figures: Figures, seconds: float
) -> ExportedFile:
    """Put a model and its manifest in place."""
    path = file_of(output, manifest.name, manifest.precision)
    graph.stamp(model, manifest)
    # The manifest goes last: readers of both give precedence to the model's metadata.
    with atomic_path(path.with_suffix(".json")) as text, atomic_path(path) as partial:
        text.write_text(manifest.to_json(indent=2) + "\n", encoding="utf-8")
        onnx.save(model, partial)
    return ExportedFile(manifest.name, manifest.precision, path, manifest.opset, figures, seconds)
