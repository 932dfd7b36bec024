"""`cam.yaml` as typed, validated models.

`load_config` reads the file, applies `--source` and `--set`, and refuses what is not valid. The error has a line for
each problem: file and line, key, value, and what was expected.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from edge_tracker.app.config.schema import (
    CAMERA,
    VIDEO_SUFFIXES,
    Camera,
    Config,
    OutputsConfig,
    SourceConfig,
    cameras_of,
    sections_in,
)
from edge_tracker.app.config.uri import IMAGE_SUFFIXES, SCHEMES, absolute, is_path, redact, resolve_source, scheme_of
from edge_tracker.app.config.yamlfile import Document, Key, parse_override, read_document
from edge_tracker.errors import ConfigError
from edge_tracker.inference.availability import DEADLINE_MS
from edge_tracker.inference.triton.address import FORM, Address, is_served

MODEL_SUFFIXES = (".onnx", ".engine")
MAX_CAMERA = 999


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
        needs_source: False if frames come from elsewhere, so that `source.uri` may be missing.

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
        if document.data.get("cameras") is not None:
            raise ConfigError(f"--source: {document.path} has several cameras; set cameras in the file instead")
    _against(document.data, (), document.path.absolute().parent)
    for key, value, origin in given:
        document.override(key, _against(value, key, Path.cwd()), origin)
    _drop_empty_sections(document)
    try:
        valid = Config.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, document))) from None
    problems = _cross_check(valid, document, needs_source)
    if problems:
        raise ConfigError("\n".join(problems))
    return valid


def _drop_empty_sections(document: Document) -> None:
    """Drop sections whose keys are all commented out. `embedder: null` is refused, since it may mean "none"."""
    for name, info in Config.model_fields.items():
        if name in document.data and document.data[name] is None and (_section_of(info) or info.default == {}):
            if name == "embedder":
                raise ConfigError(
                    f"{document.where((name,))}: embedder: null is not a section; write embedder.model: null for no"
                    " appearance, or omit the section for the default"
                )
            del document.data[name]


# ---- paths ---------------------------------------------------------------------------------------------------------


def is_model_path(name: str) -> bool:
    """True if a model is given as a file, not as a name of the table."""
    return not is_served(name) and Path(name).suffix.lower() in MODEL_SUFFIXES


def _against(value: Any, key: Key, folder: Path, seen: set[int] | None = None) -> Any:
    """Make the paths in `value` of `key`, not yet validated, absolute against `folder`; sections and lists in place."""
    seen = set() if seen is None else seen  # a few aliases of aliases can stand for billions of nodes
    if isinstance(value, dict | list):
        if id(value) not in seen:
            seen.add(id(value))
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                value[name] = _against(item, (*key, name), folder, seen)
    elif isinstance(value, str) and value.isprintable() and value:  # anything else is refused later
        holds = _extra(key, "holds")
        if holds == "source":
            return resolve_source(value, folder)
        if holds == "path" or (holds == "model" and is_model_path(value)):
            return absolute(value, folder)
    return value


# ---- checks across keys ----------------------------------------------------------------------------------------------


def needs_frames(config: Config) -> bool:
    """True if the run needs images; False if replayed detections are enough."""
    drawn = any(camera.outputs.video is not None for camera in cameras_of(config))
    return config.detector.mot is None or config.embedder.model is not None or drawn or config.server is not None


def _cross_check(config: Config, document: Document, needs_source: bool) -> list[str]:
    """The problems of keys that are valid by themselves, a line each."""
    problems: list[str] = []

    def refuse(key: Key, value: Any, reason: str) -> None:
        shown = f" {_show(value)}" if value is not None else ""
        problems.append(_one_line(f"{document.where(key)}: {dotted(key)}:{shown} {reason}"))

    cameras = cameras_of(config)
    detector, mqtt = config.detector, config.mqtt
    if detector.model is not None and detector.mot is not None:
        refuse(("detector", "mot"), detector.mot, "is given as well as detector.model; give one of the two")
    if detector.mot is not None and len(cameras) > 1:
        refuse(("detector", "mot"), detector.mot, "are the detections of one camera, and there are several")
    classes = detector.classes
    if detector.mot is not None and classes is not None and not {"person", 0} & set(classes):
        key = ("detector", "classes")
        refuse(key, classes, "would leave nothing of detector.mot, whose one class is person (0)")
    if detector.every > 1 and detector.hold_fps is not None:
        refuse(("detector", "every"), detector.every, "is given as well as detector.hold_fps; give one of the two")
    _check_served(config, refuse)
    if mqtt is not None and mqtt.password_env is not None and mqtt.password_file is not None:
        refuse(("mqtt", "password_file"), mqtt.password_file, "is given as well as mqtt.password_env; give one")
    if mqtt is not None and (mqtt.cert is None) != (mqtt.key is None):
        missing = "cert" if mqtt.cert is None else "key"
        refuse(("mqtt", missing), None, "missing; mqtt.cert and mqtt.key are given together")
    if mqtt is not None and not mqtt.tls:
        for name in ("ca", "cert"):
            if getattr(mqtt, name) is not None:
                refuse(("mqtt", name), getattr(mqtt, name), "has no effect without mqtt.tls: true")
    if config.cameras is not None:
        for name in ("source", "zones", "lines"):
            if name in config.model_fields_set and getattr(config, name) != Config.model_fields[name].default:
                refuse((name,), None, f"is given as well as cameras; write it as cameras[0].{name}, ...")
    _check_cameras(cameras, needs_source and needs_frames(config), refuse)
    _check_paths(config, cameras, document.path, refuse)
    return problems


def _check_served(config: Config, refuse: Callable[[Key, Any, str], None]) -> None:
    """Check models on servers, and the keys that only they have."""
    for section in ("detector", "embedder"):
        part = getattr(config, section)
        if is_served(part.fallback):
            refuse((section, "fallback"), part.fallback, "is also on a server; give a local model")
        if is_served(part.model):
            try:
                Address.parse(part.model)
            except ConfigError:
                refuse((section, "model"), part.model, f"is not valid; expected {FORM}, gRPC's port (usually 8001)")
            continue
        if part.fallback is not None:
            refuse((section, "fallback"), part.fallback, f"has no effect without {section}.model: triton://...")
        if part.deadline_ms != DEADLINE_MS:
            refuse((section, "deadline_ms"), part.deadline_ms, f"has no effect without {section}.model: triton://...")


def _check_cameras(cameras: list[Camera], needs_source: bool, refuse: Callable[[Key, Any, str], None]) -> None:
    names: set[str] = set()
    for camera in cameras:
        if camera.name in names:
            refuse((*camera.key, "name"), camera.name, "is also the name of another camera")
        names.add(camera.name)
        uri, key = camera.source.uri, (*camera.key, "source", "uri")
        scheme = scheme_of(uri) if uri is not None else None
        if uri is None and needs_source:
            refuse(key, None, f"missing; expected {_expects(SourceConfig, 'uri')}")
        elif isinstance(uri, int) and not 0 <= uri <= MAX_CAMERA:
            refuse(key, uri, f"is not valid; expected {_expects(SourceConfig, 'uri')}")
        elif scheme is not None and scheme not in SCHEMES:
            refuse(key, uri, f"has an unknown scheme; expected one of {', '.join(SCHEMES)}")
        for name, line in camera.lines.items():
            if line.start == line.end:
                refuse((*camera.key, "lines", name, "end"), line.end, "is also its start; a line has two ends")


def _check_paths(
    config: Config, cameras: list[Camera], document: Path, refuse: Callable[[Key, Any, str], None]
) -> None:
    """Refuse outputs that would overwrite an input or another output."""
    taken: dict[Path, str] = {document.resolve(): "the configuration"}
    sources: list[str] = []
    for camera in cameras:
        uri = camera.source.uri
        if uri is not None and is_path(uri):
            sources.append(str(uri))
            taken[Path(str(uri)).resolve()] = dotted((*camera.key, "source", "uri"))
    models = [(section, name) for section in ("detector", "embedder") for name in ("model", "fallback")]
    for section, name in (("detector", "mot"), *models):
        value = getattr(getattr(config, section), name)
        if value is not None and (name == "mot" or is_model_path(value)):
            taken.setdefault(Path(value).resolve(), f"{section}.{name}")
    for camera in cameras:
        own = config.cameras is not None and config.cameras[int(camera.key[1])].outputs is not None
        for name, path in camera.outputs.paths():
            key: Key = (*(camera.key if own else ()), "outputs", name)
            value = getattr(config.outputs, name) if not own else str(path)
            if name == "video" and path.suffix.lower() not in VIDEO_SUFFIXES:
                refuse(key, value, f"is not valid; expected {_expects(OutputsConfig, 'video')}")
            there = path.resolve()
            if taken.get(there) == dotted(key):
                refuse(key, value, f"is the same file for every camera; put {CAMERA} in the path")
                return
            if there in taken:
                refuse(key, value, f"is also {taken[there]}, which would be overwritten; give another path")
            elif any(_is_frame_of(there, source) for source in sources):
                refuse(key, value, "is one of the images of source.uri; give another path")
            taken[there] = dotted(key)


def _is_frame_of(path: Path, uri: str) -> bool:
    """True if `path` is an existing image of the image folder or pattern `uri`."""
    folder = Path(uri) if os.path.isdir(uri) else Path(uri).parent
    return path.parent == folder.resolve() and path.suffix.lower() in IMAGE_SUFFIXES and os.path.exists(path)


# ---- errors --------------------------------------------------------------------------------------------------------


def _explain(error: ValidationError, document: Document) -> list[str]:
    lines: dict[Key, str] = {}
    for item in error.errors(include_url=False, include_context=False):
        key, value = _locate(item["loc"], document.data)
        if key in lines:
            continue  # another member of a union that did not match
        if item["type"] == "missing":
            key = (*key, item["loc"][-1])
        where = f"{document.where(key)}: {dotted(key)}"
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
    """The key for pydantic's `loc`, without the names of union members in it; and the value there."""
    key: list[Any] = []
    value = data
    for part in loc:
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
            key.append(part)
    return tuple(key) or tuple(loc), value


def _section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The section of a key, if it is a section."""
    options = [option for option in get_args(info.annotation) or (info.annotation,) if option is not NoneType]
    single = len(options) == 1 and isinstance(options[0], type) and get_origin(options[0]) is None
    return options[0] if single and issubclass(options[0], BaseModel) else None


def _model_at(key: Key) -> type[BaseModel] | None:
    """The model that has, or should have, the last part of `key` as a field."""
    model: type[BaseModel] = Config
    parts = list(key[:-1])
    while parts:
        part = parts.pop(0)
        info = model.model_fields.get(part) if isinstance(part, str) else None
        section = next(sections_in(info.annotation), None) if info is not None else None
        if info is None or section is None:
            return None
        if _section_of(info) is None:  # a list or a mapping of sections: the next part selects one
            if not parts:
                return None
            parts.pop(0)
        model = section
    return model


def _extra(key: Key, what: str) -> str:
    """An entry of the schema about a key; "" if there is no such key."""
    model = _model_at(key)
    info = model.model_fields.get(key[-1]) if model is not None and isinstance(key[-1], str) else None
    extra = info.json_schema_extra if info is not None else None
    return str(extra.get(what, "")) if isinstance(extra, dict) else ""


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
    """A suggestion for an unknown key: a close name in its section, or the same name in another one."""
    model = _model_at(key)
    if model is None:
        return "omit it"
    name = str(key[-1])
    near = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.6)
    if near:
        return f"did you mean {dotted((*key[:-1], near[0]))}?"
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
    """A suggestion for a misspelt word of a fixed set."""
    model = _model_at(key)
    info = model.model_fields.get(key[-1]) if model is not None and isinstance(key[-1], str) else None
    if info is None or get_origin(info.annotation) is not Literal or not isinstance(value, str):
        return ""
    near = difflib.get_close_matches(value.lower(), get_args(info.annotation), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def dotted(key: Key) -> str:
    """A key as a person writes it: `cameras[0].source.uri`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if isinstance(part, str) and part.isprintable() and part else _show(part)
            text += f".{name}" if text else name
    return text


class _Short(reprlib.Repr):
    """Shortens collections, and removes the credentials of each text before shortening it."""

    def repr_str(self, text: str, level: int) -> str:
        return super().repr_str(redact(text), level)


def _show(value: Any) -> str:
    """A value as YAML writes it, short, on one line and without credentials."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        text = json.dumps(redact(value), ensure_ascii=False)
        return _one_line(text if len(text) <= 120 else f'{text[:100]}..."')
    return _one_line(_Short().repr(value))


def _one_line(text: str) -> str:
    """`text` with line ends and other characters that are not printable as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
