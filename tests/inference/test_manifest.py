"""Manifests: in the file, beside it, and broken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge_tracker.errors import ModelError
from edge_tracker.inference.manifest import METADATA_KEY, ImageInput, ModelManifest, read_manifest
from edge_tracker.inference.onnx import OnnxModel
from tests.graphs import relu

MANIFEST = ModelManifest(
    name="net",
    task="embedder",
    network="none",
    input=ImageInput("x", 8, 4, "NCHW", "float32", "RGB", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    output="y",
    dimension=3,
    classes=("a", "b"),
    source={"file": "net.pt"},
)


def test_round_trip():
    assert ModelManifest.from_json(MANIFEST.to_json(), "here") == MANIFEST


@pytest.mark.parametrize("name", ["net", "net.fp16", "net.int8"])
def test_precisions_share_the_manifest_beside_them(tmp_path, name):
    (tmp_path / "net.json").write_text(MANIFEST.to_json())
    assert read_manifest(tmp_path / f"{name}.onnx", {}) == MANIFEST


def test_a_precision_may_have_its_own(tmp_path):
    half = replace(MANIFEST, precision="fp16")
    (tmp_path / "net.json").write_text(MANIFEST.to_json())
    (tmp_path / "net.fp16.json").write_text(half.to_json())
    assert read_manifest(tmp_path / "net.fp16.onnx", {}) == half


def test_what_the_file_carries_comes_first(tmp_path):
    """A file copied over another keeps telling the truth about itself."""
    (tmp_path / "other.json").write_text(replace(MANIFEST, name="other").to_json())
    path = relu(tmp_path / "other.onnx", {METADATA_KEY: MANIFEST.to_json()})
    assert OnnxModel(path, "cpu").manifest == MANIFEST


def test_other_programs_json_is_none(tmp_path):
    (tmp_path / "net.json").write_text(json.dumps({"resolution": 640}))
    assert read_manifest(tmp_path / "net.onnx", {}) is None
    assert read_manifest(tmp_path / "another.onnx", {}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "not a model manifest"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema 2, this version reads 1"),
        (lambda text: text.replace('"task"', '"job"'), "unknown fields job"),
        (lambda text: text.replace('"name": "net", ', ""), "not a model manifest"),
    ],
)
def test_a_broken_manifest_is_an_error_that_names_it(tmp_path, change, message):
    (tmp_path / "net.json").write_text(change(MANIFEST.to_json()))
    with pytest.raises(ModelError, match=message) as caught:
        read_manifest(tmp_path / "net.onnx", {})
    assert "net.json" in str(caught.value)


def test_a_manifest_that_is_not_text_is_an_error(tmp_path):
    (tmp_path / "net.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="cannot be read"):
        read_manifest(tmp_path / "net.onnx", {})
