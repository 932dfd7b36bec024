"""`cam.yaml` as typed, validated models.

`load_config` reads the file, applies `--source` and `--set`, and refuses what is not valid: one line for each problem,
with the file and its line, the key, the value, and what would be right.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.fields import FieldInfo

from edge_tracker.app.uri import IMAGE_SUFFIXES, NETWORK_SCHEMES, is_path, redact, resolve_source, scheme_of
from edge_tracker.app.yamlfile import Document, Key, parse_override, read_document
from edge_tracker.errors import ConfigError

MODEL_SUFFIXES = (".onnx", ".engine")
VIDEO_SUFFIXES = (".mp4", ".avi")
MAX_CAMERA = 999
DEFAULT_DETECTOR = "yolov3-tiny"


# Text without control characters: no key has a use for them, and they would break a line of an error or of a log.
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Section(BaseModel):
    # Strict: the YAML text "30" is not the number 30, and 0.5 is not a whole number. No coercion, no surprises.
    # No allow_inf_nan: .inf and .nan make no sense for any key.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _key(default: Any, expects: str, *, says: str, **limits: Any) -> Any:
    """A key: its default, what values are right (completes "expected ..."), and what it means."""
    return Field(default, description=says, json_schema_extra={"expects": expects}, **limits)


class SourceConfig(_Section):
    """Where frames come from."""

    uri: Text | int | None = _key(
        None,
        "a video file, a folder of images, a pattern such as img1/%06d.jpg, a camera number, or an rtsp:// or http:// "
        "URL",
        says="Video file, image folder or pattern (`%06d.jpg`, `*.png`), camera number, or network URL.",
    )
    fps: float | None = _key(
        None,
        "frames per second: a number above 0 and at most 1000",
        gt=0,
        le=1000,
        says="Frame rate to assume. Default: the video's own; 10 for images.",
    )


class DetectorConfig(_Section):
    """What finds the objects: a model, or recorded detections."""

    model: Text | None = _key(
        None,
        "a name such as yolov3-tiny, or a path ending in .onnx or .engine",
        says="Name of an exported model, or a model file. Default `yolov3-tiny`.",
    )
    mot: Text | None = _key(
        None,
        "a path to a MOTChallenge det.txt",
        says="MOTChallenge `det.txt` whose detections are replayed instead of running a model.",
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
        says="Output layout of the model, where it is not recognised by itself.",
    )


class EmbedderConfig(_Section):
    """What tells objects apart by their looks."""

    model: Text | None = _key(
        "mobilenetv2",
        "a name such as mobilenetv2, a path ending in .onnx or .engine, or null for no appearance",
        says="Name of an exported model, a model file, or `null`: association by motion alone.",
    )
    batch: int = _key(
        16, "a whole number from 1 to 1024", ge=1, le=1024, says="Most crops that go through the model in one call."
    )


class EngineConfig(_Section):
    """How TensorRT engines are built from the models. `edge_tracker.inference.EngineOptions` has the same names."""

    precision: Literal["fp16", "fp32", "int8"] = _key(
        "fp16", "one of fp16, fp32, int8", says="Precision of the engines. `int8` needs a `NAME.int8.onnx`."
    )
    workspace: int = _key(
        1024, "MiB: a whole number from 1 to 1000000", ge=1, le=1_000_000, says="Scratch memory a layer may take, MiB."
    )
    optimization_level: int = _key(
        3, "a whole number from 0 to 5", ge=0, le=5, says="0 is quick to build, 5 quick to run."
    )
    hardware_compatibility: Literal["none", "same_compute_capability", "ampere_plus"] = _key(
        "none",
        "one of none, same_compute_capability, ampere_plus",
        says="Which other GPUs may run the engines.",
    )
    version_compatible: bool = _key(
        False, "true or false", says="Whether later TensorRT versions of the same major number may run the engines."
    )
    dla_core: int | None = _key(
        None,
        "the number of a DLA core, such as 0, or null for none",
        ge=0,
        le=15,
        says="DLA core of a Jetson Orin or Xavier for the layers that it can run.",
    )


class TrackerConfig(_Section):
    """How detections become tracks. The names are `EdgeDeepSort`'s own."""

    method: Literal["edge", "deepsort"] = _key(
        "edge",
        "one of edge, deepsort",
        says="`edge` keeps identities better and embeds only where it matters; `deepsort` is DeepSORT, exactly.",
    )
    max_embeddings: int | None = _key(
        None,
        "a whole number from 0 to 100000, or null for no limit",
        ge=0,
        le=100_000,
        says="`edge`: most crops to embed in a frame, the most valuable first. `null`: all that matter.",
    )
    selective: bool = _key(True, "true or false", says="`edge`: false to embed every detection.")
    max_iou_distance: float = _key(
        0.7, "a number from 0 to 1", ge=0, le=1, says="Most 1 - IoU at which the IoU stage associates."
    )
    max_age: int = _key(
        30,
        "a whole number from 1 to 1000000",
        ge=1,
        le=1_000_000,
        says="Frames without a match after which a confirmed track ends.",
    )
    n_init: int = _key(
        3, "a whole number from 1 to 10000", ge=1, le=10_000, says="Matches in a row that confirm a track."
    )
    nms_max_overlap: float = _key(
        1.0,
        "a number above 0 and at most 1",
        gt=0,
        le=1,
        says="Overlap above which the tracker itself drops a detection. 1: never (the detector has done it).",
    )
    max_cosine_distance: float = _key(
        0.2, "a number from 0 to 2", ge=0, le=2, says="Most cosine distance at which looks are the same."
    )
    nn_budget: int | None = _key(
        100,
        "a whole number from 1 to 100000, or null for no limit",
        ge=1,
        le=100_000,
        says="Appearance features kept for each track. `null`: no limit, and memory that grows.",
    )
    gating_only_position: bool = _key(
        False, "true or false", says="Gate on the position alone, not on the box's shape."
    )
    class_aware: bool = _key(False, "true or false", says="Associate a track only with detections of its own class.")


class OutputsConfig(_Section):
    """Where the results go. A key left out is an output not written."""

    mot: Text | None = _key(None, "a path, such as results/tracks.txt", says="MOTChallenge text file.")
    jsonl: Text | None = _key(
        None, "a path, such as results/tracks.jsonl", says="JSON lines, one object for each frame."
    )
    video: Text | None = _key(
        None,
        f"a path ending in {' or '.join(VIDEO_SUFFIXES)}",
        says="Annotated video: MPEG-4 in `.mp4`, Motion JPEG in `.avi`.",
    )


class Config(_Section):
    """A whole `cam.yaml`."""

    device: Literal["auto", "cpu", "cuda", "tensorrt"] = _key(
        "auto",
        "one of auto, cpu, cuda, tensorrt",
        says="Where the models run. `auto`: a GPU if there is one for the model at hand, else the CPU.",
    )
    threads: int = _key(
        0, "a whole number from 0 to 1024", ge=0, le=1024, says="CPU threads for a model. 0: the runtime chooses."
    )
    source: SourceConfig = _key(SourceConfig(), "a section", says="Where frames come from.")
    detector: DetectorConfig = _key(DetectorConfig(), "a section", says="What finds the objects.")
    embedder: EmbedderConfig = _key(EmbedderConfig(), "a section", says="What tells objects apart by their looks.")
    engine: EngineConfig = _key(EngineConfig(), "a section", says="How TensorRT engines are built.")
    tracker: TrackerConfig = _key(TrackerConfig(), "a section", says="How detections become tracks.")
    outputs: OutputsConfig = _key(OutputsConfig(), "a section", says="Where the results go.")


# The tracker's keys that one of its methods knows nothing of.
FOREIGN_KEYS = {
    "edge": ("max_iou_distance", "max_age", "n_init", "max_cosine_distance", "nn_budget", "gating_only_position"),
    "deepsort": ("max_embeddings", "selective"),
}


def tracker_arguments(config: TrackerConfig) -> tuple[dict[str, Any], list[str]]:
    """What `EdgeDeepSort` takes of the section, and the keys that were changed but mean nothing to its method."""
    foreign = FOREIGN_KEYS[config.method]
    default = TrackerConfig()
    idle = [name for name in foreign if getattr(config, name) != getattr(default, name)]
    return {name: value for name, value in config if name not in foreign}, idle


# The keys that hold paths, and which of them may be a model's name instead.
_OUTPUT_KEYS: tuple[Key, ...] = (("outputs", "mot"), ("outputs", "jsonl"), ("outputs", "video"))
_MODEL_KEYS: tuple[Key, ...] = (("detector", "model"), ("embedder", "model"))
_PATH_KEYS: tuple[Key, ...] = (("detector", "mot"), *_OUTPUT_KEYS)


def load_config(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    source: str | int | None = None,
    *,
    needs_source: bool = True,
) -> Config:
    """Read and validate a configuration.

    Paths in a file are made absolute against the file's folder, all others against the current one.

    Args:
        config: the YAML file, or its content as a mapping.
        overrides: `section.key=value` each; the value is parsed as YAML.
        source: replaces `source.uri`.
        needs_source: False where frames come from elsewhere, and `source.uri` may be missing.

    Raises:
        ConfigError: the file cannot be read or is not valid. The message has a line for each problem.
    """
    if isinstance(config, Mapping):
        document = Document(Path("configuration"), copy.deepcopy(dict(config)))
    else:
        document = read_document(Path(config))
    given = [(*parse_override(text), "--set") for text in overrides]
    if source is not None:
        given.append((("source", "uri"), source, "--source"))
    for key, value, origin in given:
        document.override(key, _against(value, key, Path.cwd()), origin)
    _drop_empty_sections(document)
    try:
        valid = Config.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, document))) from None
    valid = _resolve_paths(valid, document.path.absolute().parent)
    problems = _cross_check(valid, document, needs_source)
    if problems:
        raise ConfigError("\n".join(problems))
    return valid


def _drop_empty_sections(document: Document) -> None:
    """A section whose keys are all commented out is as good as left out; but `embedder: null` may mean "none"."""
    for name, info in Config.model_fields.items():
        if name in document.data and document.data[name] is None and _section_of(info) is not None:
            if name == "embedder":
                raise ConfigError(
                    f"{document.where((name,))}: embedder: null is not a section; write embedder.model: null for no"
                    " appearance, or leave the section out for the default"
                )
            del document.data[name]


# ---- paths ---------------------------------------------------------------------------------------------------------


def is_model_path(name: str) -> bool:
    """Whether a model is given as a file, not as a name of the table."""
    return Path(name).suffix.lower() in MODEL_SUFFIXES


def _against(value: Any, key: Key, folder: Path) -> Any:
    """`value` of `key`, made absolute against `folder` if the key holds a path."""
    if key == ("source", "uri") and isinstance(value, str) and value:
        return resolve_source(value, folder)
    if isinstance(value, str) and value and (key in _PATH_KEYS or (key in _MODEL_KEYS and is_model_path(value))):
        return os.path.join(folder, os.path.expanduser(value))
    if isinstance(value, dict):
        return {name: _against(item, (*key, name), folder) for name, item in value.items()}
    return value


def _resolve_paths(config: Config, folder: Path) -> Config:
    changed: dict[str, Any] = {}
    for section_name in ("source", "detector", "embedder", "outputs"):
        section = getattr(config, section_name)
        update = {name: _against(value, (section_name, name), folder) for name, value in section}
        changed[section_name] = section.model_copy(update=update)
    return config.model_copy(update=changed)


# ---- what keys mean together -----------------------------------------------------------------------------------------


def needs_frames(config: Config) -> bool:
    """Whether images are wanted, or replayed detections are all that the run works on."""
    return config.detector.mot is None or config.embedder.model is not None or config.outputs.video is not None


def _cross_check(config: Config, document: Document, needs_source: bool) -> list[str]:
    """What is wrong with keys that are each valid by themselves, a line each."""
    problems: list[str] = []

    def refuse(section: str, name: str, value: Any, reason: str) -> None:
        shown = f" {_show(value)}" if value is not None else ""
        problems.append(_one_line(f"{document.where((section, name))}: {section}.{name}:{shown} {reason}"))

    if config.detector.model is not None and config.detector.mot is not None:
        refuse("detector", "mot", config.detector.mot, "is given as well as detector.model; give one of the two")
    classes = config.detector.classes
    if config.detector.mot is not None and classes is not None and not {"person", 0} & set(classes):
        refuse("detector", "classes", classes, "would leave nothing of detector.mot, whose one class is person (0)")
    uri = config.source.uri
    scheme = scheme_of(uri) if uri is not None else None
    local = str(uri) if uri is not None and is_path(uri) else None
    if uri is None and needs_source and needs_frames(config):
        refuse("source", "uri", None, f"missing; expected {_expects(SourceConfig, 'uri')}")
    elif isinstance(uri, int) and not 0 <= uri <= MAX_CAMERA:
        refuse("source", "uri", uri, f"is not valid; expected {_expects(SourceConfig, 'uri')}")
    elif scheme is not None and scheme not in (*NETWORK_SCHEMES, "file"):
        refuse("source", "uri", uri, f"has an unknown scheme; expected one of {', '.join(NETWORK_SCHEMES)}")
    video = config.outputs.video
    if video is not None and Path(video).suffix.lower() not in VIDEO_SUFFIXES:
        refuse("outputs", "video", video, f"is not valid; expected {_expects(OutputsConfig, 'video')}")

    taken: dict[Path, str] = {document.path.resolve(): "the configuration"}
    if local is not None:
        taken[Path(local).resolve()] = "source.uri"
    for section, name in (("detector", "mot"), *_MODEL_KEYS):
        value = getattr(getattr(config, section), name)
        if value is not None and (name == "mot" or is_model_path(value)):
            taken.setdefault(Path(value).resolve(), f"{section}.{name}")
    for section, name in _OUTPUT_KEYS:
        value = getattr(config.outputs, name)
        if value is None:
            continue
        path = Path(value).resolve()
        if path in taken:
            refuse(section, name, value, f"is also {taken[path]}, which would be overwritten; give another path")
        elif local is not None and _is_frame_of(path, local):
            refuse(section, name, value, "is one of the images of source.uri; give another path")
        taken[path] = f"{section}.{name}"
    return problems


def _is_frame_of(path: Path, uri: str) -> bool:
    """Whether `path` is an existing image of the image folder or pattern `uri`."""
    folder = Path(uri) if os.path.isdir(uri) else Path(uri).parent
    return path.parent == folder.resolve() and path.suffix.lower() in IMAGE_SUFFIXES and os.path.exists(path)


# ---- errors --------------------------------------------------------------------------------------------------------


def _explain(error: ValidationError, document: Document) -> list[str]:
    lines: dict[Key, str] = {}
    for item in error.errors(include_url=False, include_context=False):
        key, value = _locate(item["loc"], document.data)
        if key in lines:
            continue  # one of several members of a union that did not fit
        where = f"{document.where(key)}: {_dotted(key)}"
        if item["type"] == "extra_forbidden":
            lines[key] = f"{where}: unknown key (value {_show(value)}); {_suggest(key)}"
        elif item["type"] == "missing":
            lines[key] = f"{where}: missing; expected {_expects_at(key)}"
        elif item["type"] == "invalid_key":
            lines[key] = f"{document.path}: {_show(key[-1])}: unknown key (value {_show(value)}); {_suggest(key)}"
        else:
            lines[key] = f"{where}: {_show(value)} is not valid; expected {_expects_at(key)}{_close(key, value)}"
    return [_one_line(line) for line in lines.values()]


def _locate(loc: tuple[int | str, ...], data: Any) -> tuple[Key, Any]:
    """The key that pydantic's `loc` means, without the names of union members that it holds; and the value there."""
    key: list[Any] = []
    value = data
    for part in loc:
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
            key.append(part)
    return tuple(key) or tuple(loc), value


def _section_of(info: FieldInfo) -> type[BaseModel] | None:
    return info.annotation if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel) else None


def _model_at(key: Key) -> type[BaseModel] | None:
    """The model whose field the last part of `key` is, or should be."""
    model: type[BaseModel] = Config
    for part in key[:-1]:
        info = model.model_fields.get(part) if isinstance(part, str) else None
        section = _section_of(info) if info else None
        if section is None:
            return None
        model = section
    return model


def _expects(model: type[BaseModel], name: str) -> str:
    extra = model.model_fields[name].json_schema_extra
    return str(extra["expects"]) if isinstance(extra, dict) else "another value"


def _expects_at(key: Key) -> str:
    while key:
        model = _model_at(key)
        if model is not None and key[-1] in model.model_fields:
            section = _section_of(model.model_fields[key[-1]])
            if section is not None:
                return f"a section with keys such as {', '.join(list(section.model_fields)[:4])}"
            return _expects(model, key[-1])
        key = key[:-1]
    return "another value"


def _suggest(key: Key) -> str:
    """What the unknown key may have meant: a close name in its section, or the same name in another one."""
    model = _model_at(key)
    if model is None:
        return "leave it out"
    name = str(key[-1])
    near = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.6)
    if near:
        return f"did you mean {_dotted((*key[:-1], near[0]))}?"
    elsewhere = [
        f"{section_name}.{name}"
        for section_name, info in Config.model_fields.items()
        if (section := _section_of(info)) is not None and name in section.model_fields
    ]
    if name in Config.model_fields:
        elsewhere.append(name)
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"expected one of {', '.join(model.model_fields)}"


def _close(key: Key, value: Any) -> str:
    """A guess at what a misspelt word of a fixed set meant."""
    model = _model_at(key)
    info = model.model_fields.get(key[-1]) if model is not None and isinstance(key[-1], str) else None
    if info is None or get_origin(info.annotation) is not Literal or not isinstance(value, str):
        return ""
    near = difflib.get_close_matches(value.lower(), get_args(info.annotation), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _dotted(key: Key) -> str:
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if isinstance(part, str) and part.isprintable() and part else _show(part)
            text += f".{name}" if text else name
    return text


class _Short(reprlib.Repr):
    """Collections cut short, with the credentials taken out of each text before it is cut."""

    def repr_str(self, text: str, level: int) -> str:
        return super().repr_str(redact(text), level)


def _show(value: Any) -> str:
    """A value as YAML would write it, short, on one line and without credentials."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        text = json.dumps(redact(value), ensure_ascii=False)
        return _one_line(text if len(text) <= 120 else f'{text[:100]}..."')
    return _one_line(_Short().repr(value))


def _one_line(text: str) -> str:
    """`text` with line ends and other characters that do not print written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
