"""Building a TensorRT engine from an ONNX file, in one way for TensorRT 8.6, 10 and 11.

Features are looked up in TensorRT's module, never derived from its version number.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_tracker.errors import DeviceError, ModelError

logger = logging.getLogger(__name__)

PRECISIONS = ("fp16", "fp32", "int8")
# The members of `trt.HardwareCompatibilityLevel`, in lower case.
COMPATIBILITY = ("none", "same_compute_capability", "ampere_plus")

# Called with the progress of a build: name of the phase, its steps done, and its steps in total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EngineOptions:
    """Options for building an engine.

    Attributes:
        precision: "fp16", "fp32" or "int8" (an ONNX file with Q/DQ nodes).
        batch: largest batch.
        typical_batch: the batch that the engine is tuned for; at most `batch`.
        workspace: scratch memory that a layer may take, MiB.
        optimization_level: 0 (quick to build) to 5 (quick to run); TensorRT's own default is 3.
        hardware_compatibility: other GPUs that may run it: "none", "same_compute_capability" or "ampere_plus".
        version_compatible: True if later TensorRT versions of the same major number may run it.
        dla_core: DLA core that runs every layer it can; the rest runs on the GPU. DLA supports one batch size, so
            smaller batches are padded.
    """

    precision: str = "fp16"
    batch: int = 16
    typical_batch: int = 8
    workspace: int = 1024
    optimization_level: int = 3
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    dla_core: int | None = None

    @property
    def profile(self) -> tuple[int, int, int]:
        """Smallest, typical and largest batch."""
        if self.dla_core is not None:
            return (self.batch,) * 3
        return (1, min(self.typical_batch, self.batch), self.batch)


def import_tensorrt() -> ModuleType:
    """TensorRT's Python module.

    Raises:
        DeviceError: it is not installed, or does not load.
    """
    try:
        import tensorrt as trt
    except Exception as error:  # its wheel raises errors of any kind if libraries are missing
        raise DeviceError(
            f"TensorRT cannot be imported ({' '.join(str(error).split()) or type(error).__name__}); "
            "on a Jetson it comes with JetPack: make the virtual environment with --system-site-packages; "
            "elsewhere: pip install tensorrt"
        ) from error
    return trt


@cache
def trt_logger(trt: ModuleType) -> Any:
    """The process's TensorRT logger, with TensorRT's plugins registered.

    It keeps the latest errors (`errors`): functions that fail return None and only log the reason. The plugins must be
    registered before a network is parsed or an engine loaded: without them 8.x has no InstanceNormalization.
    """

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            level = trt.ILogger.Severity
            if severity in (level.INTERNAL_ERROR, level.ERROR):
                self.errors.append(" ".join(message.split()))
            logger.log(logging.INFO if severity == level.WARNING else logging.DEBUG, "TensorRT: %s", message)

        def reason(self) -> str:
            return "; ".join(dict.fromkeys(self.errors)) or "TensorRT gives no reason"

    log = Logger()
    trt.init_libnvinfer_plugins(log, "")
    return log


def strongly_typed(trt: ModuleType) -> bool:
    """True if networks take their precision from the ONNX file alone (from TensorRT 10 on)."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def build_plan(
    trt: ModuleType, source: Path, precision: str, options: EngineOptions, timings: bytes, progress: Progress
) -> tuple[bytes, bytes, list[str]]:
    """Build an engine.

    Args:
        trt: TensorRT's module.
        source: the ONNX file.
        precision: of the engine; not used where TensorRT takes it from the ONNX file.
        options: build options.
        timings: a serialised timing cache, or b"".
        progress: called with the progress, if TensorRT has a progress monitor.

    Returns:
        The serialised engine, the serialised timing cache, and with DLA the layers left to the GPU.

    Raises:
        ModelError: the file cannot be parsed or built, or an option is not supported here.
    """
    log = trt_logger(trt)
    log.errors.clear()
    builder = trt.Builder(log)
    kind = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(kind.STRONGLY_TYPED if strongly_typed(trt) else kind.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(source)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reason = "; ".join(f"node {error.node()}: {error.desc()}" for error in errors) or log.reason()
        raise ModelError(f"{source}: TensorRT {trt.__version__} cannot parse it ({reason})")

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    config.builder_optimization_level = options.optimization_level
    if not strongly_typed(trt):
        for flag in {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}[precision]:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        level = options.hardware_compatibility.upper()
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise ModelError(f"TensorRT {trt.__version__} has no hardware compatibility {level}")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    _add_profile(builder, network, config, source, options)
    on_gpu = _use_dla(trt, builder, network, config, options.dla_core) if options.dla_core is not None else []
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    monitor = None
    if hasattr(trt, "IProgressMonitor"):
        monitor = _monitor(trt, progress)
        config.progress_monitor = monitor

    with _note_interrupts(monitor) if monitor is not None else nullcontext():
        plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise ModelError(f"{source}: TensorRT {trt.__version__} cannot build it ({log.reason()})")
    return bytes(plan), bytes(config.get_timing_cache().serialize()), on_gpu


def _add_profile(builder: Any, network: Any, config: Any, source: Path, options: EngineOptions) -> None:
    """Add one optimisation profile for all inputs of dynamic batch size."""
    profile = builder.create_optimization_profile()
    dynamic = False
    for tensor in map(network.get_input, range(network.num_inputs)):
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise ModelError(
                f"{source}: input {tensor.name} {shape} has dynamic sizes besides the batch; export it with fixed ones"
            )
        if -1 in shape:
            profile.set_shape(tensor.name, *((batch, *shape[1:]) for batch in options.profile))
            dynamic = True
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise ModelError(f"{source}: TensorRT refuses the optimisation profile {options.profile}")


def _use_dla(trt: ModuleType, builder: Any, network: Any, config: Any, core: int) -> list[str]:
    """Use the DLA for every layer that it can run; returns the layers that it cannot."""
    if core >= builder.num_DLA_cores:
        raise ModelError(f"DLA core {core} asked for; this machine has {builder.num_DLA_cores}; leave dla_core out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = map(network.get_layer, range(network.num_layers))
    return [layer.name for layer in layers if not config.can_run_on_DLA(layer)]


def _monitor(trt: ModuleType, progress: Progress) -> Any:
    """A monitor that passes TensorRT's progress on to `progress`; Ctrl-C stops the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            # An exception must not pass through TensorRT, which would report a failed build; returning False stops it.
            try:
                progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


@contextmanager
def _note_interrupts(monitor: Any) -> Iterator[None]:
    """Note Ctrl-C in a monitor instead of raising KeyboardInterrupt.

    It mostly comes while TensorRT computes, and would be raised at the entry of a monitor's method, which cannot catch
    it there.
    """

    def note(*_: Any) -> None:
        monitor.interrupted = True

    raising = []
    if threading.current_thread() is threading.main_thread():  # only the main thread can have handlers
        raising = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is signal.default_int_handler]
    for which in raising:
        signal.signal(which, note)
    try:
        yield
    finally:
        for which in raising:
            signal.signal(which, signal.default_int_handler)
