"""Finding model files by name."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

from edge_tracker.errors import ModelError

SUFFIXES = (".onnx", ".engine")


def model_folders() -> list[Path]:
    """The folders searched for models, in order: $EDGE_TRACKER_ENGINES, ./engines, the user's data folder."""
    chosen = os.environ.get("EDGE_TRACKER_ENGINES")
    folders = [Path(chosen).expanduser()] if chosen else []
    return [*folders, Path("engines"), user_data_path("edge-tracker") / "engines"]


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a model given by name ("mobilenetv2") or by path ("models/person.onnx").

    Anything that ends in .onnx or .engine is a path; anything else is a name. A "/" in a name is "-" in the file's name
    ("clip_ViT-B/32" is clip_ViT-B-32.onnx). If a folder has both, the ONNX file is used, not the engine.

    Raises:
        ModelError: no such file; lists the folders searched and the command that makes it.
    """
    given = os.fspath(name_or_path)
    path = Path(given).expanduser()
    if path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise ModelError(f"{given}: no such model file")
        return path
    name = given.replace("/", "-")
    folders = model_folders()
    for folder in folders:
        for suffix in SUFFIXES:
            candidate = folder / f"{name}{suffix}"
            if candidate.is_file():
                return candidate
    if path.is_file():
        raise ModelError(f"{given}: not a model file; models end in {' or '.join(SUFFIXES)}")
    looked = ", ".join(str(folder) for folder in folders)
    raise ModelError(
        f"no model named {given!r} in {looked}; `make export MODELS={given}` makes it if it is a known one"
    )
