"""Toy networks, and the fakes of TensorRT and of the CUDA driver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.waiting import COMPILING_S

FAKES = Path(__file__).parent / "fakes"
ROOT = Path(__file__).parents[2]
VERSIONS = sorted(path.stem for path in (FAKES / "tensorrt_api").glob("*.json"))


def write_toy(folder: Path, name: str = "toy", *, batch: int | str = "batch", size: int = 32, **metadata: str) -> Path:
    """A small embedder as `export` would leave it: NAME.onnx and NAME.fp16.onnx, uint8 images to 8 features."""
    from onnx import TensorProto, helper

    from tests.graphs import TYPES, save_graph

    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 3, 3, 3)) / 255
    for suffix, dtype in ((".fp16", "float16"), ("", "float32")):
        nodes = [
            helper.make_node("Cast", ["images"], ["x"], to=TYPES[dtype], name="cast"),
            helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2], name="planes"),
            helper.make_node("Conv", ["y", "w"], ["z"], strides=[2, 2], name="conv"),
            helper.make_node("Relu", ["z"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["q"], name="flatten"),
            helper.make_node("Cast", ["q"], ["features"], to=TensorProto.FLOAT, name="uncast"),
        ]
        inputs, outputs = {"images": ("uint8", [batch, size, size, 3])}, {"features": ("float32", [batch, 8])}
        save_graph(folder / f"{name}{suffix}.onnx", nodes, inputs, outputs, {"w": weights.astype(dtype)}, metadata)
    return folder / f"{name}.onnx"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path)


def import_fake(version: str) -> ModuleType:
    """The strict fake of one TensorRT version."""
    path = FAKES / "tensorrt" / "__init__.py"
    spec = importlib.util.spec_from_file_location("tensorrt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_TENSORRT", version)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> ModuleType:
    """The strict fake of each TensorRT version in turn."""
    return import_fake(request.param)


@pytest.fixture(scope="session")
def fake_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake CUDA driver and edge-tracker's kernels for the CPU."""
    folder = tmp_path_factory.mktemp("fake-cuda")
    compile_it = ["g++", "-shared", "-fPIC", "-O2", "-std=c++17", "-Wall", "-Werror"]
    kernels = ROOT / "edge_tracker" / "embedding" / "crops.cu"
    try:
        for command in (
            [
                *compile_it,
                str(FAKES / "driver.cpp"),
                "-o",
                str(folder / "libcuda.so.1"),
                "-Wl,-soname,libcuda.so.1",
                "-ldl",
            ],
            [*compile_it, f'-DKERNELS="{kernels}"', str(FAKES / "kernels.cpp"), "-o", str(folder / "kernels.so")],
        ):
            subprocess.run(command, check=True)
    except FileNotFoundError:
        pytest.skip("needs g++ to compile the fake CUDA driver")
    return folder


@pytest.fixture
def fake_gpu(fake_libraries: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Makes the environment of a process that finds a GPU and TensorRT of some version: both fakes."""

    def environment(version: str = "10.3.0", **settings: str) -> dict[str, str]:
        paths = [str(FAKES), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "LD_LIBRARY_PATH": f"{fake_libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "PYTHONPATH": ":".join(filter(None, paths)),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "FAKE_KERNELS": str(fake_libraries / "kernels.so"),
            "FAKE_TENSORRT": version,
            **settings,
        }

    return environment


def run_python(script: str, environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMPILING_S,
        check=False,
    )
