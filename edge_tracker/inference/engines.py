"""TensorRT engines: named by everything they depend on, checked before they are used, built if they are missing.

An engine is two files: `NAME.engine`, and its manifest `NAME.engine.json`, which is written last. So an engine whose
build was interrupted has no manifest and counts as missing.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

from edge_tracker.errors import ModelError
from edge_tracker.files import atomic_path
from edge_tracker.inference.builder import (
    COMPATIBILITY,
    PRECISIONS,
    EngineOptions,
    Progress,
    build_plan,
    import_tensorrt,
    strongly_typed,
)
from edge_tracker.inference.cuda import Gpu, open_cuda
from edge_tracker.inference.manifest import METADATA_KEY, onnx_metadata, plain_name, read_manifest

logger = logging.getLogger(__name__)

SCHEMA = 1
BUILD = "build it on this machine: edge-tracker build --config FILE (takes minutes)"


@dataclass(frozen=True)
class EngineManifest:
    """The description of a built engine.

    Attributes:
        requirements: everything it depends on, see `requirements`.
        sha256, size: of the engine file.
        metadata: the texts that the ONNX file contains besides the graph, its model manifest among them.
        seconds: duration of the build.
        on_gpu: with DLA, the layers that run on the GPU instead.
    """

    requirements: dict[str, str]
    sha256: str
    size: int
    metadata: dict[str, str]
    seconds: float = 0.0
    on_gpu: list[str] = field(default_factory=list)


def onnx_source(trt: ModuleType, onnx: Path, precision: str) -> tuple[Path, str]:
    """The file to build from, beside `NAME.onnx`, and the precision that results.

    Strongly typed networks need `NAME.fp16.onnx` for FP16; without it, the engine is FP32, with a warning. Others need
    the FP32 file and a flag. INT8 always needs `NAME.int8.onnx`.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}; one of {', '.join(PRECISIONS)}")
    name = plain_name(onnx)
    plain, half, integer = (onnx.with_name(f"{name}{suffix}.onnx") for suffix in ("", ".fp16", ".int8"))
    if precision == "int8":
        if not integer.is_file():
            raise ModelError(f"{integer}: no such file; precision int8 is built from it")
        return integer, precision
    if precision == "fp16" and strongly_typed(trt):
        if half.is_file():
            return half, precision
        if onnx == plain:
            logger.warning("%s: %s is missing, so the engine is FP32", onnx.name, half.name)
            return plain, "fp32"
    return (plain if plain.is_file() else onnx), precision


def requirements(trt: ModuleType, source: Path, precision: str, gpu: Gpu, options: EngineOptions) -> dict[str, str]:
    """Everything that an engine depends on. An engine fits if all of these are equal."""
    if options.hardware_compatibility not in COMPATIBILITY:
        raise ModelError(
            f"unknown hardware compatibility {options.hardware_compatibility!r}; one of {', '.join(COMPATIBILITY)}"
        )
    flags = [f"workspace {options.workspace} MiB", f"level {options.optimization_level}"]
    if options.dla_core is not None:
        flags.append(f"DLA core {options.dla_core}")
    return {
        "onnx": _sha256(source.read_bytes()),
        "library": _library(trt, options.version_compatible),
        "gpu": _gpu(gpu, options.hardware_compatibility),
        "precision": precision,
        "profile": "/".join(map(str, options.profile)),
        "flags": ", ".join(flags),
    }


def _library(trt: ModuleType, compatible: bool) -> str:
    """TensorRT and its version; for a version-compatible engine only the major number."""
    version = str(trt.__version__)
    return f"{trt.__name__} {version.split('.')[0]}.x" if compatible else f"{trt.__name__} {version}"


def is_version_compatible(manifest: EngineManifest) -> bool:
    return manifest.requirements["library"].endswith(".x")


def _gpu(gpu: Gpu, compatibility: str) -> str:
    """The GPUs that may run an engine built on `gpu`, in words."""
    if compatibility == "none":
        return f"{gpu.name}, SM {gpu.capability}"
    if compatibility == "ampere_plus" and float(gpu.capability) >= 8:
        return "any of SM 8.0 or later"
    return f"any of SM {gpu.capability}"


def engine_path(source: Path, needs: dict[str, str]) -> Path:
    """The path of an engine: beside its ONNX file, its name made of the main requirements and a digest of all."""
    name = plain_name(source)
    library = needs["library"].replace("tensorrt", "trt").replace(" ", "")
    digest = _sha256(json.dumps(needs, sort_keys=True).encode())[:8]
    batch = needs["profile"].rsplit("/", 1)[1]
    return source.with_name(f"{name}.{needs['precision']}.b{batch}.{library}.{digest}.engine")


def manifest_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")


def differences(have: dict[str, str], need: dict[str, str]) -> str:
    """The requirements that differ, both values side by side; "" if none does."""
    return "; ".join(
        f"{key}: built for {have.get(key, 'nothing')}, here {need.get(key, 'nothing')}"
        for key in dict.fromkeys([*need, *have])
        if have.get(key) != need.get(key)
    )


def read_engine_manifest(engine: Path) -> EngineManifest | None:
    """The manifest beside an engine, or None if there is none.

    Raises:
        ModelError: it cannot be read.
    """
    path = manifest_path(engine)
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = data.pop("schema")
        if schema != SCHEMA:
            raise ValueError(f"schema {schema}, this version reads {SCHEMA}")
        return EngineManifest(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not an engine's manifest ({error}); {BUILD}") from error


def load_engine_bytes(engine: Path) -> tuple[bytes, EngineManifest | None]:
    """An engine file and its manifest, if it has one, after checking that the file is complete and unchanged.

    Raises:
        ModelError: missing, incomplete or changed.
    """
    manifest = read_engine_manifest(engine)
    try:
        data = engine.read_bytes()
    except OSError as error:
        raise ModelError(f"{engine}: cannot be read ({error.strerror}); {BUILD}") from error
    if manifest is not None and len(data) != manifest.size:
        raise ModelError(f"{engine}: truncated: {len(data)} bytes, {manifest.size} were built; {BUILD}")
    if manifest is not None and _sha256(data) != manifest.sha256:
        raise ModelError(f"{engine}: not the file that was built (its SHA-256 differs); {BUILD}")
    return data, manifest


def check_fits(engine: Path, manifest: EngineManifest, trt: ModuleType, gpu: Gpu) -> None:
    """Refuse an engine that was built for another TensorRT or another GPU.

    Raises:
        ModelError: it was; with both values side by side.
    """
    have = manifest.requirements
    fits = {
        "library": (_library(trt, False), _library(trt, True)),
        "gpu": tuple(_gpu(gpu, level) for level in COMPATIBILITY),
    }
    wrong = differences(have, have | {key: here[0] for key, here in fits.items() if have.get(key) not in here})
    if wrong:
        raise ModelError(f"{engine}: {wrong}; {BUILD}")


def ensure_engine(
    onnx: Path,
    options: EngineOptions,
    *,
    build: bool = True,
    trt: ModuleType | None = None,
    gpu: Gpu | None = None,
    progress: Progress | None = None,
) -> Path:
    """The engine of an ONNX file for this machine, built if it is missing, stale or broken.

    Args:
        onnx: `NAME.onnx`; `NAME.fp16.onnx` is expected beside it.
        options: build options.
        build: False to raise an error instead of building.
        trt: TensorRT's module; by default the installed one. (TensorRT-RTX's builds without a GPU.)
        gpu: the GPU it is for; by default this machine's.
        progress: called with a build's progress; by default it is logged.

    Raises:
        ModelError: no engine can be built from the file; or `build` is False and there is none that fits.
        DeviceError: no TensorRT or no GPU on this machine.
    """
    trt = trt or import_tensorrt()
    gpu = gpu or open_cuda().gpu
    source, precision = onnx_source(trt, onnx, options.precision)
    needs = requirements(trt, source, precision, gpu, options)
    engine = engine_path(source, needs)
    unusable = _unusable(engine, needs)
    if unusable and not build:
        other = "" if engine.is_file() else _other_engine(engine, needs)
        raise ModelError(f"{onnx}: {other or unusable}; {BUILD}")
    if unusable:
        with _lock(engine.parent):
            unusable = _unusable(engine, needs)  # another process may have built it meanwhile
            if unusable:
                logger.warning("building %s, which may take minutes: %s", engine.name, unusable)
                _build_files(trt, source, engine, needs, options, progress or _logged(engine.name))
    return engine


def _logged(name: str) -> Progress:
    """A `Progress` that logs every ten seconds."""
    last = time.monotonic()

    def progress(phase: str, step: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            logger.info("building %s: %s, step %d of %d", name, phase.lower(), step, steps)

    return progress


def _unusable(engine: Path, needs: dict[str, str]) -> str:
    """The reason an engine cannot be used for these requirements; "" if it can."""
    if not engine.is_file():
        return "there is no engine yet"
    try:
        _, manifest = load_engine_bytes(engine)
    except ModelError as error:
        return str(error).removesuffix(f"; {BUILD}")
    if manifest is None:
        return f"{engine.name} has no manifest; its build was cut short"
    wrong = differences(manifest.requirements, needs)
    return f"{engine.name}: {wrong}" if wrong else ""


def _other_engine(engine: Path, needs: dict[str, str]) -> str:
    """A message about another engine of the same model, and what it was built for; "" if there is none."""
    for path in sorted(engine.parent.glob(f"{glob.escape(engine.name.split('.', 1)[0])}.*.engine")):
        try:
            manifest = read_engine_manifest(path)
        except ModelError:
            continue
        if manifest is not None and path != engine:
            return f"{path.name} is stale: {differences(manifest.requirements, needs)}"
    return ""


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """A lock for one build at a time in a folder, across processes; a process that dies releases it."""
    try:
        file = (folder / ".build.lock").open("a")
    except OSError as error:
        raise ModelError(f"{folder}: no engine can be written there ({error.strerror}); move the model") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process to finish building in %s", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_files(
    trt: ModuleType,
    source: Path,
    engine: Path,
    needs: dict[str, str],
    options: EngineOptions,
    progress: Progress,
) -> None:
    """Build an engine and write it and its manifest, in this order."""
    start = time.monotonic()
    # A timing cache belongs to one TensorRT on one GPU; that of another is rejected and replaced.
    cache_path = source.with_name(f"timing.{trt.__name__}-{trt.__version__}.cache")
    cached = cache_path.read_bytes() if cache_path.is_file() else b""
    model = source.read_bytes()
    plan, timings, on_gpu = build_plan(trt, source, needs["precision"], options, cached, progress)
    metadata = onnx_metadata(model)
    described = read_manifest(source, metadata)
    if described is not None:
        metadata[METADATA_KEY] = described.to_json()
    manifest = EngineManifest(needs, _sha256(plan), len(plan), metadata, round(time.monotonic() - start, 1), on_gpu)
    try:
        manifest_path(engine).unlink(missing_ok=True)
        with atomic_path(engine) as partial:
            partial.write_bytes(plan)
        with atomic_path(manifest_path(engine)) as partial:
            partial.write_text(json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=1), encoding="utf-8")
        with atomic_path(cache_path) as partial:
            partial.write_bytes(timings)
    except OSError as error:
        raise ModelError(f"{engine}: cannot be written ({error.strerror})") from error
    logger.info("built %s in %.0f s, %.1f MB", engine.name, manifest.seconds, len(plan) / 1e6)
    if on_gpu:
        logger.info("%s: %d layers run on the GPU, not on the DLA: %s", engine.name, len(on_gpu), ", ".join(on_gpu))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
