"""Engines through the command line: build, doctor and run, with a GPU (a fake one) and without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.waiting import COMPILING_S

from .conftest import write_toy

CONFIG = """
device: {device}
source: {{uri: "frames/*.png", fps: 10}}
detector: {{mot: det.txt}}
embedder: {{model: {model}, batch: 4}}
outputs: {{mot: tracks.txt}}
tracker: {{method: deepsort}}
"""

Environment = Callable[..., dict[str, str]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a model, a little footage with its detections, and configurations."""
    write_toy(tmp_path)
    (tmp_path / "frames").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for index in range(1, 6):
        cv2.imwrite(str(tmp_path / "frames" / f"{index:06d}.png"), rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
        lines += [f"{index},-1,{10 + index},10,20,40,0.9,-1,-1,-1", f"{index},-1,{60 - index},12,20,40,0.8,-1,-1,-1"]
    (tmp_path / "det.txt").write_text("\n".join(lines))
    for device in ("auto", "cpu", "cuda", "tensorrt"):
        (tmp_path / f"{device}.yaml").write_text(CONFIG.format(device=device, model="toy.onnx"))
    return tmp_path


def edge_tracker(environment: dict[str, str], site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_tracker", *arguments]
    environment = {**environment, "EDGE_TRACKER_ENGINES": str(site)}
    done = subprocess.run(
        command, env=environment, cwd=site, capture_output=True, text=True, timeout=COMPILING_S, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def findings(environment: dict[str, str], site: Path, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = edge_tracker(environment, site, "doctor", "--json", *arguments)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0), done.stderr
    return done.returncode, {finding["what"].strip(): finding for finding in report["findings"]}


@pytest.fixture
def without(fake_gpu: Environment) -> dict[str, str]:
    """A machine without GPU and TensorRT, whatever this one has."""
    environment = fake_gpu()
    environment["PYTHONPATH"] = environment["PYTHONPATH"].split(":", 1)[1]
    return environment | {"LD_LIBRARY_PATH": "", "CUDA_VISIBLE_DEVICES": ""}


# ---- build -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_build_then_run(fake_gpu: Environment, site: Path, version: str) -> None:
    environment = fake_gpu(version, FAKE_BUILD_LOG=str(site / "builds.log"))
    built = edge_tracker(environment, site, "build", "--config", "tensorrt.yaml")
    assert built.returncode == 0, built.stderr
    (engine,) = site.glob("toy.*.engine")
    assert built.stdout == f"{engine}\n"
    assert "building toy.fp16.b4" in built.stderr
    again = edge_tracker(environment, site, "build", "--config", "tensorrt.yaml")
    assert (again.stdout, again.stderr) == (built.stdout, "")
    ran = edge_tracker(environment, site, "run", "--config", "tensorrt.yaml", "--no-build", "-v")
    assert ran.returncode == 0, ran.stderr
    assert "toy.onnx runs on tensorrt" in ran.stderr
    assert len((site / "tracks.txt").read_text().splitlines()) > 4
    assert len((site / "builds.log").read_text().splitlines()) == 1


@pytest.mark.slow
def test_build_where_nothing_can_be_built(without: dict[str, str], fake_gpu: Environment, site: Path) -> None:
    done = edge_tracker(without, site, "build", "--config", "auto.yaml")
    assert done.returncode == 2
    assert "error: TensorRT cannot be imported" in done.stderr
    done = edge_tracker(fake_gpu(FAKE_GPU_COUNT="0"), site, "build", "--config", "auto.yaml")
    assert done.returncode == 2
    assert "CUDA_ERROR_NO_DEVICE" in done.stderr
    done = edge_tracker(fake_gpu(), site, "build", "--config", "cpu.yaml")
    assert done.returncode == 2
    assert "device: cpu runs without engines; set device: tensorrt" in done.stderr
    done = edge_tracker(fake_gpu(FAKE_TENSORRT_FAIL="build"), site, "build", "--config", "auto.yaml")
    assert done.returncode == 2
    assert "cannot build it (Could not find any implementation" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, "one line of what is done, one of what went wrong"


@pytest.mark.slow
def test_the_engine_section_is_used(fake_gpu: Environment, site: Path) -> None:
    settings = [
        "--set",
        "engine.workspace=77",
        "--set",
        "engine.optimization_level=1",
        "--set",
        "engine.precision=fp32",
    ]
    done = edge_tracker(fake_gpu(), site, "build", "--config", "auto.yaml", *settings)
    made = json.loads(Path(f"{done.stdout.strip()}.json").read_text())["requirements"]
    assert (made["flags"], made["precision"], made["profile"]) == ("workspace 77 MiB, level 1", "fp32", "1/4/4")
    done = edge_tracker(fake_gpu(), site, "build", "--config", "auto.yaml", "--set", "engine.dla_core=0")
    assert "DLA core 0 asked for; this machine has 0; leave dla_core out" in done.stderr


# ---- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_missing_engine_is_built_or_asked_for(fake_gpu: Environment, site: Path) -> None:
    refused = edge_tracker(fake_gpu(), site, "--config", "auto.yaml", "--no-build")
    assert refused.returncode == 2
    assert "toy.onnx: there is no engine yet; build it on this machine: edge-tracker build" in refused.stderr
    built = edge_tracker(fake_gpu(), site, "--config", "auto.yaml")
    assert built.returncode == 0, built.stderr
    assert "building toy.fp16.b4" in built.stderr


@pytest.mark.slow
def test_a_stale_engine_is_built_again_or_refused(fake_gpu: Environment, site: Path) -> None:
    edge_tracker(fake_gpu("10.3.0"), site, "build", "--config", "auto.yaml")
    later = fake_gpu("10.7.0")
    refused = edge_tracker(later, site, "--config", "auto.yaml", "--no-build")
    assert refused.returncode == 2
    assert "is stale: library: built for tensorrt 10.3.0, here tensorrt 10.7.0" in refused.stderr
    assert edge_tracker(later, site, "--config", "auto.yaml").returncode == 0
    assert len(list(site.glob("*.engine"))) == 2


@pytest.mark.slow
def test_an_engine_that_is_given_as_a_file(fake_gpu: Environment, site: Path) -> None:
    made = edge_tracker(fake_gpu("10.3.0"), site, "build", "--config", "auto.yaml").stdout.strip()
    engine = Path(made)
    given = ["--config", "auto.yaml", "--set", f"embedder.model={engine.name}"]
    assert edge_tracker(fake_gpu("10.3.0"), site, *given).returncode == 0

    stale = edge_tracker(fake_gpu("11.0.0.114"), site, *given)
    assert stale.returncode == 2
    assert "library: built for tensorrt 10.3.0, here tensorrt 11.0.0.114" in stale.stderr
    other = edge_tracker(fake_gpu("10.3.0", FAKE_GPU_NAME="NVIDIA H100", FAKE_GPU_CAPABILITY="9.0"), site, *given)
    assert other.returncode == 2
    assert "gpu: built for Orin, SM 8.7, here NVIDIA H100, SM 9.0" in other.stderr

    intact = engine.read_bytes()
    engine.write_bytes(intact[:50])
    cut = edge_tracker(fake_gpu("10.3.0"), site, *given)
    assert cut.returncode == 2
    assert f"truncated: 50 bytes, {len(intact)} were built" in cut.stderr
    Path(f"{made}.json").unlink()
    foreign = edge_tracker(fake_gpu("10.3.0"), site, *given)
    assert foreign.returncode == 2
    assert "not an engine that TensorRT 10.3.0 can load (Serialization assertion" in foreign.stderr
    engine.unlink()
    gone = edge_tracker(fake_gpu("10.3.0"), site, *given)
    assert gone.returncode == 2
    assert "no such model file" in gone.stderr


@pytest.mark.slow
def test_a_truncated_engine_of_an_onnx_file_is_built_again(fake_gpu: Environment, site: Path) -> None:
    engine = Path(edge_tracker(fake_gpu(), site, "build", "--config", "auto.yaml").stdout.strip())
    intact = engine.read_bytes()
    engine.write_bytes(intact[:50])
    refused = edge_tracker(fake_gpu(), site, "--config", "auto.yaml", "--no-build")
    assert refused.returncode == 2
    assert f"truncated: 50 bytes, {len(intact)} were built" in refused.stderr
    assert edge_tracker(fake_gpu(), site, "--config", "auto.yaml").returncode == 0
    assert engine.read_bytes() == intact


@pytest.mark.slow
def test_a_gpu_that_is_asked_for_and_not_there(without: dict[str, str], site: Path) -> None:
    wanted = edge_tracker(without, site, "--config", "tensorrt.yaml")
    assert wanted.returncode == 2
    assert "embedder.model: device tensorrt: TensorRT cannot be imported" in wanted.stderr
    assert "JetPack" in wanted.stderr
    wanted = edge_tracker(without, site, "--config", "cuda.yaml")
    assert wanted.returncode == 2
    assert "embedder.model: device cuda: " in wanted.stderr
    assert not (site / "tracks.txt").exists()
    best = edge_tracker(without, site, "--config", "auto.yaml", "--verbose")
    assert best.returncode == 0
    assert "toy.onnx runs on cpu" in best.stderr


def test_out_of_memory_ends_a_run(fake_gpu: Environment, site: Path) -> None:
    done = edge_tracker(fake_gpu(FAKE_GPU_MEMORY="5000"), site, "--config", "tensorrt.yaml")
    assert done.returncode == 2
    assert (
        "embedder.model: CUDA: cuMemAlloc: the GPU is out of memory; close other programs or lower the batch"
        in done.stderr
    )


# ---- doctor ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_doctor_without_a_gpu(without: dict[str, str], site: Path) -> None:
    code, found = findings(without, site)
    assert code == 0
    assert found["GPU"]["value"].startswith("no")
    assert found["TensorRT"]["value"] == "none"
    assert found["CPUExecutionProvider"]["value"] == "works"
    assert {"driver", "CUDA toolkit", "cuDNN", "pycuda", "cuda-bindings", "ONNX Runtime", "OpenCV", "Numba"} <= set(
        found
    )
    assert found["toy.onnx"]["value"] == "no manifest (not from make export)"
    text = edge_tracker(without, site, "doctor").stdout
    assert "ONNX Runtime" in text
    assert "toy.fp16.onnx" in text


@pytest.mark.slow
def test_doctor_with_a_gpu(fake_gpu: Environment, site: Path) -> None:
    _, found = findings(fake_gpu("10.3.0"), site)
    assert found["GPU"]["value"] == "Orin, compute capability 8.7, 8.0 of 8.0 GiB free"
    assert found["TensorRT"]["value"] == "10.3.0"
    assert found["driver"]["value"].endswith("CUDA 13.0")
    _, found = findings(fake_gpu("10.3.0", FAKE_GPU_COUNT="0"), site)
    assert found["GPU"]["problem"].startswith("CUDA: cuInit failed (CUDA_ERROR_NO_DEVICE")


@pytest.mark.slow
def test_doctor_says_what_a_configuration_lacks(without: dict[str, str], fake_gpu: Environment, site: Path) -> None:
    code, found = findings(without, site, "--config", "tensorrt.yaml")
    assert code == 1
    assert found["device tensorrt"]["needed"]
    assert found["device tensorrt"]["problem"].startswith("TensorRT cannot be imported")
    assert "JetPack" in found["device tensorrt"]["fix"]
    assert findings(without, site, "--config", "cuda.yaml")[0] == 1
    assert findings(without, site, "--config", "auto.yaml")[0] == 0
    code, found = findings(without, site, "--config", "cpu.yaml", "--set", "embedder.model=no-such")
    assert code == 1
    assert found["embedder.model"]["problem"].startswith("no model named 'no-such'")

    gpu = fake_gpu("10.3.0")
    code, found = findings(gpu, site, "--config", "tensorrt.yaml")
    assert code == 1
    assert found["device tensorrt"]["problem"] == ""
    assert found["embedder.model, engine"]["problem"].endswith("there is no engine yet")
    assert found["embedder.model, engine"]["fix"].startswith("build it on this machine: edge-tracker build")
    edge_tracker(gpu, site, "build", "--config", "tensorrt.yaml")
    assert findings(gpu, site, "--config", "tensorrt.yaml")[0] == 0
    code, found = findings(fake_gpu("10.7.0"), site, "--config", "tensorrt.yaml")
    assert code == 1
    assert "built for tensorrt 10.3.0, here tensorrt 10.7.0" in found["embedder.model, engine"]["problem"]


@pytest.mark.slow
def test_doctor_says_which_engines_are_good(fake_gpu: Environment, without: dict[str, str], site: Path) -> None:
    gpu = fake_gpu("10.3.0")
    name = Path(edge_tracker(gpu, site, "build", "--config", "auto.yaml").stdout.strip()).name
    _, found = findings(gpu, site)
    assert found[name]["value"] == "tensorrt 10.3.0, Orin, SM 8.7, fp16, batch 1/4/4"
    assert findings(without, site)[1][name]["value"].endswith("whether it fits cannot be checked here")
    _, found = findings(fake_gpu("10.7.0"), site)
    assert found[name]["value"] == "not usable"
    assert "built for tensorrt 10.3.0, here tensorrt 10.7.0" in found[name]["problem"]
    (site / name).write_bytes(b"cut")
    (site / "strange.engine").write_bytes(b"?")
    (site / "broken.onnx").write_bytes(b"junk" * 9)
    _, found = findings(gpu, site)
    assert "truncated: 3 bytes" in found[name]["problem"]
    assert found["strange.engine"]["value"] == "no manifest (not built by edge-tracker)"
    assert "not an ONNX file" in found["broken.onnx"]["problem"]


def test_doctor_finds_both_onnx_runtimes(without: dict[str, str], site: Path) -> None:
    twin = site / "site" / "onnxruntime_gpu-1.0.dist-info"
    twin.mkdir(parents=True)
    (twin / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.0\n")
    environment = without | {"PYTHONPATH": f"{without['PYTHONPATH']}:{site / 'site'}"}
    _, found = findings(environment, site)
    assert "both installed" in found["ONNX Runtime"]["problem"]
    assert found["ONNX Runtime"]["fix"].startswith("pip uninstall onnxruntime onnxruntime-gpu")


@pytest.mark.slow
def test_doctor_with_a_configuration_that_is_wrong(without: dict[str, str], site: Path) -> None:
    (site / "wrong.yaml").write_text("device: gpu\n")
    done = edge_tracker(without, site, "doctor", "--config", "wrong.yaml")
    assert done.returncode == 2
    assert "device" in done.stderr
    assert edge_tracker(without, site, "doctor", "--set", "device=cpu").returncode == 2
