"""Real engines: TensorRT-RTX builds them without a GPU, through the same code. (Running them takes a GPU.)"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_tracker.errors import ModelError
from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.cuda import Gpu
from edge_tracker.inference.engines import ensure_engine, load_engine_bytes, read_engine_manifest
from edge_tracker.inference.manifest import read_manifest
from tests.waiting import COMPILING_S

from .conftest import write_toy

pytestmark = [
    # It says so of its timing cache, which does nothing there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NO_GPU = Gpu("no GPU", "8.9")


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")


def is_engine(path: Path) -> bool:
    return path.read_bytes()[:4] == b"vtrt"


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ["mobilenetv2", "yolov3-tiny"])
def test_the_default_models(rtx: ModuleType, engines: Path, tmp_path: Path, name: str, precision: str) -> None:
    for file in engines.glob(f"{name}*.onnx"):
        shutil.copy(file, tmp_path)
    onnx = tmp_path / f"{name}.onnx"
    steps: list[tuple[str, int, int]] = []
    options = EngineOptions(precision=precision, batch=16 if name == "mobilenetv2" else 1)
    engine = ensure_engine(onnx, options, trt=rtx, gpu=NO_GPU, progress=lambda *step: steps.append(step))
    assert is_engine(engine)
    assert all(1 <= step <= total for _, step, total in steps)
    assert {"Building engine", "Optimizing graph"} <= {phase for phase, _, _ in steps}
    halves = {suffix: (tmp_path / f"{name}{suffix}.onnx").stat().st_size for suffix in (".fp16", "")}
    size = engine.stat().st_size
    assert (size < halves[""]) == (precision == "fp16"), "the FP16 engine has FP16 weights"
    manifest = read_engine_manifest(engine)
    assert manifest is not None
    assert manifest.requirements["library"] == f"tensorrt_rtx {rtx.__version__}"
    described = read_manifest(engine, manifest.metadata)
    assert described is not None
    assert described.name == name
    assert described.precision == precision
    assert ensure_engine(onnx, options, build=False, trt=rtx, gpu=NO_GPU) == engine


def test_real_files_stale_truncated_foreign(rtx: ModuleType, tmp_path: Path) -> None:
    onnx = write_toy(tmp_path)

    def ensure(build: bool = True, gpu: Gpu = NO_GPU, **options: Any) -> Path:
        return ensure_engine(onnx, EngineOptions(**options), build=build, trt=rtx, gpu=gpu)

    engine = ensure()
    assert is_engine(engine)
    intact = engine.read_bytes()
    engine.write_bytes(intact[:-100])
    with pytest.raises(ModelError, match=f"truncated: {len(intact) - 100} bytes, {len(intact)} were built"):
        ensure(build=False)
    assert ensure() == engine
    assert load_engine_bytes(engine)[1] is not None

    with pytest.raises(ModelError, match=r"gpu: built for no GPU, SM 8\.9, here other, SM 12\.0"):
        ensure(build=False, gpu=Gpu("other", "12.0"))
    with pytest.raises(ModelError, match="profile: built for 1/8/16, here 1/2/2"):
        ensure(build=False, batch=2)
    assert is_engine(ensure(batch=2, version_compatible=False, optimization_level=1, workspace=64))
    assert (tmp_path / f"timing.tensorrt_rtx-{rtx.__version__}.cache").stat().st_size > 0


def test_a_model_that_rtx_cannot_parse(rtx: ModuleType, tmp_path: Path) -> None:
    onnx = write_toy(tmp_path)
    for path in (onnx, onnx.with_name("toy.fp16.onnx")):
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ModelError, match=r"toy\.fp16\.onnx: TensorRT .* cannot parse it \(.+\)"):
        ensure_engine(onnx, EngineOptions(), trt=rtx, gpu=NO_GPU)


BUILD = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import tensorrt_rtx
from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.cuda import Gpu
from edge_tracker.inference.engines import ensure_engine
print("ready", flush=True)
def progress(*step):
    print(*step, flush=True)
options = EngineOptions(batch=int(sys.argv[2]))
print(ensure_engine(Path(sys.argv[1]), options, trt=tensorrt_rtx, gpu=Gpu("no GPU", "8.9"), progress=progress))
"""


def start(onnx: Path, batch: int = 16) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(onnx), str(batch)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_stops_a_real_build(rtx: ModuleType, engines: Path, tmp_path: Path) -> None:
    for file in engines.glob("mobilenetv2*.onnx"):
        shutil.copy(file, tmp_path)
    process = start(tmp_path / "mobilenetv2.onnx")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Cloning network graph"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=COMPILING_S)
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert not list(tmp_path.glob("*.engine*"))


@pytest.mark.slow
def test_two_processes_build_a_real_engine_once(rtx: ModuleType, engines: Path, tmp_path: Path) -> None:
    for file in engines.glob("mobilenetv2*.onnx"):
        shutil.copy(file, tmp_path)
    both = [start(tmp_path / "mobilenetv2.onnx") for _ in range(2)]
    outputs = [process.communicate(timeout=COMPILING_S)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(any("Building engine" in line for line in lines) for lines in outputs) == [False, True]
    manifest = json.loads(Path(f"{outputs[0][-1]}.json").read_text())
    assert manifest["requirements"]["profile"] == "1/8/16"
