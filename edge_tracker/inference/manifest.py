"""The manifest of a model: its inputs, outputs and origin; written by `export`, read by the runtime.

The same JSON is beside the model (`NAME.json`) and in the ONNX metadata under `METADATA_KEY`, so that a file that was
renamed, or copied alone, still works.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edge_tracker.errors import ModelError

METADATA_KEY = "edge_tracker"
SCHEMA = 1


@dataclass(frozen=True)
class ImageInput:
    """The image tensor of a model.

    Attributes:
        name: tensor name.
        height, width: pixels.
        layout: "NHWC" or "NCHW".
        dtype: "uint8" or "float32".
        color: channel order of the tensor, "BGR" or "RGB".
        mean, std: per channel, in `color` order, on the 0..255 scale: the caller computes (pixel - mean) / std.
            None if the graph normalises by itself.
        resize: the way to bring an image to height x width: "stretch", "letterbox" (grey 114 borders, centred),
            "letterbox-corner" (the same, image in the top left corner), "pad" (aspect kept, black borders, centred) or
            "center-crop" (shorter side fitted, the rest cut off).
        interpolation: "linear" or "cubic".
    """

    name: str
    height: int
    width: int
    layout: str = "NHWC"
    dtype: str = "uint8"
    color: str = "BGR"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: str = "stretch"
    interpolation: str = "linear"


@dataclass(frozen=True)
class ModelManifest:
    """Everything the runtime must know about a model, and its origin.

    Attributes:
        name: its name, e.g. "mobilenetv2".
        task: "embedder" or "detector".
        network: architecture, in words.
        input: the image tensor.
        preprocessing: the steps in the graph before the network, in words.
        output: name of the output tensor (for detectors with several, the first).
        dimension: feature length of an embedder; 0 for a detector.
        detector_format: output layout of a detector (see `edge_tracker.detection.decode`), "" for an embedder.
        classes: class names of a detector, in order.
        precision: "fp32", "fp16", "int8" or "int8-cpu".
        opset: ONNX opset.
        source: origin of the weights: file, sha256, publisher, licence.
        tools: versions of the tools that made the file.
        verification: results of the comparison with the source network.
    """

    name: str
    task: str
    network: str
    input: ImageInput
    output: str
    preprocessing: str = ""
    dimension: int = 0
    detector_format: str = ""
    classes: tuple[str, ...] = ()
    precision: str = "fp32"
    opset: int = 17
    source: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)

    def to_json(self, indent: int | None = None) -> str:
        """The manifest as JSON text, with its schema number."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=indent)

    @classmethod
    def from_json(cls, text: str, origin: str) -> ModelManifest:
        """Parse what `to_json` wrote.

        Args:
            text: JSON text.
            origin: the file the text came from, for errors.

        Raises:
            ModelError: not JSON, another schema, or a field that is missing or unknown.
        """
        try:
            data = json.loads(text)
            schema = data.pop("schema")
            if schema != SCHEMA:
                raise ModelError(f"{origin}: manifest schema {schema}, this version reads {SCHEMA}; export it again")
            image = dict(data.pop("input"))
            for key in ("mean", "std"):
                if image.get(key) is not None:
                    image[key] = tuple(float(v) for v in image[key])
            known = {f.name for f in fields(cls)}
            unknown = sorted(set(data) - known)
            if unknown:
                raise ModelError(f"{origin}: manifest has unknown fields {', '.join(unknown)}; export it again")
            data["classes"] = tuple(data.get("classes", ()))
            return cls(input=ImageInput(**image), **data)
        except ModelError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{origin}: not a model manifest ({error}); export it again") from error


def difference(one: ModelManifest, other: ModelManifest) -> str:
    """The first difference that keeps one network from replacing the other; "" if there is none.

    Precision, tools and verification may differ.
    """
    for what, a, b in (
        ("task", one.task, other.task),
        ("name", one.name, other.name),
        ("dimension", one.dimension, other.dimension),
        ("weights' SHA-256", one.source.get("sha256", ""), other.source.get("sha256", "")),
        ("input", one.input, other.input),
        ("output format", one.detector_format, other.detector_format),
        ("classes", one.classes, other.classes),
    ):
        if a != b:
            return f"{what} {b!r:.200}, not {a!r:.200}"
    return ""


def plain_name(path: Path) -> str:
    """The name that all precisions of a model share: the file's without suffix and without `.fp16`, `.int8`, ..."""
    return re.sub(r"\.(fp16|int8|int8-cpu)$", "", path.stem)


def read_manifest(path: Path, metadata: Mapping[str, str]) -> ModelManifest | None:
    """The manifest of a model file, or None if it has none.

    The one inside the file comes first: it stays right when the file is renamed or replaces another. Next comes
    `NAME.json` beside it, where NAME is the file's name without `.onnx` or `.engine`, or `plain_name`.

    Raises:
        ModelError: a manifest that cannot be read.
    """
    if METADATA_KEY in metadata:
        return ModelManifest.from_json(metadata[METADATA_KEY], f"{path}, metadata")
    for name in dict.fromkeys((path.stem, plain_name(path))):
        beside = path.with_name(f"{name}.json")
        if beside.is_file():
            try:
                text = beside.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ModelError(f"{beside}: cannot be read ({error})") from error
            # Other programs write files of that name, too; theirs have no schema number.
            if '"schema"' in text:
                return ModelManifest.from_json(text, str(beside))
    return None


def onnx_metadata(model: bytes) -> dict[str, str]:
    """The metadata of an ONNX file, read without the onnx package, which a Jetson may not have.

    ModelProto.metadata_props is field 14, of StringStringEntryProto: key 1, value 2.

    Raises:
        ModelError: not a protobuf message.
    """
    try:
        entries = [dict(_fields(memoryview(value))) for number, value in _fields(memoryview(model)) if number == 14]
        return {bytes(e.get(1, b"")).decode(): bytes(e.get(2, b"")).decode() for e in entries}
    except (IndexError, ValueError) as error:
        raise ModelError("not an ONNX file") from error


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a protobuf message, by number."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            varint()
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size = varint()
            if at + size > len(message):
                raise ValueError("cut short")
            yield number, message[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")
