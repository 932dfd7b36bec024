"""Model repositories for a Triton server. What a real one makes of them is in tests/inference/test_triton.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from onnx import TensorProto, helper

import export.__main__ as command
from edge_tracker.errors import ModelError
from edge_tracker.inference.manifest import METADATA_KEY
from export.triton import configuration, write_model
from tests.graphs import mean_colour, relu, save_graph


def parsed(text: str):
    """A config.pbtxt as protobuf reads it, by NVIDIA's own description of it."""
    service = pytest.importorskip("tritonclient.grpc.service_pb2", reason="needs the extra 'triton'")
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2").ModelConfig()
    from google.protobuf import text_format

    assert service
    return text_format.Parse(text, config)


def test_a_model_of_open_batch_size_is_batched_by_the_server(tmp_path):
    source = mean_colour(tmp_path / "m.onnx", layout="NHWC", dtype="uint8")
    config = parsed(configuration("mine", source, "model.onnx"))
    assert (config.name, config.backend, config.default_model_filename) == ("mine", "onnxruntime", "model.onnx")
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (16, [8, 4, 3], [3])
    assert config.input[0].name == "images"
    assert config.HasField("dynamic_batching")
    assert config.instance_group[0].count == 1


def test_one_of_fixed_batch_size_is_served_as_it_is(tmp_path):
    source = mean_colour(tmp_path / "m.onnx", batch=4, size=("h", 4))
    config = parsed(configuration("mine", source, "model.plan", 8))
    assert config.backend == "tensorrt"
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [4, 3, -1, 4])
    assert not config.HasField("dynamic_batching")


def test_what_the_file_says_of_itself_goes_along_whatever_is_in_it(tmp_path):
    metadata = {"names": "{0: 'a \"b\" \\ c'}", "author": "Åsa\n\t\x7f", "imgsz": "[640, 640]"}
    config = parsed(configuration('a "name"', relu(tmp_path / "m.onnx", metadata), "model.onnx"))
    assert {key: value.string_value for key, value in config.parameters.items()} == metadata
    assert config.name == 'a "name"'


def test_files_that_cannot_be_served(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"no\.onnx: not an ONNX file"):
        write_model(tmp_path / "repository", "mine", tmp_path / "no.onnx")
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    source = save_graph(tmp_path / "s.onnx", [node], {"x": ("float16", ["n", 3])}, {"y": ("float32", ["n", 3])})
    import onnx

    model = onnx.load(source)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    onnx.save(model, source)
    with pytest.raises(ModelError, match=r"s\.onnx: input x has an element type"):
        write_model(tmp_path / "repository", "mine", source)
    assert not (tmp_path / "repository").exists()


def test_the_older_model_stays_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    source = mean_colour(tmp_path / "m.onnx")
    folder = write_model(tmp_path / "repository", "mine", source)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.triton.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        write_model(tmp_path / "repository", "mine", mean_colour(tmp_path / "n.onnx", batch=2))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_command_line(engines, tmp_path, monkeypatch, capsys):
    repository = tmp_path / "repository"
    arguments = ["--output", str(engines), "--missing", "--triton", str(repository)]
    assert command.main(["mobilenetv2", "yolov3-tiny", *arguments]) == 0
    for name, most, size in (("mobilenetv2", 64, [224, 224, 3]), ("yolov3-tiny", 0, [1, 320, 416, 3])):
        config = parsed((repository / name / "config.pbtxt").read_text())
        assert (config.name, config.max_batch_size, list(config.input[0].dims)) == (name, most, size)
        assert f'"name": "{name}"' in config.parameters[METADATA_KEY].string_value
        assert (repository / name / "1/model.onnx").read_bytes() == (engines / f"{name}.onnx").read_bytes()
    assert sorted(path.name for path in repository.rglob("*")) == sorted(
        ["mobilenetv2", "yolov3-tiny"] + 2 * ["1", "config.pbtxt", "model.onnx"]
    )
    assert command.main(["mobilenetv2", *arguments, "--precision", "fp16"]) == 0
    fp16 = (repository / "mobilenetv2/1/model.onnx").read_bytes()
    assert fp16 == (engines / "mobilenetv2.fp16.onnx").read_bytes()
    capsys.readouterr()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    assert command.main(["mobilenetv2", *arguments, "--triton-format", "plan"]) == 2
    assert re.match(r"error: TensorRT cannot be imported .*\n$", capsys.readouterr().err)
    assert not list(Path(repository).rglob("*.plan"))
