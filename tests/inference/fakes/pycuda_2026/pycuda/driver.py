import ctypes
import struct

import numpy as np

_cuda = ctypes.CDLL("libcuda.so.1")
_void = ctypes.c_void_p


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


class RuntimeError(Error):
    pass


def _call(function, *args):
    result = getattr(_cuda, function)(*args)
    if result:
        kind = {2: MemoryError, 700: LogicError}.get(result, RuntimeError)
        raise kind(f"{function.removesuffix('_v2')} failed: {_name(result)}")


def _name(result):
    text = ctypes.c_char_p()
    _cuda.cuGetErrorName(result, ctypes.byref(text))
    return text.value.decode()


class event_flags:
    DEFAULT, BLOCKING_SYNC, DISABLE_TIMING = 0, 1, 2


def init(flags=0):
    _call("cuInit", flags)


class Device:
    def __init__(self, number):
        _call("cuDeviceGet", ctypes.byref(ctypes.c_int()), number)

    def name(self):
        text = ctypes.create_string_buffer(256)
        _call("cuDeviceGetName", text, 256, 0)
        return text.value.decode()

    def compute_capability(self):
        numbers = ctypes.c_int(), ctypes.c_int()
        _call("cuDeviceComputeCapability", *map(ctypes.byref, numbers), 0)
        return tuple(number.value for number in numbers)

    def retain_primary_context(self):
        return Context(self)


class Context:
    def __init__(self, device):
        self._handle = _void()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self._handle), 0)

    def push(self):
        _call("cuCtxPushCurrent_v2", self._handle)

    @staticmethod
    def pop():
        _call("cuCtxPopCurrent_v2", ctypes.byref(_void()))

    @staticmethod
    def synchronize():
        _call("cuCtxSynchronize")

    def detach(self):
        _call("cuDevicePrimaryCtxRelease_v2", 0)


def mem_get_info():
    sizes = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", *map(ctypes.byref, sizes))
    return tuple(size.value for size in sizes)


class DeviceAllocation:
    def __init__(self, nbytes):
        address = ctypes.c_ulonglong()
        _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        self._address = address.value

    def __int__(self):
        return self._address

    def free(self):
        _call("cuMemFree_v2", ctypes.c_ulonglong(self._address))


def mem_alloc(nbytes):
    return DeviceAllocation(nbytes)


class PagelockedHostAllocation:
    """The `base` of arrays of pinned memory."""

    def __init__(self, shape, dtype):
        address, nbytes = _void(), int(np.prod(shape)) * np.dtype(dtype).itemsize
        _call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(nbytes), 0)
        shape = shape if isinstance(shape, tuple) else (shape,)
        data = (address.value, False)
        self.__array_interface__ = {"shape": shape, "typestr": np.dtype(dtype).str, "data": data, "version": 3}

    def free(self):
        _call("cuMemFreeHost", _void(self.__array_interface__["data"][0]))


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    return np.asarray(PagelockedHostAllocation(shape, dtype))


class Stream:
    def __init__(self, flags=0):
        self._handle = _void()
        _call("cuStreamCreate", ctypes.byref(self._handle), flags)

    @property
    def handle(self):
        return self._handle.value

    def synchronize(self):
        _call("cuStreamSynchronize", self._handle)

    def wait_for_event(self, event):
        _call("cuStreamWaitEvent", self._handle, event._handle, 0)

    def __del__(self):
        _cuda.cuCtxPushCurrent_v2(_void(1))
        _cuda.cuStreamDestroy_v2(self._handle)
        _cuda.cuCtxPopCurrent_v2(ctypes.byref(_void()))


class Event:
    def __init__(self, flags=0):
        self._handle = _void()
        _call("cuEventCreate", ctypes.byref(self._handle), flags)

    def record(self, stream=None):
        _call("cuEventRecord", self._handle, stream._handle)

    def synchronize(self):
        _call("cuEventSynchronize", self._handle)

    def __del__(self):
        _cuda.cuCtxPushCurrent_v2(_void(1))
        _cuda.cuEventDestroy_v2(self._handle)
        _cuda.cuCtxPopCurrent_v2(ctypes.byref(_void()))


def memcpy_htod_async(dest, src, stream=None):
    _call(
        "cuMemcpyHtoDAsync_v2",
        ctypes.c_ulonglong(int(dest)),
        _void(src.ctypes.data),
        ctypes.c_size_t(src.nbytes),
        stream._handle,
    )


def memcpy_dtoh_async(dest, src, stream=None):
    _call(
        "cuMemcpyDtoHAsync_v2",
        _void(dest.ctypes.data),
        ctypes.c_ulonglong(int(src)),
        ctypes.c_size_t(dest.nbytes),
        stream._handle,
    )


class Module:
    def __init__(self, image):
        self._handle = _void()
        _call("cuModuleLoadDataEx", ctypes.byref(self._handle), image, 0, None, None)

    def get_function(self, name):
        return Function(self, name)

    def __del__(self):
        _cuda.cuCtxPushCurrent_v2(_void(1))
        _cuda.cuModuleUnload(self._handle)
        _cuda.cuCtxPopCurrent_v2(ctypes.byref(_void()))


def module_from_buffer(buffer, options=(), message_handler=None):
    return Module(buffer)


class Function:
    def __init__(self, module, name):
        self._module, self._handle = module, _void()
        _call("cuModuleGetFunction", ctypes.byref(self._handle), module._handle, name.encode())

    def __call__(self, *args, grid=(1, 1), block=None, stream=None, shared=0, texrefs=(), time_kernel=False):
        for number, arg in enumerate(args):
            if not isinstance(arg, np.number):
                raise TypeError(f"invalid type on parameter #{number} (0-based)")
        packed = struct.pack("".join(arg.dtype.char for arg in args), *args)
        buffer, size = ctypes.create_string_buffer(packed), ctypes.c_size_t(len(packed))
        extra = (_void * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
        _call("cuLaunchKernel", self._handle, *grid, *block, shared, stream._handle, None, extra)
