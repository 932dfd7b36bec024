"""The parts of CUDA's driver API that running engines needs, through pycuda or, if that is missing, cuda-bindings.

Both use the device's primary context, which is retained here, pushed before each piece of work and popped after it. So
it is the context that TensorRT, PyTorch or CuPy use in the same process, any thread may call, and no thread keeps a
context that it did not have before (`pycuda.autoinit` would make a second one).
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_tracker.errors import DeviceError
from edge_tracker.files import atomic_path

_Size = tuple[int, int, int]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name and compute capability, e.g. "Orin" and "8.7"."""

    name: str
    capability: str


class Cuda(Protocol):
    """CUDA on one device. Everything but `current` and `gpu` must be called inside `with cuda.current():`.

    Addresses are integers. Streams, events and kernels are opaque; `handle` gives a stream's address for TensorRT.
    Failures raise `DeviceError` with the name of the function.
    """

    library: str
    gpu: Gpu

    def current(self) -> Any: ...
    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        ...

    def alloc(self, nbytes: int) -> int: ...
    def free(self, address: int) -> None: ...
    def pinned(self, nbytes: int) -> Bytes: ...
    def free_pinned(self, array: Bytes) -> None: ...
    def stream(self) -> Any: ...
    def handle(self, stream: Any) -> int: ...
    def free_stream(self, stream: Any) -> None: ...
    def event(self) -> Any: ...
    def free_event(self, event: Any) -> None: ...
    def upload(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Queue a copy from a pinned array to the device on a stream."""
        ...

    def download(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy from the device to a pinned array on a stream."""
        ...

    def record(self, event: Any, stream: Any) -> None: ...
    def wait(self, stream: Any, event: Any) -> None:
        """Make a stream wait for an event."""
        ...

    def wait_foreign(self, stream: Any, handle: int, event: Any) -> None:
        """Make a stream wait for all work that another library has queued on the stream with this handle."""
        ...

    def synchronize(self, waiter: Any) -> None:
        """Block the calling thread until a stream or an event is done."""
        ...

    def load_kernel(self, cubin: bytes, name: str) -> Any: ...
    def free_kernel(self, kernel: Any) -> None: ...
    def launch(self, kernel: Any, grid: _Size, block: _Size, stream: Any, *args: Any) -> None:
        """Start a kernel. The arguments are NumPy scalars of the kernel's parameter types."""
        ...


class BindingsCuda:
    """CUDA through NVIDIA's cuda-bindings."""

    library = "cuda-bindings"

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._driver = driver
        try:
            self._call("cuInit", 0)
        except RuntimeError as error:  # the driver's library cannot be loaded
            raise DeviceError(f"no CUDA driver ({error}); install the NVIDIA driver") from error
        self._device = self._call("cuDeviceGet", 0)
        self.gpu = Gpu(
            self._call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode(),
            ".".join(
                str(self._call("cuDeviceGetAttribute", getattr(driver.CUdevice_attribute, name), self._device))
                for name in (
                    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
                    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
                )
            ),
        )
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def _call(self, function: str, *args: Any) -> Any:
        result, *values = getattr(self._driver, function)(*args)
        if int(result):
            _, name = self._driver.cuGetErrorName(result)
            _, text = self._driver.cuGetErrorString(result)
            raise _failure(function, (name or b"").decode(), (text or b"").decode())
        return values[0] if values else None

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()

    def memory(self) -> tuple[int, int]:
        result, free, total = self._driver.cuMemGetInfo()
        return (int(free), int(total)) if not int(result) else (0, 0)

    def alloc(self, nbytes: int) -> int:
        return int(self._call("cuMemAlloc", nbytes))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def pinned(self, nbytes: int) -> Bytes:
        address = self._call("cuMemAllocHost", nbytes)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(int(address)))

    def free_pinned(self, array: Bytes) -> None:
        self._call("cuMemFreeHost", array.ctypes.data)

    def stream(self) -> Any:
        return self._call("cuStreamCreate", self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream)

    def free_stream(self, stream: Any) -> None:
        self._call("cuStreamDestroy", stream)

    def event(self) -> Any:
        return self._call("cuEventCreate", self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)

    def free_event(self, event: Any) -> None:
        self._call("cuEventDestroy", event)

    def upload(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def download(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def wait_foreign(self, stream: Any, handle: int, event: Any) -> None:
        self.record(event, self._driver.CUstream(handle))
        self.wait(stream, event)

    def synchronize(self, waiter: Any) -> None:
        stream = isinstance(waiter, self._driver.CUstream)
        self._call("cuStreamSynchronize" if stream else "cuEventSynchronize", waiter)

    def load_kernel(self, cubin: bytes, name: str) -> Any:
        module = self._call("cuModuleLoadData", cubin)
        return module, self._call("cuModuleGetFunction", module, name.encode())

    def free_kernel(self, kernel: Any) -> None:
        self._call("cuModuleUnload", kernel[0])

    def launch(self, kernel: Any, grid: _Size, block: _Size, stream: Any, *args: Any) -> None:
        values = [np.atleast_1d(arg) for arg in args]
        addresses = np.array([value.ctypes.data for value in values], np.uint64)
        self._call("cuLaunchKernel", kernel[1], *grid, *block, 0, stream, addresses.ctypes.data, 0)


class PyCuda:
    """CUDA through pycuda. Its allocations free themselves when garbage-collected, so they are kept until `free`."""

    library = "pycuda"

    def __init__(self) -> None:
        import pycuda.driver as driver

        self._driver = driver
        self._held: dict[int, Any] = {}
        with self._errors("cuInit"):
            driver.init()
            device = driver.Device(0)
            self.gpu = Gpu(device.name(), "{}.{}".format(*device.compute_capability()))
            self._context = device.retain_primary_context()
        atexit.register(self._context.detach)  # pycuda itself would detach a primary context the wrong way

    @contextmanager
    def _errors(self, function: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:  # "cuMemAlloc failed: out of memory"
            name = "CUDA_ERROR_OUT_OF_MEMORY" if isinstance(error, self._driver.MemoryError) else ""
            raise _failure(function, name, str(error)) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._errors("cuCtxPushCurrent"):
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def memory(self) -> tuple[int, int]:
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def alloc(self, nbytes: int) -> int:
        with self._errors("cuMemAlloc"):
            block = self._driver.mem_alloc(nbytes)
        self._held[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        with self._errors("cuMemFree"):
            self._held.pop(address).free()

    def pinned(self, nbytes: int) -> Bytes:
        with self._errors("cuMemHostAlloc"):
            array: Bytes = self._driver.pagelocked_empty(nbytes, np.uint8)
        return array

    def free_pinned(self, array: Bytes) -> None:
        with self._errors("cuMemFreeHost"):
            array.base.free()  # type: ignore[union-attr]

    def stream(self) -> Any:
        with self._errors("cuStreamCreate"):
            return self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING

    def handle(self, stream: Any) -> int:
        return int(stream.handle)

    def free_stream(self, stream: Any) -> None:
        pass  # destroyed with the object

    def event(self) -> Any:
        with self._errors("cuEventCreate"):
            return self._driver.Event(self._driver.event_flags.DISABLE_TIMING)

    def free_event(self, event: Any) -> None:
        pass  # destroyed with the object

    def upload(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        with self._errors("cuMemcpyHtoDAsync"):
            self._driver.memcpy_htod_async(address, array, stream)

    def download(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        with self._errors("cuMemcpyDtoHAsync"):
            self._driver.memcpy_dtoh_async(array, address, stream)

    def record(self, event: Any, stream: Any) -> None:
        with self._errors("cuEventRecord"):
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        with self._errors("cuStreamWaitEvent"):
            stream.wait_for_event(event)

    def wait_foreign(self, stream: Any, handle: int, event: Any) -> None:
        # pycuda cannot use a handle from another library; waiting for the whole context is correct, but slower.
        with self._errors("cuCtxSynchronize"):
            self._driver.Context.synchronize()

    def synchronize(self, waiter: Any) -> None:
        with self._errors("cuStreamSynchronize"):
            waiter.synchronize()

    def load_kernel(self, cubin: bytes, name: str) -> Any:
        with self._errors("cuModuleLoadData"):
            return self._driver.module_from_buffer(cubin).get_function(name)

    def free_kernel(self, kernel: Any) -> None:
        pass  # unloaded with the object

    def launch(self, kernel: Any, grid: _Size, block: _Size, stream: Any, *args: Any) -> None:
        with self._errors("cuLaunchKernel"):
            kernel(*args, grid=grid, block=block, stream=stream)


def _failure(function: str, name: str, text: str) -> DeviceError:
    if name == "CUDA_ERROR_OUT_OF_MEMORY":
        return DeviceError(f"CUDA: {function}: the GPU is out of memory; close other programs or lower the batch size")
    return DeviceError(f"CUDA: {function} failed ({name or 'error'}: {text})")


_opened: list[Cuda] = []
_opening = threading.Lock()


def open_cuda() -> Cuda:
    """CUDA on device 0, opened once in a process: through pycuda if it is installed, else cuda-bindings.

    CUDA decides which physical GPU is device 0; set CUDA_VISIBLE_DEVICES to change it.

    Raises:
        DeviceError: neither is installed, or there is no driver or no GPU.
    """
    with _opening:
        if not _opened:
            _opened.append(_open())
        return _opened[0]


def _open() -> Cuda:
    try:
        return PyCuda()
    except ImportError as error:
        first = error
    try:
        return BindingsCuda()
    except ImportError as error:
        raise DeviceError(
            f"neither pycuda ({first}) nor cuda-bindings ({error}) can be imported; "
            "pip install 'edge-tracker[tensorrt]' (or [pycuda])"
        ) from error


def compile_kernel(source: str, capability: str, cache: Path) -> bytes:
    """Compile CUDA C to a cubin for one compute capability, kept in `cache`.

    NVRTC compiles it if it is installed, otherwise nvcc through pycuda.

    Args:
        source: CUDA C.
        capability: the GPU's, e.g. "8.7".
        cache: folder for compiled kernels.

    Raises:
        DeviceError: there is no compiler, or it fails.
    """
    target = f"sm_{capability.replace('.', '')}"
    kept = cache / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.{target}.cubin"
    if kept.is_file():
        return kept.read_bytes()
    try:
        cubin = _nvrtc(source, target)
    except ImportError:
        cubin = _nvcc(source, target)
    # If the cache cannot be written, the next start only takes longer.
    with suppress(OSError), atomic_path(kept) as partial:
        partial.write_bytes(cubin)
    return cubin


def _nvrtc(source: str, target: str) -> bytes:
    from cuda.bindings import nvrtc

    def call(function: str, *args: Any) -> Any:
        result, *values = getattr(nvrtc, function)(*args)
        return int(result), values[0] if values else None

    try:
        _, program = call("nvrtcCreateProgram", source.encode(), b"edge_tracker.cu", 0, [], [])
    except RuntimeError as error:  # its library cannot be loaded
        raise ImportError(str(error)) from error
    failed, _ = call("nvrtcCompileProgram", program, 1, [f"--gpu-architecture={target}".encode()])
    if failed:
        log = b" " * call("nvrtcGetProgramLogSize", program)[1]
        call("nvrtcGetProgramLog", program, log)
        raise DeviceError(f"NVRTC cannot compile a kernel for {target}: {log.decode().rstrip(chr(0))}")
    cubin: bytes = b" " * call("nvrtcGetCUBINSize", program)[1]
    call("nvrtcGetCUBIN", program, cubin)
    call("nvrtcDestroyProgram", program)
    return cubin


def _nvcc(source: str, target: str) -> bytes:
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    try:
        from pycuda import compiler

        return bytes(compiler.compile(source, nvcc=nvcc, arch=target, no_extern_c=True))
    except ImportError as error:
        raise DeviceError("neither NVRTC nor pycuda is installed; pip install nvidia-cuda-nvrtc") from error
    except Exception as error:  # pycuda's CompileError, or no nvcc
        raise DeviceError(f"nvcc cannot compile a kernel for {target} ({error})") from error
