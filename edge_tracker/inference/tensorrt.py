"""Running TensorRT engines: named inputs and outputs, buffers allocated once, upload overlapped with computing."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_tracker.errors import DeviceError, ModelError
from edge_tracker.inference.builder import import_tensorrt, trt_logger
from edge_tracker.inference.cuda import Cuda, open_cuda
from edge_tracker.inference.engines import BUILD, check_fits, is_version_compatible, load_engine_bytes
from edge_tracker.inference.manifest import read_manifest
from edge_tracker.inference.model import Feeds, InProcess, Outputs, TensorSpec

logger = logging.getLogger(__name__)

# TensorRT's own `nptype` breaks on NumPy 1.24 and later in 8.6.
_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}

# Called with start, stop, addresses, slot and stream: writes rows start..stop of the inputs to these device addresses,
# by tensor name, as work on the stream. `slot` is 0 or 1; its buffers are not in use when it is filled.
Fill = Callable[[int, int, dict[str, int], int, Any], None]


class _BatchBuffers:
    """The buffers of one batch in flight. There are two, so that one can be filled while the other is computed."""

    def __init__(self, cuda: Cuda, sizes: dict[str, int], stack: ExitStack) -> None:
        self.host, self.device = {}, {}
        for name, nbytes in sizes.items():
            self.host[name] = cuda.pinned(nbytes)
            stack.callback(cuda.free_pinned, self.host[name])
            self.device[name] = cuda.alloc(nbytes)
            stack.callback(cuda.free, self.device[name])
        self.filled, self.done = cuda.event(), cuda.event()
        stack.callback(cuda.free_event, self.filled)
        stack.callback(cuda.free_event, self.done)


class TensorRTModel(InProcess):
    """A TensorRT engine. See `edge_tracker.inference.model.Model` for the attributes.

    Batches larger than the engine's largest are split, those smaller than its smallest are padded. One thread at a time
    runs it; others wait.

    Args:
        path: the engine. If it has a manifest, it must have been built for this TensorRT and this GPU.
        trt: TensorRT's module; by default the installed one.
        cuda: the device; by default the one that `open_cuda` opens.

    Attributes:
        cuda: the device it runs on.
        batch: the largest batch of its profile.

    Raises:
        ModelError: the file is not an engine, is incomplete, or was built for another TensorRT or GPU.
        DeviceError: no TensorRT, no GPU, or not enough memory on it.
    """

    device = "tensorrt"

    def __init__(
        self, path: str | os.PathLike[str], *, trt: ModuleType | None = None, cuda: Cuda | None = None
    ) -> None:
        self.path = Path(path)
        self.name, self.short_name = str(path), self.path.name
        trt = trt or import_tensorrt()
        self.cuda = cuda or open_cuda()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        data, made = load_engine_bytes(self.path)
        if made is not None:
            check_fits(self.path, made, trt, self.cuda.gpu)
        self.metadata = dict(made.metadata) if made is not None else {}
        self.manifest = read_manifest(self.path, self.metadata)
        try:
            with self.cuda.current():
                self._open(trt, data, made is not None and is_version_compatible(made))
        except BaseException:
            self.close()
            raise

    def _open(self, trt: ModuleType, data: bytes, brings_code: bool) -> None:
        log = self._log = trt_logger(trt)
        log.errors.clear()
        runtime = trt.Runtime(log)
        # A version-compatible engine contains CPU code, which TensorRT runs only if allowed to: only our own may.
        runtime.engine_host_code_allowed = brings_code
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise ModelError(
                f"{self.path}: not an engine that TensorRT {trt.__version__} can load ({log.reason()}); {BUILD}"
            )
        context = engine.create_execution_context()
        if context is None:
            raise DeviceError(f"{self.path}: TensorRT cannot prepare it to run ({log.reason()})")
        # The runtime must outlive the engine, and the engine the context.
        self._runtime, self._engine, self._context = runtime, engine, context

        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        specs = {name: self._spec(name) for name in names}
        self.inputs = tuple(specs[name] for name in names if is_input[name])
        self.outputs = tuple(specs[name] for name in names if not is_input[name])
        first = self.inputs[0]
        if first.shape[0] is None:
            smallest, _, largest = engine.get_tensor_profile_shape(first.name, 0)
            self._least, self.batch = int(smallest[0]), int(largest[0])
        else:
            self._least = self.batch = int(first.shape[0])
        for spec in specs.values():
            if not spec.shape or spec.shape[0] not in (None, self.batch):
                raise ModelError(f"{self.path}: tensor {spec} has no batch axis of {self.batch} in front")
        sizes = {name: self._nbytes(spec, self.batch) for name, spec in specs.items()}

        cuda, stack = self.cuda, self._stack
        self._copying, self._computing = cuda.stream(), cuda.stream()
        stack.callback(cuda.free_stream, self._copying)
        stack.callback(cuda.free_stream, self._computing)
        self._slots = [_BatchBuffers(cuda, sizes, stack) for _ in range(2)]

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(self._engine.get_tensor_shape(name))
        if any(size < 0 for size in shape[1:]):
            raise ModelError(f"{self.path}: tensor {name} {shape} has dynamic sizes besides the batch")
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise ModelError(f"{self.path}: tensor {name} has element type {kind}, which NumPy does not have")
        return TensorSpec(name, tuple(None if size < 0 else int(size) for size in shape), np.dtype(_DTYPES[kind]))

    @staticmethod
    def _sizes(spec: TensorSpec, rows: int) -> tuple[int, ...]:
        """The shape of a tensor with this number of rows."""
        return (rows, *(size or 0 for size in spec.shape[1:]))

    def _nbytes(self, spec: TensorSpec, rows: int) -> int:
        return math.prod(self._sizes(spec, rows)) * spec.dtype.itemsize

    def run(self, feeds: Feeds) -> Outputs:
        """Compute all outputs from one array per input.

        Raises:
            ModelError: the arrays do not fit.
            DeviceError: the GPU fails.
        """
        arrays = {spec.name: self._checked(spec, feeds) for spec in self.inputs}
        counts = {len(array) for array in arrays.values()}
        if len(counts) != 1:
            raise ModelError(f"{self.path}: the inputs have different batch sizes: {sorted(counts)}")

        def fill(start: int, stop: int, addresses: dict[str, int], slot: int, stream: Any) -> None:
            for name, array in arrays.items():
                rows = np.ascontiguousarray(array[start:stop])
                staged = self._slots[slot].host[name][: rows.nbytes]
                staged[:] = rows.reshape(-1).view(np.uint8)
                self.cuda.upload(addresses[name], staged, stream)

        return self.run_filled(counts.pop(), fill)

    def _checked(self, spec: TensorSpec, feeds: Feeds) -> npt.NDArray[Any]:
        array = feeds.get(spec.name)
        if array is None or array.dtype != spec.dtype or array.ndim == 0 or array.shape[1:] != spec.shape[1:]:
            given = "nothing" if array is None else f"{array.shape} {array.dtype}"
            raise ModelError(f"{self.path}: takes {spec}, got {given}")
        return array

    def run_filled(self, count: int, fill: Fill) -> Outputs:
        """Compute all outputs from inputs that `fill` writes on the device.

        Args:
            count: total number of rows; more than `batch` are run in several batches.
            fill: called for each batch.

        Returns:
            As `run`.
        """
        with self._lock:
            if not hasattr(self, "_slots"):
                raise ModelError(f"{self.path}: the model is closed")
            results: Outputs = [np.empty(self._sizes(spec, count), spec.dtype) for spec in self.outputs]
            turns = [(start, min(start + self.batch, count)) for start in range(0, count, self.batch)]
            with self.cuda.current():
                try:
                    for index, turn in enumerate(turns):
                        if index >= 2:
                            self._collect(index % 2, *turns[index - 2], results)
                        self._start(index % 2, *turn, fill)
                    for index in range(max(0, len(turns) - 2), len(turns)):
                        self._collect(index % 2, *turns[index], results)
                except BaseException:
                    self._settle()
                    raise
            return results

    def _start(self, number: int, start: int, stop: int, fill: Fill) -> None:
        """Fill a slot, then queue its computation and the download of its results on the stream."""
        cuda, slot, context = self.cuda, self._slots[number], self._context
        fill(start, stop, {spec.name: slot.device[spec.name] for spec in self.inputs}, number, self._copying)
        cuda.record(slot.filled, self._copying)
        cuda.wait(self._computing, slot.filled)
        rows = max(stop - start, self._least)
        self._log.errors.clear()
        for spec in self.inputs:
            if spec.shape[0] is None and not context.set_input_shape(spec.name, self._sizes(spec, rows)):
                raise ModelError(f"{self.path}: does not accept {rows} rows of {spec} ({self._log.reason()})")
        for name, address in slot.device.items():
            if not context.set_tensor_address(name, address):
                raise DeviceError(f"{self.path}: does not accept a buffer for {name} ({self._log.reason()})")
        if not context.execute_async_v3(cuda.handle(self._computing)):
            raise DeviceError(f"{self.path}: TensorRT cannot run it ({self._log.reason()})")
        for spec in self.outputs:
            nbytes = self._nbytes(spec, stop - start)
            cuda.download(slot.host[spec.name][:nbytes], slot.device[spec.name], self._computing)
        cuda.record(slot.done, self._computing)

    def _collect(self, number: int, start: int, stop: int, results: Outputs) -> None:
        """Wait for a slot and copy its results out."""
        slot = self._slots[number]
        self.cuda.synchronize(slot.done)
        for spec, result in zip(self.outputs, results, strict=True):
            nbytes = self._nbytes(spec, stop - start)
            result[start:stop] = slot.host[spec.name][:nbytes].view(spec.dtype).reshape(self._sizes(spec, stop - start))

    def _settle(self) -> None:
        """After a failure, wait for work that was started, so that it uses no buffer any more."""
        for stream in (self._copying, self._computing):
            with suppress(DeviceError):  # the same failure again
                self.cuda.synchronize(stream)

    def close(self) -> None:
        """Free the engine and its buffers. If the GPU is lost, that fails and is only logged."""
        with self._lock:
            try:
                with self.cuda.current(), self._stack:
                    for name in ("_slots", "_copying", "_computing", "_context", "_engine", "_runtime"):
                        self.__dict__.pop(name, None)
            except DeviceError as error:
                logger.debug("closing %s: %s", self.path, error)
