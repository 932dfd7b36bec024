"""The settings of a batch: those parts of a configuration that apply to each video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_tracker.app.batch.results import sha256_of
from edge_tracker.app.config.named_models import served_models, wanted_models
from edge_tracker.app.config.naming import naming
from edge_tracker.app.config.schema import Config, cameras_of
from edge_tracker.errors import ConfigError, ModelError
from edge_tracker.inference.locate import find_model
from edge_tracker.version import __version__

DEFAULT_MOT = "tracks.txt"
# `outputs` without the paths, which each video has of its own, and without rotation, which a video's files do not need.
NO_FILES: dict[str, Any] = {"mot": None, "jsonl": None, "video": None, "rotate_mib": None, "rotate_daily": False}
# Keys without effect on the files of a video, or that are in the hash by another name. A new key counts.
NO_MATTER: dict[str, Any] = {
    **dict.fromkeys(("threads", "name", "cameras", "mqtt", "server", "state"), True),
    "source": {"uri", "wait"},
    "detector": {"model", "fallback", "deadline_ms"},
    "embedder": {"model", "fallback", "deadline_ms"},
    "outputs": {*NO_FILES, "keep"},
}


@dataclass(frozen=True)
class Cut:
    """The lengths of the segments of long videos.

    Attributes:
        seconds: length of a segment, without the overlap.
        overlap: seconds at a segment's end that the next one also covers.
    """

    seconds: float
    overlap: float


@dataclass(frozen=True)
class BatchSettings:
    """The settings that apply to each video.

    Attributes:
        config: the configuration, with absolute paths, valid on every machine that has the files in the same place.
        cut: the segments of long videos; None to leave them whole.
        key: a hash that changes whenever results may.
        ignored: a line for each key of the configuration that has no effect here.
    """

    config: Config
    cut: Cut | None
    key: str
    ignored: tuple[str, ...]

    def outputs(self) -> dict[str, str]:
        """The file of each output in a video's folder, by the output's key."""
        named = {name: path.name for name, path in cameras_of(self.config)[0].outputs.paths()}
        return named or {"mot": DEFAULT_MOT}


def settings_of(config: Config, cut: Cut | None) -> BatchSettings:
    """The settings of a batch from a valid configuration.

    Raises:
        ConfigError: it is for a single video, or for several cameras; or an output is impossible for a cut video.
        ModelError: a model is missing.
    """
    if config.cameras is not None:
        raise ConfigError("cameras: a batch runs the configuration of one camera; give one without `cameras`")
    if config.detector.mot is not None:
        raise ConfigError("detector.mot: has the detections of a single video; a batch needs detector.model")
    names = [path.name for _, path in config.outputs.paths()]
    if len(set(names)) < len(names):
        raise ConfigError("outputs: two have the same file name, and a batch puts them into one folder; rename one")
    if cut is not None:
        _check_cut(config, cut)
    models: list[Path] = []
    sections: dict[str, dict[str, str]] = {"detector": {}, "embedder": {}}
    for key, name, _ in wanted_models(config):
        with naming(key):
            models.append(find_model(name).absolute())
        section, _, part = key.partition(".")
        sections[section][part] = str(models[-1])
    resolved = config.model_copy(
        update={name: getattr(config, name).model_copy(update=update) for name, update in sections.items()}
    )
    return BatchSettings(resolved, cut, _key(resolved, cut, models), tuple(_ignored(config)))


def _check_cut(config: Config, cut: Cut) -> None:
    if cut.overlap >= cut.seconds:
        raise ConfigError(f"--overlap: {cut.overlap:g} s is not shorter than --cut: {cut.seconds:g} s")
    for name in ("zones", "lines"):
        if getattr(config, name):
            raise ConfigError(f"--cut: counts of {name} cannot be joined over segments; omit --cut, or {name}")
    if config.outputs.video is not None:
        raise ConfigError(
            "--cut: outputs.video cannot be joined over segments; omit --cut, or give --set outputs.video=null"
        )


def _ignored(config: Config) -> Iterator[str]:
    if config.source.uri is not None:
        yield "source.uri is not used: the videos of --inputs are tracked"
    for name in ("mqtt", "server"):
        if getattr(config, name) is not None:
            yield f"{name} is not used: results of a batch go only to files"
    if config.outputs.rotate_mib is not None or config.outputs.rotate_daily:
        yield "outputs.rotate_mib and rotate_daily are not used: each video has its own files"
    if config.detector.hold_fps is not None:
        yield "detector.hold_fps makes results depend on how busy the machine is; detector.every does not"


def _key(config: Config, cut: Cut | None, models: list[Path]) -> str:
    """A hash of everything that influences results: the program's version, the sections, and the models' contents.

    It does not include the models' paths, their number of threads, and keys without effect on a video's files.
    """
    content = {
        "version": __version__,
        "config": config.model_dump(mode="json", exclude=NO_MATTER),
        "zones": [list(config.zones), list(config.lines)],  # in order
        "outputs": {name: path.name for name, path in cameras_of(config)[0].outputs.paths()},
        "update_every": None if config.mqtt is None else config.mqtt.update_every,
        "cut": None if cut is None else [cut.seconds, cut.overlap],
        "served": served_models(config),
        "models": [
            [[file.name, _sha256_of_model(file)] for file in _files_of(model, config.device)] for model in models
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files_of(model: Path, device: str) -> list[Path]:
    """The file of a model, and those beside it that are read with it or, on a GPU, instead of it."""
    beside = [model.with_suffix(".json"), model.with_name(f"{model.name}.data")]
    if device != "cpu":
        beside += [model.with_suffix(f".{precision}.onnx") for precision in ("fp16", "int8")]
    return [model, *(file for file in beside if file.is_file())]


def _sha256_of_model(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
