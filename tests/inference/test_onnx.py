"""Models on ONNX Runtime: what they say of themselves, devices, and files that are none."""

from __future__ import annotations

import builtins
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_tracker.errors import DeviceError, ModelError
from edge_tracker.inference import load_model
from edge_tracker.inference import onnx as backend
from edge_tracker.inference.onnx import OnnxModel
from tests.graphs import mean_colour, relu


def test_a_model_says_what_it_takes_and_gives(tmp_path):
    model = OnnxModel(relu(tmp_path / "relu.onnx", {"author": "somebody"}), "cpu")
    assert model.device == "cpu"
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, x.shape, x.dtype) == ("x", (None, 3), np.float32)
    assert str(y) == "y (?, 3) float32"
    assert model.metadata == {"author": "somebody"}
    assert model.manifest is None
    (answer,) = model.run({"x": np.array([[-1, 0, 2]], np.float32)})
    np.testing.assert_array_equal(answer, [[0, 0, 2]])


def test_a_closed_model_does_not_run(tmp_path):
    model = OnnxModel(relu(tmp_path / "relu.onnx"), "cpu")
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model.run({"x": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize(
    "feeds", [{"x": np.zeros((1, 4), np.float32)}, {"x": np.zeros((1, 3))}, {"z": np.zeros((1, 3), np.float32)}, {}]
)
def test_arrays_that_do_not_fit_are_an_error_of_one_line(tmp_path, feeds):
    model = OnnxModel(relu(tmp_path / "relu.onnx"), "cpu")
    with pytest.raises(ModelError, match=r"relu.onnx: running the model on cpu failed \(.+\)") as caught:
        model.run(feeds)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08" + bytes(1000)])
def test_a_corrupt_file_is_an_error_of_one_line(tmp_path, content, capfd):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad.onnx: not a usable ONNX model") as caught:
        load_model(path, "cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_is_an_error(tmp_path):
    path = relu(tmp_path / "relu.onnx")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        load_model(path, "cpu")


def test_unknown_devices_are_refused(tmp_path):
    path = relu(tmp_path / "relu.onnx")
    for load in (load_model, OnnxModel):
        with pytest.raises(DeviceError, match="unknown device 'gpu'; one of auto, cpu, cuda, tensorrt"):
            load(path, "gpu")


def test_without_onnx_runtime_the_error_says_what_to_install(tmp_path, monkeypatch):
    def no_onnxruntime(name, *arguments, **keywords):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *arguments, **keywords)

    path, real = relu(tmp_path / "relu.onnx"), builtins.__import__
    monkeypatch.setattr(builtins, "__import__", no_onnxruntime)
    with pytest.raises(DeviceError, match=r"pip install 'edge-tracker\[cpu\]'.*never both"):
        OnnxModel(path)


def test_nothing_is_reported_to_anyone(tmp_path):
    """ONNX Runtime's wheels make themselves an identity in the cache for what they report, unless told not to."""
    path = relu(tmp_path / "relu.onnx")
    told = {"ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME", "CI", "GITHUB_ACTIONS"}
    run = subprocess.run(
        [sys.executable, "-c", f"from edge_tracker.inference import load_model; load_model({str(path)!r}, 'cpu')"],
        env={**{key: value for key, value in os.environ.items() if key not in told}, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.rglob("*icrosoft*"))


def test_threads(tmp_path):
    path = relu(tmp_path / "relu.onnx")
    options = OnnxModel(path, "cpu", threads=3)._session.get_session_options()
    assert options.intra_op_num_threads == 3
    options = OnnxModel(path, "cpu")._session.get_session_options()
    assert options.intra_op_num_threads == len(os.sched_getaffinity(0))


@pytest.mark.skipif("CUDAExecutionProvider" in backend.onnxruntime().get_available_providers(), reason="built for GPUs")
def test_a_gpu_that_onnx_runtime_was_not_built_for_is_refused_and_auto_takes_the_cpu(tmp_path, caplog):
    path = relu(tmp_path / "relu.onnx")
    with pytest.raises(DeviceError, match=r"device cuda: .*no CUDAExecutionProvider.*edge-tracker\[gpu\]"):
        OnnxModel(path, "cuda")
    with pytest.raises(DeviceError, match="device tensorrt: "):
        OnnxModel(path, "tensorrt")
    with caplog.at_level(logging.INFO):
        assert OnnxModel(path).device == "cpu"
    assert "relu.onnx runs on cpu" in caplog.text


class FakeRuntime:
    """ONNX Runtime's GPU package on a machine where some of its providers do not work.

    Args:
        broken: providers that are listed, but with which sessions silently run on the CPU.
        failing: providers that raise.
    """

    __version__ = "1.99"

    def __init__(self, folder, broken=(), failing=()):
        self.__file__ = str(folder / "__init__.py")
        self.broken, self.failing, self.opened = broken, failing, []
        self.SessionOptions = backend.onnxruntime().SessionOptions

    def get_available_providers(self):
        return list(backend.PROVIDERS.values())

    def set_default_logger_severity(self, level):
        self.severity = level

    def preload_dlls(self):
        print("Failed to load libcudnn.so.9")

    def InferenceSession(self, path, options, providers, enable_fallback):
        assert enable_fallback == 0
        names = [name for name, _ in providers]
        self.opened.append(names)
        if names[0] in self.failing:
            raise RuntimeError("CUDA failure 100:\nno CUDA-capable device is detected")
        working = [name for name in names if name not in self.broken]
        return SimpleNamespace(
            get_providers=lambda: working,
            get_inputs=list,
            get_outputs=list,
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
        )


@pytest.fixture
def fake(tmp_path, monkeypatch):
    def install(**arguments):
        runtime = FakeRuntime(tmp_path, **arguments)
        monkeypatch.setattr(backend, "onnxruntime", lambda: runtime)
        return runtime

    return install


def test_a_provider_that_silently_falls_back_is_found_out(tmp_path, fake, capfd):
    runtime = fake(broken=("CUDAExecutionProvider",))
    path = relu(tmp_path / "relu.onnx")
    with pytest.raises(DeviceError, match=r"device cuda: .*libonnxruntime_providers_cuda.so is missing"):
        OnnxModel(path, "cuda")
    # Its library is there, but wants another that is not, as cuDNN may.
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir()
    library.write_bytes(b"no library")
    backend._unloadable.cache_clear()
    with pytest.raises(DeviceError, match=r"device cuda: CUDAExecutionProvider does not load \(.+\)"):
        OnnxModel(path, "cuda")
    assert capfd.readouterr() == ("", "")
    assert runtime.severity == 2


def test_a_provider_that_fails_is_refused_with_its_own_words(tmp_path, fake, monkeypatch):
    fake(failing=("CUDAExecutionProvider",))
    monkeypatch.setattr(backend, "_unloadable", lambda *_: "")
    with pytest.raises(DeviceError, match="device cuda: CUDA failure 100: no CUDA-capable device is detected"):
        OnnxModel(relu(tmp_path / "relu.onnx"), "cuda")


def test_auto_takes_the_best_that_works_and_logs_why_not_the_others(tmp_path, fake, monkeypatch, caplog):
    monkeypatch.setattr(backend, "_unloadable", lambda _, device: f"{device} is ill")
    path = relu(tmp_path / "relu.onnx")
    caplog.set_level(logging.INFO)

    runtime = fake()
    assert OnnxModel(path).device == "tensorrt"
    assert runtime.opened == [["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]]

    fake(broken=("TensorrtExecutionProvider",))
    assert OnnxModel(path).device == "cuda"
    assert "runs on cuda; device tensorrt: tensorrt is ill" in caplog.text

    fake(broken=("TensorrtExecutionProvider",), failing=("CUDAExecutionProvider",))
    assert OnnxModel(path).device == "cpu"
    assert "runs on cpu; device tensorrt: tensorrt is ill; device cuda: cuda is ill" in caplog.text


def test_the_fp16_file_is_for_gpus(tmp_path, fake):
    path = relu(tmp_path / "net.onnx")
    relu(tmp_path / "net.fp16.onnx")
    assert load_model(path, "cpu", prefer_half=True).path == path
    fake()
    assert load_model(path, "cuda", prefer_half=True).path.name == "net.fp16.onnx"
    assert load_model(path, "cuda").path == path
    fake(broken=("TensorrtExecutionProvider", "CUDAExecutionProvider"))
    assert load_model(path, "auto", prefer_half=True).path == path


def test_memory_does_not_grow_with_runs(tmp_path):
    """The arena is kept, so that sessions must not gather memory from one batch size to the next."""
    model = OnnxModel(mean_colour(tmp_path / "mean.onnx", size=(224, 224)), "cpu")
    images = np.zeros((8, 3, 224, 224), np.float32)

    def resident() -> int:
        """Without pages of files, which come and go by themselves."""
        (kib,) = re.findall(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
        return int(kib) * 1024

    for count in range(1, 9):
        model.run({"images": images[:count]})
    before = resident()
    for count in list(range(1, 9)) * 20:
        model.run({"images": images[:count]})
    assert resident() - before < 20e6
