"""Running engines of every TensorRT version, on a fake GPU in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import COMPILING_S

from .conftest import FAKES, ROOT, VERSIONS, run_python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "library"), [*((version, "cuda-bindings") for version in VERSIONS), ("8.6.1", "pycuda")]
)
def test_on_a_fake_gpu(fake_gpu: Callable[..., dict[str, str]], version: str, library: str) -> None:
    environment = fake_gpu(version, FAKE_LIBRARY=library)
    if library == "pycuda":
        environment["PYTHONPATH"] = f"{FAKES / 'pycuda_2026'}:{environment['PYTHONPATH']}"
    elif importlib.util.find_spec("pycuda") is not None:
        pytest.skip("pycuda is installed, and comes first")
    script = str(Path(__file__).with_name("on_fake_gpu.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", script],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMPILING_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


LOST = """
import ctypes, sys
import numpy as np
from edge_tracker.errors import DeviceError
from edge_tracker.inference import load_model
model = load_model(sys.argv[1], "tensorrt")
driver = ctypes.CDLL("libcuda.so.1")
bad = ctypes.c_uint8()
original = model.cuda.handle
def handle(stream):
    # A kernel that writes where it must not: the error comes at the next wait, and then from every call.
    driver.fake_enqueue(ctypes.c_void_p(original(stream)), CALL, None)
    return original(stream)
CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 700)
model.cuda.handle = handle
for _ in range(2):
    try:
        model.run({"images": np.zeros((40, 32, 32, 3), np.uint8)})
    except DeviceError as error:
        print(error)
model.close()
print("closed")
"""


@pytest.mark.slow
def test_a_process_whose_gpu_is_lost_can_exit(fake_gpu: Callable[..., dict[str, str]], toy: Path) -> None:
    done = run_python(LOST, fake_gpu(), str(toy))
    assert done.returncode == 0, done.stderr
    first, second, closed = done.stdout.splitlines()
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in first
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in second
    assert closed == "closed"


@pytest.mark.slow
@pytest.mark.parametrize("count", ["0", "1"])
def test_no_gpu_is_an_error(fake_gpu: Callable[..., dict[str, str]], toy: Path, count: str) -> None:
    script = "import sys; from edge_tracker.inference import load_model; print(load_model(*sys.argv[1:]).device)"
    environment = fake_gpu(FAKE_GPU_COUNT=count)
    wanted = run_python(script, environment, str(toy), "tensorrt")
    best = run_python(script, environment, str(toy), "auto")
    if count == "1":
        assert wanted.stdout == best.stdout == "tensorrt\n"
    else:
        assert "device tensorrt: CUDA: cuInit failed (CUDA_ERROR_NO_DEVICE" in wanted.stderr
        assert best.stdout == "cpu\n"
