"""Building against the API of every TensorRT version that is supported."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_tracker.errors import DeviceError, ModelError
from edge_tracker.inference.builder import EngineOptions, build_plan, import_tensorrt, strongly_typed, trt_logger
from edge_tracker.inference.engines import onnx_source

from .conftest import VERSIONS, import_fake, write_toy


def build(trt: ModuleType, onnx: Path, timings: bytes = b"", progress: Any = None, **options: Any) -> dict[str, Any]:
    """Build as `ensure_engine` does; what the fake was told to build."""
    chosen = EngineOptions(**options)
    source, precision = onnx_source(trt, onnx, chosen.precision)
    plan, _, on_gpu = build_plan(trt, source, precision, chosen, timings, progress or (lambda *_: None))
    head = json.loads(plan.removeprefix(b"fake").split(b"\n")[0])
    return {**head, "on_gpu": on_gpu}


def test_all_seven_versions_are_here() -> None:
    assert sorted(["8.6.1", "10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106"]) == VERSIONS


def test_the_fake_is_strict() -> None:
    trt = import_fake("11.0.0.114")
    builder = trt.Builder(trt_logger(trt))
    config = builder.create_builder_config()
    with pytest.raises(AttributeError):
        trt.BuilderFlag.FP16  # noqa: B018
    with pytest.raises(AttributeError):
        trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH  # noqa: B018
    with pytest.raises(AttributeError):
        config.int8_calibrator = None
    with pytest.raises(AttributeError):
        config.set_flags(1)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1.5)
    with pytest.raises(TypeError):
        config.set_flag(trt.MemoryPoolType.WORKSPACE)
    with pytest.raises(TypeError):
        builder.create_network(network_flags=1)
    with pytest.raises(TypeError):
        trt.Builder(object())
    assert not hasattr(import_fake("8.6.1"), "IProgressMonitor")


def test_precision_comes_from_the_file_or_on_8_from_a_flag(trt: ModuleType, toy: Path) -> None:
    built = build(trt, toy)
    if trt.__version__.startswith("8."):
        assert (built["typed"], built["half"], built["flags"]) == (False, False, ["FP16"])
    else:
        assert (built["typed"], built["half"], built["flags"]) == (True, True, [])


def test_fp32(trt: ModuleType, toy: Path) -> None:
    built = build(trt, toy, precision="fp32")
    assert (built["half"], built["flags"]) == (False, [])


def test_int8_has_a_file_of_its_own(trt: ModuleType, toy: Path) -> None:
    with pytest.raises(ModelError, match=r"toy\.int8\.onnx: no such file"):
        build(trt, toy, precision="int8")
    toy.with_name("toy.int8.onnx").write_bytes(toy.read_bytes())
    assert build(trt, toy, precision="int8")["flags"] == ([] if strongly_typed(trt) else ["FP16", "INT8"])


def test_one_profile_workspace_and_level(trt: ModuleType, toy: Path) -> None:
    built = build(trt, toy, batch=6, typical_batch=2, workspace=300, optimization_level=5)
    assert built["profile"] == {"images": [[n, 32, 32, 3] for n in (1, 2, 6)]}
    assert (built["workspace"], built["level"]) == (300 << 20, 5)
    assert build(trt, toy, batch=3)["profile"]["images"][1][0] == 3, "the typical batch is at most the largest"


def test_a_fixed_batch_needs_no_profile(trt: ModuleType, tmp_path: Path) -> None:
    assert build(trt, write_toy(tmp_path, batch=4))["profile"] == {}


def test_progress_where_there_is_a_monitor(trt: ModuleType, toy: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build(trt, toy, progress=lambda *step: seen.append(step))
    with_monitor = [("Building engine", step, 3) for step in (1, 2, 3)]
    assert seen == ([] if trt.__version__.startswith("8.") else with_monitor)


def test_ctrl_c_stops_a_build(toy: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(import_fake("10.3.0"), toy, progress=interrupt)


def test_ctrl_c_while_tensorrt_computes_stops_a_build(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = import_fake("10.3.0")
    build_network = trt.Builder.build_serialized_network

    def interrupted(*arguments: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
            return build_network(*arguments)
        except KeyboardInterrupt:  # raised on the way into the monitor; to TensorRT it is a build that failed
            return None

    monkeypatch.setattr(trt.Builder, "build_serialized_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(trt, toy)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_hardware_compatibility(trt: ModuleType, toy: Path) -> None:
    assert build(trt, toy)["compatible"] == "NONE"
    assert build(trt, toy, hardware_compatibility="ampere_plus")["compatible"] == "AMPERE_PLUS"
    if trt.__version__ in ("8.6.1", "10.3.0", "10.7.0"):
        with pytest.raises(ModelError, match="has no hardware compatibility SAME_COMPUTE_CAPABILITY"):
            build(trt, toy, hardware_compatibility="same_compute_capability")
    else:
        built = build(trt, toy, hardware_compatibility="same_compute_capability")
        assert built["compatible"] == "SAME_COMPUTE_CAPABILITY"


def test_version_compatibility(trt: ModuleType, toy: Path) -> None:
    assert "VERSION_COMPATIBLE" in build(trt, toy, version_compatible=True)["flags"]


def test_dla(trt: ModuleType, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="DLA core 0 asked for; this machine has 0"):
        build(trt, toy, dla_core=0)
    monkeypatch.setenv("FAKE_DLA_CORES", "2")
    built = build(trt, toy, dla_core=1, batch=4)
    assert (built["dla"], "GPU_FALLBACK" in built["flags"]) == (1, True)
    assert "conv" not in built["on_gpu"]
    assert "relu" in built["on_gpu"], "the fake's DLA runs convolutions only"
    assert built["profile"]["images"] == [[4, 32, 32, 3]] * 3, "a DLA knows one batch size"


def test_timings_of_another_device_are_replaced(trt: ModuleType, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = json.dumps([trt.__version__, "Other", "9.0"]).encode()
    own = json.dumps([trt.__version__, "Orin", "8.7"]).encode()
    for timings in (b"", own, other):
        build(trt, toy, timings)
    monkeypatch.setenv("FAKE_TENSORRT_FAIL", "cache")  # a cache that cannot be read at all
    build(trt, toy, other)


def test_a_file_that_cannot_be_parsed(trt: ModuleType, toy: Path) -> None:
    for file in (toy, toy.with_name("toy.fp16.onnx")):
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ModelError, match=r"cannot parse it \(node 7: Failed to parse ONNX model"):
        build(trt, toy)


def test_a_file_that_cannot_be_built(trt: ModuleType, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_FAIL", "build")
    with pytest.raises(ModelError, match=r"cannot build it \(Could not find any implementation"):
        build(trt, toy)
    monkeypatch.setenv("FAKE_TENSORRT_FAIL", "profile")
    with pytest.raises(ModelError, match="refuses the optimisation profile"):
        build(trt, toy)


def test_sizes_other_than_the_batch_must_be_fixed(trt: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"input images \(-1, -1, -1, 3\) has dynamic sizes"):
        build(trt, write_toy(tmp_path, size="side"))  # type: ignore[arg-type]


def test_a_missing_half_file_is_said(trt: ModuleType, toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy.with_name("toy.fp16.onnx").unlink()
    source, precision = onnx_source(trt, toy, "fp16")
    assert source == toy
    if strongly_typed(trt):
        assert precision == "fp32"
        assert "toy.fp16.onnx is missing, so the engine is FP32" in caplog.text
    else:
        assert (precision, caplog.text) == ("fp16", "")


def test_either_file_may_be_named(trt: ModuleType, toy: Path) -> None:
    half = toy.with_name("toy.fp16.onnx")
    assert onnx_source(trt, half, "fp16") == onnx_source(trt, toy, "fp16")
    toy.unlink()
    assert onnx_source(trt, half, "fp16")[0] == half


def test_unknown_options(trt: ModuleType, toy: Path) -> None:
    with pytest.raises(ModelError, match="unknown precision 'fp8'; one of fp16, fp32, int8"):
        build(trt, toy, precision="fp8")


def test_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceError, match=r"TensorRT cannot be imported .*JetPack.*pip install tensorrt"):
        import_tensorrt()
