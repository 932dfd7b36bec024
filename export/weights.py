"""The weights of a network: a given file, a file in a folder, or a download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pooch

from edge_tracker.errors import ModelError
from export.families import Detector, Embedder
from export.fetch import fetch

FOLDER = Path("weights")


def locate(model: Embedder | Detector, given: Mapping[str, Path], folders: Sequence[Path]) -> Path:
    """The weights file of a model.

    Args:
        model: the model.
        given: files that the user named, by model name.
        folders: searched for the published file names, before `./weights`. If they are in none, the file is fetched, if
            a source is known.

    Raises:
        ModelError: they were not found; names the file, its place of publication, and the option to give it.
        FetchError: none of its sources has it.
    """
    if model.name in given:
        path = given[model.name]
        if not path.is_file():
            raise ModelError(f"{path}: no such weights file (given for {model.name})")
        return path
    weights = model.weights
    places = [*folders, FOLDER]
    names = (weights.file, *weights.others)
    for candidate in (folder / name for folder in places for name in names):
        if candidate.is_file():
            return candidate
    option = f"--weights {model.name}=PATH"
    if weights.sources:
        return fetch(weights.file, weights.sha256, weights.sources, f"Download it yourself and pass it with {option}")
    checksum = f" (SHA-256 {weights.sha256})" if weights.sha256 else ""
    raise ModelError(
        f"{model.name}: no weights. They are the file {' or '.join(names)}{checksum}, published at "
        f"{weights.published}. Pass it with {option}, or put it into {' or '.join(map(str, places))}"
    )


def source_of(model: Embedder | Detector, path: Path) -> dict[str, str]:
    """The origin of the weights, for a manifest."""
    checksum = pooch.file_hash(str(path))
    source = {"file": path.name, "sha256": checksum}
    if checksum == model.weights.sha256:
        source |= {"published": model.weights.published, "licence": model.weights.licence}
    elif model.weights.sha256:
        source["published"] = f"not the published {model.weights.file}"
    else:
        source["published"] = f"not known; weights of this network are at {model.weights.published}"
    return source
