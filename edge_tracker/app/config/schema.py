"""The schema of `cam.yaml`: its sections and keys, each with its default, its limits and its meaning.

docs/configuration-reference.md is generated from it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

from edge_tracker.inference.availability import DEADLINE_MS
from edge_tracker.tracking.deepsort.settings import DeepSortParameters
from edge_tracker.tracking.edge.settings import MOST, EdgeParameters, EdgeSettings
from edge_tracker.tracking.parameters import Common

VIDEO_SUFFIXES = (".mp4", ".avi")
DEFAULT_DETECTOR = "yolov3-tiny"
CAMERA = "{camera}"  # in the path of an output: the camera's name


# A name that can be part of a file name, a topic and a URL without escaping.
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Topic = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^#+\x00-\x1f\x7f]*$")]
NAME_RULE = "letters, digits, - and _, at most 64"

# Text without control characters: no key needs them, and they would break lines of errors and logs.
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Section(BaseModel):
    # Strict: the YAML text "30" is not the number 30, and 0.5 is not a whole number. No coercion, no surprises.
    # No allow_inf_nan: .inf and .nan make no sense for any key.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _key(default: Any, expects: str, *, says: str, holds: str = "", **limits: Any) -> Any:
    """A key: its default, the valid values (completes "expected ..."), and its meaning.

    `holds` is "path" for a file or folder, "model" for a path or the name of a model, "source" for the URI of a source.
    """
    return Field(default, description=says, json_schema_extra={"expects": expects, "holds": holds}, **limits)


class SourceConfig(_Section):
    """The source of the frames."""

    uri: Text | int | None = _key(
        None,
        "a video file, a folder of images, a pattern such as img1/%06d.jpg, a camera number, csi://0, an rtsp:// or "
        "http:// URL, or gst:PIPELINE",
        says="Video file, image folder or pattern (`%06d.jpg`, `*.png`), camera number, `csi://0`, network URL, or "
        "`gst:` and a GStreamer pipeline.",
        holds="source",
    )
    fps: float | None = _key(
        None,
        "frames per second: a number above 0 and at most 1000",
        gt=0,
        le=1000,
        says="Frame rate to assume. Default: the video's own; 10 for images.",
    )
    wait: bool = _key(
        False,
        "true or false",
        says="Wait for a camera that is not there at the start. With several cameras each is waited for in any case.",
    )


def _deadline(of: str) -> Any:
    return _key(
        DEADLINE_MS,
        "milliseconds: a whole number from 1 to 60000",
        ge=1,
        le=60_000,
        says=f"Longest time in milliseconds that {of} may wait for the server. Only for `triton://`.",
    )


def _fallback(example: str, what: str) -> Any:
    return _key(
        None,
        f"a name such as {example}, or a path ending in .onnx or .engine",
        says=f"{what} while the server is away. Only for `triton://`.",
        holds="model",
    )


class DetectorConfig(_Section):
    """Detection of the objects: a model, or recorded detections."""

    model: Text | None = _key(
        None,
        "a name such as yolov3-tiny, a path ending in .onnx or .engine, or triton://HOST:PORT/MODEL",
        says="Name of an exported model, a model file, or a model on a [Triton server](triton.md). Default "
        "`yolov3-tiny`.",
        holds="model",
    )
    deadline_ms: int = _deadline("a frame")
    fallback: Text | None = _fallback("yolov3-tiny", "Local model with the same classes that detects")
    mot: Text | None = _key(
        None,
        "a path to a MOTChallenge det.txt",
        says="MOTChallenge `det.txt` whose detections are replayed instead of running a model.",
        holds="path",
    )
    confidence: float = _key(
        0.3, "a number from 0 to 1", ge=0, le=1, says="Detections below this confidence are dropped."
    )
    nms_iou: float = _key(
        0.45,
        "a number above 0 and at most 1",
        gt=0,
        le=1,
        says="Overlap (IoU) above which the weaker of two detections of one class is dropped. 1 keeps all.",
    )
    classes: list[Text | int] | None = _key(
        None,
        "a list of class names or numbers, such as [person, car]",
        min_length=1,
        max_length=10_000,
        says="Classes to keep, by name or number. Default: all.",
    )
    format: Text | None = _key(
        None,
        "the name of an output layout, such as yolov5 or yolov8",
        says="Output layout of the model, if it is not recognised.",
    )
    every: int = _key(
        1,
        "a whole number from 1 to 1000",
        ge=1,
        le=1000,
        says="Detect in every Nth frame only; tracks are predicted in the others.",
    )
    hold_fps: float | None = _key(
        None,
        "frames per second: a number above 0 and at most 1000, or null",
        gt=0,
        le=1000,
        says="Detect in as many frames as this frame rate leaves time for, instead of in every Nth.",
    )


class EmbedderConfig(_Section):
    """The model that tells objects apart by their appearance."""

    model: Text | None = _key(
        "mobilenetv2",
        "a name such as mobilenetv2, a path ending in .onnx or .engine, triton://HOST:PORT/MODEL, or null for no "
        "appearance",
        says="Name of an exported model, a model file, a model on a [Triton server](triton.md), or `null`: association "
        "by motion alone.",
        holds="model",
    )
    deadline_ms: int = _deadline("the crops of a frame")
    fallback: Text | None = _fallback("mobilenetv2", "Local file of the same network that embeds")
    batch: int = _key(
        16, "a whole number from 1 to 1024", ge=1, le=1024, says="Largest number of crops in one call of the model."
    )


class EngineConfig(_Section):
    """Building TensorRT engines from the models. `edge_tracker.inference.builder.EngineOptions` has the same names."""

    precision: Literal["fp16", "fp32", "int8"] = _key(
        "fp16", "one of fp16, fp32, int8", says="Precision of the engines. `int8` needs a `NAME.int8.onnx`."
    )
    workspace: int = _key(
        1024,
        "MiB: a whole number from 1 to 1000000",
        ge=1,
        le=1_000_000,
        says="Scratch memory that a layer may use, in MiB.",
    )
    optimization_level: int = _key(
        3, "a whole number from 0 to 5", ge=0, le=5, says="0 is fast to build, 5 fast to run."
    )
    hardware_compatibility: Literal["none", "same_compute_capability", "ampere_plus"] = _key(
        "none",
        "one of none, same_compute_capability, ampere_plus",
        says="Other GPUs that can run the engines.",
    )
    version_compatible: bool = _key(
        False, "true or false", says="True: later TensorRT versions with the same major number can run the engines."
    )
    dla_core: int | None = _key(
        None,
        "the number of a DLA core, such as 0, or null for none",
        ge=0,
        le=15,
        says="DLA core of a Jetson Orin or Xavier, for the layers that it can run.",
    )


def _edge_meanings() -> dict[str, str]:
    """The description of each field in the docstring of `EdgeSettings`. Fields can share one: `reach, speed: ...`."""
    text = inspect.cleandoc(EdgeSettings.__doc__ or "").partition("Attributes:")[2]
    meanings = {}
    for names, says in re.findall(r"^    (\w[\w, ]*): ((?:.|\n(?!    \w[\w, ]*: ))*)", text, re.MULTILINE):
        sentence = " ".join(says.split()).rstrip(".;")
        meanings.update(dict.fromkeys(names.split(", "), f"{sentence[:1].upper()}{sentence[1:]}."))
    return meanings


def _edge_section() -> type[_Section]:
    """A section with the fields of `EdgeSettings`."""
    meanings = _edge_meanings()
    fields = {
        name: (
            float,
            _key(value, f"a number from 0 to {MOST:.0f}", ge=0, le=MOST, says=meanings.get(name, "")),
        )
        for name, value in EdgeSettings()._asdict().items()
    }
    made: Any = create_model("EdgeConfig", __base__=_Section, __doc__="Parameters of `method: edge`.", **fields)  # type: ignore[call-overload]
    return made


EdgeConfig = _edge_section()


_COMMON, _DEEPSORT, _EDGE = Common(), DeepSortParameters(), EdgeParameters()


class TrackerConfig(_Section):
    """The tracker. The names are those of `EdgeDeepSort`."""

    method: Literal["edge", "deepsort"] = _key(
        "edge",
        "one of edge, deepsort",
        says="`edge` keeps identities better and embeds only where it matters; `deepsort` is DeepSORT, exactly.",
    )
    max_embeddings: int | None = _key(
        _EDGE.max_embeddings,
        "a whole number from 0 to 100000, or null for no limit",
        ge=0,
        le=100_000,
        says="`edge`: largest number of crops to embed in a frame, the most valuable first. `null`: all that matter.",
    )
    selective: bool = _key(_EDGE.selective, "true or false", says="`edge`: false to embed every detection.")
    edge: EdgeConfig | None = _key(  # type: ignore[valid-type]
        None, "a section", says="`edge`: other parameters of the method than its own. Default: none."
    )
    max_iou_distance: float = _key(
        _DEEPSORT.max_iou_distance,
        "a number from 0 to 1",
        ge=0,
        le=1,
        says="Largest 1 - IoU at which the IoU stage matches.",
    )
    max_age: int = _key(
        _DEEPSORT.max_age,
        "a whole number from 1 to 1000000",
        ge=1,
        le=1_000_000,
        says="Frames without a match after which a confirmed track ends.",
    )
    n_init: int = _key(
        _DEEPSORT.n_init,
        "a whole number from 1 to 10000",
        ge=1,
        le=10_000,
        says="Matches in a row that confirm a track.",
    )
    nms_max_overlap: float = _key(
        _COMMON.nms_max_overlap,
        "a number above 0 and at most 1",
        gt=0,
        le=1,
        says="Overlap above which the tracker itself drops a detection. 1: never (the detector has done it).",
    )
    max_cosine_distance: float = _key(
        _DEEPSORT.max_cosine_distance,
        "a number from 0 to 2",
        ge=0,
        le=2,
        says="Largest cosine distance at which appearances match.",
    )
    nn_budget: int | None = _key(
        _DEEPSORT.nn_budget,
        "a whole number from 1 to 100000, or null for no limit",
        ge=1,
        le=100_000,
        says="Appearance features kept for each track. `null`: no limit, and memory that grows.",
    )
    gating_only_position: bool = _key(
        _DEEPSORT.gating_only_position, "true or false", says="Gate on the position only, not on the shape of the box."
    )
    class_aware: bool = _key(
        _COMMON.class_aware, "true or false", says="Match a track only to detections of its own class."
    )


class OutputsConfig(_Section):
    """The outputs. Those whose key is omitted are not written."""

    mot: Text | None = _key(None, "a path, such as results/tracks.txt", says="MOTChallenge text file.", holds="path")
    jsonl: Text | None = _key(
        None, "a path, such as results/tracks.jsonl", says="JSON lines, one object per frame.", holds="path"
    )
    video: Text | None = _key(
        None,
        f"a path ending in {' or '.join(VIDEO_SUFFIXES)}",
        says="Annotated video: MPEG-4 in `.mp4`, Motion JPEG in `.avi`.",
        holds="path",
    )
    rotate_mib: int | None = _key(
        None,
        "MiB: a whole number from 1 to 1000000, or null for no limit",
        ge=1,
        le=1_000_000,
        says="Size at which a file is renamed to the time it was started, and a new one is started.",
    )
    rotate_daily: bool = _key(False, "true or false", says="Start new files at midnight, local time.")
    keep: int = _key(
        10,
        "a whole number from 0 to 100000",
        ge=0,
        le=100_000,
        says="Number of such renamed files to keep for each output.",
    )
    coast: int = _key(
        0,
        "a whole number from 0 to 100000",
        ge=0,
        le=100_000,
        says="Frames without a detection for which a confirmed track is still reported, at its predicted box "
        "and marked as such. 0: none.",
    )

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Key and path of each output to write."""
        for name in ("mot", "jsonl", "video"):
            path = getattr(self, name)
            if path is not None:
                yield name, Path(path)


Point = Annotated[list[float], Field(min_length=2, max_length=2)]


class ZoneConfig(_Section):
    """An area of the image."""

    polygon: list[Point] = _key(
        ...,
        "a list of at least three corners [x, y] in pixels, such as [[0, 0], [200, 0], [200, 100]]",
        min_length=3,
        max_length=1000,
        says="Corners [x, y] in pixels. An object is inside if the middle of the lower edge of its box is.",
    )
    classes: list[Text] | None = _key(
        None, "a list of class names, such as [person]", min_length=1, says="Classes that count. Default: all."
    )


class LineConfig(_Section):
    """A line that objects cross."""

    start: Point = _key(..., "a point [x, y] in pixels", says="One end, [x, y] in pixels.")
    end: Point = _key(
        ..., "a point [x, y] in pixels", says="The other end. Looking from start to end, `in` is from left to right."
    )
    classes: list[Text] | None = _key(
        None, "a list of class names, such as [person]", min_length=1, says="Classes that count. Default: all."
    )


class CameraConfig(_Section):
    """One of several cameras."""

    name: Name = _key(..., NAME_RULE, says="Its name in topics, file names and metrics.")
    source: SourceConfig = _key(SourceConfig(), "a section", says="As at the top level.")
    tracker: TrackerConfig | None = _key(None, "a section", says="Replaces that of the top level.")
    outputs: OutputsConfig | None = _key(None, "a section", says="Replaces that of the top level.")
    zones: dict[Name, ZoneConfig] = _key({}, "a section of named zones", says="As at the top level.")
    lines: dict[Name, LineConfig] = _key({}, "a section of named lines", says="As at the top level.")


class MqttConfig(_Section):
    """Publishing events and tracks to an MQTT broker."""

    host: Text = _key(..., "the name or address of a broker", says="The broker.")
    port: int = _key(
        1883, "a port: a whole number from 1 to 65535", ge=1, le=65535, says="Its port; usually 8883 with TLS."
    )
    topic: Topic = _key("edge-tracker", "a topic without # and +", says="Start of all topics.")
    client_id: Name | None = _key(
        None, NAME_RULE, says="Default: `edge-tracker-` and the host name. Each client needs its own."
    )
    username: Text | None = _key(None, "text", says="User name.")
    password_env: Name | None = _key(
        None, "the name of an environment variable", says="Environment variable that holds the password."
    )
    password_file: Text | None = _key(None, "a path", says="File that holds the password.", holds="path")
    tls: bool = _key(False, "true or false", says="Encrypt, and verify the broker's certificate.")
    ca: Text | None = _key(None, "a path", says="Certificates to trust. Default: the system's.", holds="path")
    cert: Text | None = _key(None, "a path", says="This client's certificate.", holds="path")
    key: Text | None = _key(None, "a path", says="The key of `cert`.", holds="path")
    qos: int = _key(1, "0, 1 or 2", ge=0, le=2, says="Quality of service of events; tracks are sent with 0.")
    style: Literal["native", "frigate"] = _key(
        "native",
        "one of native, frigate",
        says="Format of the events; `frigate` is the one that Home Assistant integrations know.",
    )
    tracks_per_second: float = _key(
        1.0,
        "a number from 0 to 1000",
        ge=0,
        le=1000,
        says="Frames per second whose tracks are published. 0: none.",
    )
    update_every: float = _key(
        1.0,
        "seconds: a number from 0.1 to 3600",
        ge=0.1,
        le=3600,
        says="Shortest time in seconds between `update`s of an object.",
    )
    queue: int = _key(
        1000,
        "a whole number from 1 to 1000000",
        ge=1,
        le=1_000_000,
        says="Messages kept while the broker is away; beyond that the oldest are dropped, and counted.",
    )


class ServerConfig(_Section):
    """The live page, `/metrics`, `/healthz`, `/readyz` and `/api/tracks`."""

    host: Text = _key(
        "127.0.0.1",
        "an address of this machine",
        says="Address to listen on. Every address but loopback needs a token.",
    )
    port: int = _key(8080, "a port: a whole number from 0 to 65535", ge=0, le=65535, says="0: any free port.")
    token_env: Name | None = _key(
        None, "the name of an environment variable", says="Environment variable that holds the token."
    )
    token_file: Text | None = _key(None, "a path", says="File that holds the token.", holds="path")


class StateConfig(_Section):
    """Saved state that survives a crash or a reboot: identities, tracks, counts. For live sources."""

    folder: Text | None = _key(
        None, "a folder", says="Folder of the state. Default: the user's folder for state.", holds="path"
    )
    every: float = _key(
        5.0, "seconds: a number from 0 to 3600, 0 for never", ge=0, le=3600, says="Seconds between two saves. 0: never."
    )
    resume_within: float = _key(
        60.0,
        "seconds: a number from 0 to 1000000",
        ge=0,
        le=1_000_000,
        says="Largest age in seconds at which tracks are continued. From an older state only numbering and counts are.",
    )


class Config(_Section):
    """A whole `cam.yaml`."""

    device: Literal["auto", "cpu", "cuda", "tensorrt"] = _key(
        "auto",
        "one of auto, cpu, cuda, tensorrt",
        says="Device of the models. `auto`: a GPU if there is one that runs the model, else the CPU.",
    )
    threads: int = _key(
        0, "a whole number from 0 to 1024", ge=0, le=1024, says="CPU threads for a model. 0: the runtime chooses."
    )
    name: Name = _key("camera", NAME_RULE, says="Name of the camera, if there is only one.")
    source: SourceConfig = _key(SourceConfig(), "a section", says="The source of the frames.")
    cameras: list[CameraConfig] | None = _key(
        None,
        "a list of sections with name and source",
        min_length=1,
        max_length=1000,
        says="Several cameras, instead of `name`, `source`, `zones` and `lines`.",
    )
    detector: DetectorConfig = _key(DetectorConfig(), "a section", says="Detection of the objects.")
    embedder: EmbedderConfig = _key(
        EmbedderConfig(), "a section", says="The model that tells objects apart by their appearance."
    )
    engine: EngineConfig = _key(EngineConfig(), "a section", says="Building TensorRT engines.")
    tracker: TrackerConfig = _key(TrackerConfig(), "a section", says="The tracker.")
    outputs: OutputsConfig = _key(OutputsConfig(), "a section", says="The outputs.")
    zones: dict[Name, ZoneConfig] = _key({}, "a section of named zones", says="Areas to count in, by name.")
    lines: dict[Name, LineConfig] = _key({}, "a section of named lines", says="Lines to count at, by name.")
    mqtt: MqttConfig | None = _key(None, "a section with a host", says="Broker to publish to. Default: none.")
    server: ServerConfig | None = _key(None, "a section", says="Live page and metrics. Default: none.")
    state: StateConfig = _key(StateConfig(), "a section", says="State that survives a crash.")


@dataclass(frozen=True)
class Camera:
    """The configuration of one camera, whether it is the only one or one of `cameras`."""

    name: str
    source: SourceConfig
    tracker: TrackerConfig
    outputs: OutputsConfig
    zones: Mapping[str, ZoneConfig]
    lines: Mapping[str, LineConfig]
    key: tuple[str | int, ...]  # its place in the configuration


def cameras_of(config: Config) -> list[Camera]:
    """The cameras of a configuration, at least one."""
    if config.cameras is None:
        one = config
        return [Camera(one.name, one.source, one.tracker, _named(one.outputs, one.name), one.zones, one.lines, ())]
    return [
        Camera(
            camera.name,
            camera.source,
            camera.tracker or config.tracker,
            _named(camera.outputs or config.outputs, camera.name),
            camera.zones,
            camera.lines,
            ("cameras", index),
        )
        for index, camera in enumerate(config.cameras)
    ]


def _named(outputs: OutputsConfig, camera: str) -> OutputsConfig:
    return outputs.model_copy(update={key: str(path).replace(CAMERA, camera) for key, path in outputs.paths()})


# The parameters that only one of the methods has, as its tracker declares them.
PARAMETERS: Mapping[str, type[DeepSortParameters] | type[EdgeParameters]] = {
    "edge": EdgeParameters,
    "deepsort": DeepSortParameters,
}
SECTIONS = {"edge_settings": "edge"}  # the parameter that is a section, and its key


def keys_of(method: str) -> list[str]:
    """The keys of `tracker` that only this method has."""
    keys = [SECTIONS.get(name, name) for name in PARAMETERS[method]._fields]
    return [key for key in keys if key in TrackerConfig.model_fields]  # the frame rate is the source's


def tracker_arguments(config: TrackerConfig) -> tuple[dict[str, Any], list[str]]:
    """The arguments of `EdgeDeepSort` from the section, and the changed keys that have no effect on its method."""
    foreign = [key for method in PARAMETERS if method != config.method for key in keys_of(method)]
    default = TrackerConfig()
    idle = [key for key in foreign if getattr(config, key) != getattr(default, key)]
    arguments = {key: value for key, value in config if key not in foreign}
    for name, key in SECTIONS.items():
        if key in arguments:
            section = arguments.pop(key)
            arguments[name] = None if section is None else EdgeSettings(**dict(section))
    return arguments, idle


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section in a type such as `Section`, `Section | None`, `list[Section]`, `dict[Name, Section]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)
