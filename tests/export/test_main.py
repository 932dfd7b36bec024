"""`python -m export` from end to end, on a small network of the user's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

import export.__main__ as command
from edge_tracker.embedding import Embedder
from edge_tracker.inference.manifest import METADATA_KEY, ModelManifest
from export import artefacts, graph, parity
from tests.conftest import ROOT
from tests.waiting import COMPILING_S

MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, 24, 3, 2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

def wide():
    return nn.Conv2d(3, 8, 3)

def broken():
    return 7
"""
SIZE = (32, 16)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with the user's module and 24 crops."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mynets.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    (tmp_path / "crops").mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        crop = cv2.resize(rng.integers(0, 256, (4, 2, 3), np.uint8), (20 + i, 50 + i), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "crops" / f"{i:02}.png"), crop)
    return tmp_path


def export(*arguments: str) -> int:
    return command.main([*arguments, "--crops", "crops", "--output", "out"])


def own(*arguments: str) -> int:
    return export("mynets:make", "--name", "mine", "--size", "32x16", *arguments)


def crops() -> list[np.ndarray]:
    return [cv2.imread(str(path)) for path in sorted(Path("crops").glob("*.png"))]


def source(images: list[np.ndarray]) -> np.ndarray:
    from mynets import make

    planes = np.stack([cv2.resize(image, SIZE[::-1])[..., ::-1] for image in images]).astype(np.float32) / 255
    planes = (planes - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    with torch.no_grad():
        return make()(torch.from_numpy(planes.transpose(0, 3, 1, 2).copy())).numpy()


def test_a_network_of_ones_own_becomes_an_embedder_by_name(place, monkeypatch, capsys):
    assert own("--precision", "fp32", "fp16") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "mine.fp16.json", "mine.fp16.onnx", "mine.json", "mine.onnx",
    ]  # fmt: skip
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:4] == ["model", "precision", "opset", "MB"]
    assert [line.split()[:3] for line in table[2:]] == [["mine", "fp32", "17"], ["mine", "fp16", "17"]]

    monkeypatch.setenv("EDGE_TRACKER_ENGINES", "out")
    wanted = source(crops())
    for name, tolerance in (("mine", 1e-5), ("out/mine.fp16.onnx", 5e-3)):
        embedder = Embedder(name, device="cpu")
        assert embedder.dimension == 24
        assert np.abs(np.stack(embedder.predict(crops())) - wanted).max() < tolerance


def test_the_manifest_beside_the_file_and_in_it_says_the_same_and_all_of_it(place):
    assert own("--opset", "16", "--precision", "fp16", "--resize", "pad", "--interpolation", "cubic") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["mine.fp16.json", "mine.fp16.onnx"]
    text = Path("out/mine.fp16.json").read_text()
    manifest = ModelManifest.from_json(text, "out/mine.fp16.json")
    model = onnx.load("out/mine.fp16.onnx")
    inside = next(entry.value for entry in model.metadata_props if entry.key == METADATA_KEY)
    assert json.loads(inside) == json.loads(text)
    assert (manifest.name, manifest.task, manifest.precision, manifest.dimension) == ("mine", "embedder", "fp16", 24)
    assert manifest.opset == graph.opset_of(model) == 16
    assert (manifest.input.height, manifest.input.width) == SIZE
    assert (manifest.input.resize, manifest.input.interpolation) == ("pad", "cubic")
    assert manifest.source == {"function": "mynets:make"}
    assert "0.485" in manifest.preprocessing
    assert {"torch", "onnx", "onnxconverter-common"} <= set(manifest.tools)
    assert manifest.verification["min_cosine"] > 0.999
    assert manifest.verification["on"] == "24 crops from crops, 32 of noise"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("batch", [None, 3])
def test_an_onnx_file_of_ones_own(place, batch):
    from mynets import make

    axes = None if batch else {"pixels": {0: "n"}, "out": {0: "n"}}
    torch.onnx.export(
        make(), (torch.zeros(batch or 2, 3, *SIZE),), "net.onnx", dynamo=False, opset_version=13, dynamic_axes=axes,
        input_names=["pixels"], output_names=["out"],
    )  # fmt: skip
    assert export("net.onnx", "--size", "32x16", "--precision", "fp32", "fp16") == 0
    embedder = Embedder("out/net.onnx", device="cpu")
    assert embedder.model.manifest is not None
    assert embedder.model.manifest.opset == 13
    assert np.abs(np.stack(embedder.predict(crops())) - source(crops())).max() < 1e-5


def test_channel_order_and_scale_of_ones_own(place):
    assert own("--precision", "fp32", "--color", "BGR", "--mean", "0", "0", "0", "--std", *["1/255"] * 3) == 0
    from mynets import make

    planes = np.stack([cv2.resize(image, SIZE[::-1]) for image in crops()]).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        wanted = make()(torch.from_numpy(planes.copy())).numpy()
    given = np.stack(Embedder("out/mine.onnx", device="cpu").predict(crops()))
    assert np.abs(given - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_int8_needs_crops_to_calibrate_on_and_passes_the_same_gate(place, capsys):
    assert own("--precision", "fp32", "int8") == 2
    assert "INT8 is calibrated on your own crops: --calibration FOLDER" in capsys.readouterr().err
    assert own("--precision", "int8", "--calibration", "crops") == 0
    manifest = ModelManifest.from_json(Path("out/mine.int8.json").read_text(), "")
    assert manifest.precision == "int8"
    assert manifest.verification["min_cosine"] >= 0.99
    given = np.stack(Embedder("out/mine.int8.onnx", device="cpu").predict(crops()))
    assert 0 < np.abs(given - source(crops())).max() < 0.1


def test_int8_for_the_cpu_runs_where_it_is_named(place):
    assert own("--precision", "int8-cpu", "--calibration", "crops") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["mine.int8-cpu.json", "mine.int8-cpu.onnx"]
    given = np.stack(Embedder("out/mine.int8-cpu.onnx", device="cpu").predict(crops()))
    assert 0 < np.abs(given - source(crops())).max() < 0.1


def test_what_fails_the_gate_is_not_written_and_the_old_file_stays(place, monkeypatch, capsys):
    assert own() == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    to_fp16 = graph.to_fp16

    def spoiled(model: onnx.ModelProto) -> onnx.ModelProto:
        half = to_fp16(model)
        for tensor in half.graph.initializer:
            if tensor.name.endswith("weight"):
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values + np.float16(0.05), tensor.name))
        return half

    monkeypatch.setattr(graph, "to_fp16", spoiled)
    capsys.readouterr()
    assert own("--opset", "16") == 2
    captured = capsys.readouterr()
    assert "error: mine fp16 does not match its source: " in captured.err
    assert "least cosine of the features is " in captured.err
    after = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert {name for name in before if after[name] != before[name]} == {"mine.onnx", "mine.json"}
    assert [line.split()[1] for line in captured.out.splitlines()[2:]] == ["fp32"]


def complete(folder: Path, pattern: str = "[!.]*") -> list[str]:
    """The embedders in a folder, each checked to be whole."""
    found = []
    for path in sorted(folder.glob(f"{pattern}.onnx")) if folder.exists() else []:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        inside = next(entry.value for entry in model.metadata_props if entry.key == METADATA_KEY)
        assert ModelManifest.from_json(inside, path.name).verification["min_cosine"] > 0.99
        found.append(path.name)
    for path in folder.glob("[!.]*.json") if folder.exists() else []:
        ModelManifest.from_json(path.read_text(), path.name)
    return found


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("owner", "function", "call"),
    [
        (graph, "from_torch", 1),
        (parity, "compare_features", 1),
        (parity, "compare_features", 2),
        (onnx, "save", 1),
        (onnx, "save", 2),
        (Path, "replace", 1),
        (Path, "replace", 2),
        (Path, "replace", 3),
        (artefacts, "_write", 2),
    ],
)
def test_an_interruption_at_any_step_leaves_only_whole_files(place, monkeypatch, old, owner, function, call):
    """The step does half of its work, or all of it, and then Ctrl-C comes."""
    if old:
        assert own() == 0
        before = complete(Path("out"))
    calls = 0
    real: Callable = getattr(owner, function)

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            if function == "save":
                Path(str(arguments[1])).write_bytes(b"half of a mod")
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, interrupted)
        assert own() == 130
    found = complete(Path("out"))
    if old:
        assert found == before
    assert not list(Path("out").glob(".*")) if Path("out").exists() else True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_only_whole_files(place, number):
    script = (
        "import sys, time, onnx, export.__main__ as m\n"
        "real = onnx.save\n"
        "def slow(model, path, *a, **k):\n"
        "    real(model, path, *a, **k)\n"
        "    if m.Path(path).parent.name == 'out':\n"
        "        open(path, 'r+b').truncate(1000); print('half', flush=True); time.sleep(60)\n"
        "onnx.save = slow\n"
        "sys.exit(m.main(sys.argv[1:]))\n"
    )
    arguments = ["mynets:make", "--name", "mine", "--size", "32x16", "--crops", "crops", "--output", "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    process.send_signal(number)
    assert process.wait(COMPILING_S) == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    assert complete(Path("out")) == []
    if number == signal.SIGTERM:
        assert list(Path("out").iterdir()) == []


def test_missing_exports_only_what_is_not_there(place):
    assert own("--precision", "fp32") == 0
    before = Path("out/mine.onnx").stat().st_mtime_ns
    assert own("--precision", "fp32", "--missing") == 0
    assert Path("out/mine.onnx").stat().st_mtime_ns == before
    assert own("--precision", "fp32", "fp16", "--missing") == 0
    assert Path("out/mine.fp16.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonesuch"], "nonesuch: no such model; known are mobilenetv2, mobilenet, "),
        (["there.onnx", "--size", "32x16"], "there.onnx: no such file"),
        (["mynets:make"], "the size of its images is missing; give --size HEIGHTxWIDTH"),
        (["mynets:nothing", "--size", "32x16"], "mynets:nothing: no such function"),
        (["nomodule:make", "--size", "32x16"], "nomodule:make: no such function"),
        (["mynets:broken", "--size", "32x16"], "mynets:broken: returns a int, not a torch.nn.Module"),
        (["mynets:wide", "--size", "32x16"], "gives features (batch, dimension), this network (16, 8, 30, 14)"),
        (["mynets:make", "--size", "32x16", "--name", "mobilenet"], "mobilenet is the name of a known model"),
        (["mynets:make", "--size", "32x16", "--name", "a/b"], "'a/b' is not a valid file name"),
        (["mobilenet", "--weights", "gone.pt"], "gone.pt: no such weights file (given for mobilenetv2)"),
        (["mobilenet", "torchreid", "--weights", "w.pt"], "--weights w.pt: the model is missing"),
        (["mobilenet", "--weights", "torchreid=w.pt"], "torchreid is not among the models to export"),
        (["yolov3-tiny", "--precision", "int8", "--weights", "mynets.py"], "only embedders are exported in INT8"),
        (["mobilenet", "--weights", "mynets.py"], "mynets.py: "),
    ],
)  # fmt: skip
def test_what_the_user_gets_wrong_is_one_line_and_exit_code_2(place, capsys, arguments, complaint):
    assert export(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert complaint in errors[0]


def test_crops_that_cannot_be_read(place, capsys):
    Path("crops/05.png").write_bytes(b"no picture")
    assert own() == 2
    assert "error: crops/05.png: not an image that OpenCV can read" in capsys.readouterr().err
    Path("empty").mkdir()
    assert command.main(["mynets:make", "--size", "32x16", "--crops", "empty", "--output", "out"]) == 2
    assert "error: empty: has no images" in capsys.readouterr().err


def test_weights_that_are_nowhere_are_named_with_where_they_are_published(place, capsys):
    assert export("torchreid", "--weights-dir", "mine") == 2
    complaint = capsys.readouterr().err
    assert "error: osnet_ain_x1_0: no weights. They are the file osnet_ain_" in complaint
    assert "published at http" in complaint
    assert "--weights osnet_ain_x1_0=PATH, or put it into mine or weights" in complaint


def test_one_model_that_fails_does_not_keep_the_others_back(place, capsys):
    assert export("torchreid", "mynets:make", "--name", "mine", "--size", "32x16", "--precision", "fp32") == 2
    assert complete(Path("out")) == ["mine.onnx"]


def test_an_output_folder_that_cannot_be_written(place, capsys):
    Path("out").write_text("a file in the way")
    assert own("--precision", "fp32") == 2
    assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.slow
def test_the_default_models_from_their_published_weights(tmp_path, demo_video, capsys):
    """What `make export` does, on fewer frames."""
    arguments = ["--output", str(tmp_path), "--video", str(demo_video), "--frames", "20"]
    status = command.main(arguments)
    captured = capsys.readouterr()
    if "could not be fetched" in captured.err:
        pytest.skip("needs the weights, which could not be fetched")
    assert status == 0, captured.err
    assert complete(tmp_path, "mobilenetv2*") == ["mobilenetv2.fp16.onnx", "mobilenetv2.onnx"]
    full = ModelManifest.from_json((tmp_path / "mobilenetv2.json").read_text(), "").verification
    half = ModelManifest.from_json((tmp_path / "mobilenetv2.fp16.json").read_text(), "").verification
    assert full["min_cosine"] > 0.99999
    assert full["max_error"] < 1e-4
    assert full["same_neighbour"] == 1
    # Without the biases that export moves it is 0.9992.
    assert half["min_cosine"] > 0.9997
    assert half["same_ids"] >= 0.99
    detector = ModelManifest.from_json((tmp_path / "yolov3-tiny.json").read_text(), "")
    assert (detector.task, detector.detector_format, len(detector.classes)) == ("detector", "yolov5", 80)
    assert detector.verification["max_box_error"] < 0.01
    assert len(captured.out.splitlines()) == 6


def test_the_list_names_every_model_in_no_time(capsys):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "export", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("mobilenetv2", "yolov3-tiny", "osnet_ain_x1_0", "clip_ViT-B-32"):
        assert name in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "onnx", "onnxruntime"}


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m export reid.onnx --name my_reid --size 256x128" in capsys.readouterr().out
