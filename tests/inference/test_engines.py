"""Engines by name: what they depend on, when they are stale, broken, or built by two at once."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_tracker.errors import ModelError
from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.cuda import Gpu
from edge_tracker.inference.engines import (
    check_fits,
    ensure_engine,
    load_engine_bytes,
    manifest_path,
    read_engine_manifest,
)
from edge_tracker.inference.manifest import METADATA_KEY, ImageInput, ModelManifest, onnx_metadata, read_manifest
from tests.waiting import COMPILING_S, wait_for

from .conftest import FAKES, import_fake, write_toy

ORIN = Gpu("Orin", "8.7")
MANIFEST = ModelManifest("toy", "embedder", "toy", ImageInput("images", 32, 32), "features", dimension=8)


@pytest.fixture
def trt10() -> ModuleType:
    return import_fake("10.3.0")


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the builds so far."""
    log = tmp_path / "builds.log"
    monkeypatch.setenv("FAKE_BUILD_LOG", str(log))
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def ensure(onnx: Path, trt: ModuleType, gpu: Gpu = ORIN, build: bool = True, **options: Any) -> Path:
    return ensure_engine(onnx, EngineOptions(**options), build=build, trt=trt, gpu=gpu)


def test_built_once_and_recognised(trt10: ModuleType, toy: Path, builds: Callable[[], int]) -> None:
    first = ensure(toy, trt10)
    assert first.parent == toy.parent
    assert first.name.startswith("toy.fp16.b16.trt10.3.0.")
    assert ensure(toy, trt10) == ensure(toy, trt10, build=False) == first
    assert builds() == 1
    manifest = read_engine_manifest(first)
    assert manifest is not None
    assert manifest.size == first.stat().st_size
    assert manifest.requirements == {
        "onnx": manifest.requirements["onnx"],
        "library": "tensorrt 10.3.0",
        "gpu": "Orin, SM 8.7",
        "precision": "fp16",
        "profile": "1/8/16",
        "flags": "workspace 1024 MiB, level 3",
    }
    assert not [path for path in toy.parent.iterdir() if path.name.startswith(".toy")], "no partial files are left"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"precision": "fp32"}, "precision"),
        ({"batch": 4}, "profile"),
        ({"typical_batch": 4}, "profile"),
        ({"workspace": 64}, "flags"),
        ({"optimization_level": 1}, "flags"),
        ({"hardware_compatibility": "ampere_plus"}, "gpu"),
        ({"version_compatible": True}, "library"),
    ],
)
def test_every_option_makes_another_engine(
    trt10: ModuleType, toy: Path, options: dict[str, Any], key: str, builds: Callable[[], int]
) -> None:
    one, other = ensure(toy, trt10), ensure(toy, trt10, **options)
    assert one != other
    assert builds() == 2
    a, b = read_engine_manifest(one), read_engine_manifest(other)
    assert a is not None
    assert b is not None
    assert a.requirements[key] != b.requirements[key]


def test_dla_is_in_the_name_too(trt10: ModuleType, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DLA_CORES", "2")
    paths = [ensure(toy, trt10, dla_core=core) for core in (0, 1)]
    assert paths[0] != paths[1]
    manifest = read_engine_manifest(paths[0])
    assert manifest is not None
    assert "relu" in manifest.on_gpu


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("tensorrt", "library: built for tensorrt 10.3.0, here tensorrt 10.7.0"),
        ("gpu", "gpu: built for Orin, SM 8.7, here NVIDIA H100, SM 9.0"),
        ("onnx", "onnx: built for "),
        ("options", "profile: built for 1/8/16, here 1/4/4"),
    ],
)
def test_stale(trt10: ModuleType, toy: Path, builds: Callable[[], int], change: str, says: str) -> None:
    old = ensure(toy, trt10)
    trt = import_fake("10.7.0") if change == "tensorrt" else trt10
    gpu = Gpu("NVIDIA H100", "9.0") if change == "gpu" else ORIN
    options = {"batch": 4} if change == "options" else {}
    if change == "onnx":
        write_toy(toy.parent, version="2")
    with pytest.raises(ModelError) as refused:
        ensure(toy, trt, gpu, build=False, **options)
    assert f"{old.name} is stale" in str(refused.value)
    assert says in str(refused.value)
    assert "edge-tracker build" in str(refused.value)
    assert ensure(toy, trt, gpu, **options) != old
    assert builds() == 2


def test_missing_and_not_to_be_built(trt10: ModuleType, toy: Path, builds: Callable[[], int]) -> None:
    with pytest.raises(ModelError, match=r"toy\.onnx: there is no engine yet; build it.*edge-tracker build"):
        ensure(toy, trt10, build=False)
    assert builds() == 0


@pytest.mark.parametrize("damage", ["truncated", "changed", "no manifest", "bad manifest", "old schema"])
def test_broken_files_are_built_again(trt10: ModuleType, toy: Path, builds: Callable[[], int], damage: str) -> None:
    engine = ensure(toy, trt10)
    intact = engine.read_bytes()
    says = {
        "truncated": f"truncated: {len(intact) // 2} bytes, {len(intact)} were built",
        "changed": "not the file that was built",
        "no manifest": "has no manifest; its build was cut short",
        "bad manifest": "not an engine's manifest",
        "old schema": "schema 0, this version reads 1",
    }[damage]
    if damage == "truncated":
        engine.write_bytes(intact[: len(intact) // 2])
    elif damage == "changed":
        engine.write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
    elif damage == "no manifest":
        manifest_path(engine).unlink()
    elif damage == "bad manifest":
        manifest_path(engine).write_text('{"schema": 1, "what": 2}')
    else:
        manifest_path(engine).write_text(manifest_path(engine).read_text().replace('"schema": 1', '"schema": 0', 1))
    ensure(toy, trt10, batch=2)  # another engine of the model is not what is wrong
    with pytest.raises(ModelError, match=says) as refused:
        ensure(toy, trt10, build=False)
    assert str(refused.value).count("edge-tracker build") == 1
    assert ensure(toy, trt10) == engine
    assert builds() == 3
    assert load_engine_bytes(engine)[0] == intact


def test_nothing_is_left_of_a_build_that_fails(trt10: ModuleType, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(toy.parent.iterdir())
    monkeypatch.setenv("FAKE_TENSORRT_FAIL", "build")
    with pytest.raises(ModelError):
        ensure(toy, trt10)
    assert [path for path in sorted(toy.parent.iterdir()) if path.name != ".build.lock"] == before


def test_a_folder_that_cannot_be_written(trt10: ModuleType, tmp_path: Path) -> None:
    onnx = write_toy(tmp_path)
    (tmp_path / ".build.lock").mkdir()  # stands for a read-only folder, which root can write to
    with pytest.raises(ModelError, match="no engine can be written there"):
        ensure(onnx, trt10)


def test_two_threads_build_once(
    trt10: ModuleType, toy: Path, builds: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BUILD_SECONDS", "0.5")
    threads = [threading.Thread(target=ensure, args=(toy, trt10)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds() == 1


TWO = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import tensorrt
from edge_tracker.inference.builder import EngineOptions
from edge_tracker.inference.cuda import Gpu
from edge_tracker.inference.engines import ensure_engine
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
print(ensure_engine(Path(sys.argv[1]), EngineOptions(), trt=tensorrt, gpu=Gpu("Orin", "8.7")))
"""


def test_two_processes_build_once(toy: Path, builds: Callable[[], int], tmp_path: Path) -> None:
    go_on, logs = tmp_path / "go on", [tmp_path / "0.log", tmp_path / "1.log"]
    environment = os.environ | {"FAKE_TENSORRT": "10.3.0", "FAKE_BUILD_UNTIL": str(go_on)}
    command = [sys.executable, "-c", TWO, str(toy), str(FAKES)]
    both = []
    for path in logs:
        with path.open("w") as log:
            both.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True))

    def waiting() -> int:
        return sum("waiting for another process" in path.read_text() for path in logs)

    wait_for(waiting, seconds=COMPILING_S)
    go_on.touch()
    answers = [process.communicate(timeout=COMPILING_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    assert builds() == 1
    assert waiting() == 1


def test_a_builder_that_is_killed_blocks_nobody(toy: Path, builds: Callable[[], int]) -> None:
    environment = os.environ | {"FAKE_TENSORRT": "10.3.0", "FAKE_BUILD_SECONDS": "60"}
    process = subprocess.Popen(
        [sys.executable, "-c", TWO, str(toy), str(FAKES)], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "building toy" in process.stderr.readline()
    process.kill()
    process.communicate(timeout=COMPILING_S)
    assert ensure(toy, import_fake("10.3.0")).is_file()
    assert builds() == 1


def test_fits(trt10: ModuleType, toy: Path) -> None:
    """An engine that is given as a file is compared with the machine alone."""
    later, eleven, h100 = import_fake("10.13.3.9"), import_fake("11.0.0.114"), Gpu("NVIDIA H100", "9.0")
    super_, nano = Gpu("Orin Nano Super", "8.7"), Gpu("Tegra X1", "5.3")

    def fits(engine: Path, trt: ModuleType, gpu: Gpu) -> str:
        manifest = read_engine_manifest(engine)
        assert manifest is not None
        try:
            check_fits(engine, manifest, trt, gpu)
        except ModelError as error:
            return str(error)
        return ""

    plain = ensure(toy, later)
    assert fits(plain, later, ORIN) == ""
    assert "library: built for tensorrt 10.13.3.9, here tensorrt 10.3.0" in fits(plain, trt10, ORIN)
    assert "gpu: built for Orin, SM 8.7, here Orin Nano Super, SM 8.7" in fits(plain, later, super_)

    same = ensure(toy, later, hardware_compatibility="same_compute_capability")
    assert fits(same, later, super_) == ""
    assert "gpu: built for any of SM 8.7, here NVIDIA H100, SM 9.0" in fits(same, later, h100)

    ampere = ensure(toy, later, hardware_compatibility="ampere_plus")
    assert fits(ampere, later, h100) == ""
    assert "gpu: built for any of SM 8.0 or later, here Tegra X1, SM 5.3" in fits(ampere, later, nano)

    versions = ensure(toy, trt10, version_compatible=True)
    assert fits(versions, later, ORIN) == ""
    assert "library: built for tensorrt 10.x, here tensorrt 11.0.0.114" in fits(versions, eleven, ORIN)


def test_timings_are_kept_beside_the_engines(trt10: ModuleType, toy: Path) -> None:
    ensure(toy, trt10)
    cache = toy.with_name("timing.tensorrt-10.3.0.cache")
    assert json.loads(cache.read_text())[0] == "10.3.0"
    ensure(toy, trt10, batch=2)


def test_unknown_hardware_compatibility(trt10: ModuleType, toy: Path) -> None:
    with pytest.raises(ModelError, match="unknown hardware compatibility 'all'; one of none, same"):
        ensure(toy, trt10, hardware_compatibility="all")


def test_what_the_model_says_of_itself_goes_along(trt10: ModuleType, tmp_path: Path) -> None:
    embedded = ensure(write_toy(tmp_path, "inside", edge_tracker=MANIFEST.to_json(), names="{0: 'x'}"), trt10)
    outside = write_toy(tmp_path, "beside")
    outside.with_suffix(".json").write_text(MANIFEST.to_json())
    beside = ensure(outside, trt10)
    for engine in (embedded, beside):
        manifest = read_engine_manifest(engine)
        assert manifest is not None
        assert read_manifest(engine, manifest.metadata) == MANIFEST
    manifest = read_engine_manifest(embedded)
    assert manifest is not None
    assert manifest.metadata["names"] == "{0: 'x'}"


def test_onnx_metadata(tmp_path: Path) -> None:
    props = {METADATA_KEY: "x" * 70_000, "names": "{0: 'père'}", "empty": ""}
    path = write_toy(tmp_path, **props)
    assert onnx_metadata(path.read_bytes()) == props
    assert onnx_metadata(write_toy(tmp_path, "bare").read_bytes()) == {}
    for junk in (b"junk" * 100, path.read_bytes()[:-5]):
        with pytest.raises(ModelError, match="not an ONNX file"):
            onnx_metadata(junk)


def test_options_have_the_names_of_the_configuration() -> None:
    from edge_tracker.app.config.schema import EngineConfig

    options = {field.name: field.default for field in dataclasses.fields(EngineOptions)}
    for name, info in EngineConfig.model_fields.items():
        assert options.pop(name) == info.default
    assert set(options) == {"batch", "typical_batch"}, "these come from the models' own sections"
