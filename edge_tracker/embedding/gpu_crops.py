"""Cutting, resizing and normalising crops on the GPU, directly into an engine's input.

The results equal those of the CPU to within one grey level.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from edge_tracker.errors import DeviceError, InputError
from edge_tracker.inference.cuda import Cuda, compile_kernel
from edge_tracker.inference.manifest import ImageInput
from edge_tracker.inference.tensorrt import TensorRTModel

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("crops.cu")
_BLOCK = (32, 8, 1)

# Left, top, right, bottom in whole pixels inside the frame, and the crop's pixels to keep (None: all).
Region = tuple[tuple[int, int, int, int], "npt.NDArray[Any] | None"]


class GpuCrops:
    """Runs an engine on crops of a frame that are made on the GPU.

    The frame is uploaded once. A frame that is on the GPU already, as any object with `__cuda_array_interface__`
    (PyTorch, CuPy, NVIDIA's decoders), is used in place.

    Args:
        model: the engine.
        spec: its image input; see `supports`.
        bgr: True if frames are BGR, False for RGB.

    Raises:
        DeviceError: the kernel cannot be compiled.
    """

    def __init__(self, model: TensorRTModel, spec: ImageInput, bgr: bool = True) -> None:
        self._model, self._spec = model, spec
        cuda = self._cuda = model.cuda
        self._reverse = (spec.color == "BGR") != bgr
        self._lock = threading.Lock()
        self._stack = ExitStack()
        cubin = compile_kernel(_SOURCE.read_text(), cuda.gpu.capability, user_cache_path("edge-tracker") / "kernels")
        with cuda.current(), ExitStack() as stack:
            self._kernel = cuda.load_kernel(cubin, "crop_resize")
            stack.callback(cuda.free_kernel, self._kernel)
            self._event = cuda.event()
            stack.callback(cuda.free_event, self._event)
            self._frame, self._boxes, self._masks, self._mask_at = (_Staged(cuda, stack) for _ in range(4))
            self._stack = stack.pop_all()

    @staticmethod
    def supports(spec: ImageInput) -> bool:
        """True if the kernel can make this image input."""
        return (spec.resize, spec.interpolation) == ("stretch", "linear") and spec.dtype in ("uint8", "float32")

    def run(
        self, frame: Any, regions: Sequence[Region], fill: Sequence[int] | npt.NDArray[np.uint8] = (0, 0, 0)
    ) -> list[npt.NDArray[Any]]:
        """The engine's outputs for crops of a frame.

        Args:
            frame: (H, W, 3) uint8, in memory or on the GPU.
            regions: the crops.
            fill: colour of pixels that are not kept, in the frame's channel order.

        Raises:
            InputError: a frame of another shape, type or layout.
            DeviceError: the GPU fails.
        """
        on_gpu = getattr(frame, "__cuda_array_interface__", None)
        host = np.empty(0, np.uint8) if on_gpu else np.ascontiguousarray(frame)
        shape, pitch = _layout(on_gpu or host.__array_interface__)
        boxes = np.array([box for box, _ in regions], np.int32).reshape(-1, 4)
        if boxes.size and not _inside(boxes, shape):
            raise InputError("a crop does not lie inside the frame")
        masks = [kept for _, kept in regions]
        sizes = np.array([0 if kept is None else kept.size for kept in masks], np.int64)
        mask_at = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1).astype(np.int64)
        packed = [np.ascontiguousarray(kept, np.uint8).reshape(-1) for kept in masks if kept is not None]
        colour = np.uint32(sum(int(level) << (8 * channel) for channel, level in enumerate(fill)))
        spec, cuda = self._spec, self._cuda
        levels = [*(spec.mean or (0.0, 0.0, 0.0)), *(spec.std or (1.0, 1.0, 1.0))]
        flags = (spec.layout == "NCHW", spec.dtype == "float32", self._reverse)
        grid = (-(-spec.width // _BLOCK[0]), -(-spec.height // _BLOCK[1]))
        at = dict.fromkeys(("frame", "boxes", "masks", "mask_at"), 0)

        def make(start: int, stop: int, addresses: dict[str, int], slot: int, stream: Any) -> None:
            if start == 0:
                if on_gpu:
                    at["frame"] = int(on_gpu["data"][0])
                    if on_gpu.get("stream") is not None:
                        cuda.wait_foreign(stream, int(on_gpu["stream"]), self._event)
                else:
                    at["frame"] = self._frame.put(host, stream)
                at["boxes"] = self._boxes.put(boxes, stream)
                at["mask_at"] = self._mask_at.put(mask_at, stream)
                at["masks"] = self._masks.put(np.concatenate(packed), stream) if packed else 0
            cuda.launch(
                self._kernel,
                (*grid, stop - start),
                _BLOCK,
                stream,
                np.uint64(at["frame"]),
                np.int32(pitch),
                np.uint64(at["boxes"] + start * boxes.itemsize * 4),
                np.uint64(at["masks"]),
                np.uint64(at["mask_at"] + start * mask_at.itemsize),
                colour,
                np.uint64(addresses[spec.name]),
                np.int32(spec.height),
                np.int32(spec.width),
                *(np.int32(flag) for flag in flags),
                *(np.float32(level) for level in levels),
            )

        with self._lock:
            return self._model.run_filled(len(boxes), make)

    def close(self) -> None:
        """Free the kernel and its buffers."""
        with self._lock, self._cuda.current(), self._stack:
            self._kernel = self._event = None


class _Staged:
    """A pinned and a device buffer that grow as needed."""

    def __init__(self, cuda: Cuda, stack: ExitStack) -> None:
        self._cuda = cuda
        self._host = np.empty(0, np.uint8)
        self._device = self._size = 0
        stack.callback(self._free)

    def put(self, array: npt.NDArray[Any], stream: Any) -> int:
        """Upload an array; returns its device address. The array before it must not be in use any more."""
        if array.nbytes > self._size:
            self._free()
            self._host = self._cuda.pinned(array.nbytes)
            self._device = self._cuda.alloc(array.nbytes)
            self._size = array.nbytes
        staged = self._host[: array.nbytes]
        staged[:] = array.reshape(-1).view(np.uint8)
        self._cuda.upload(self._device, staged, stream)
        return self._device

    def _free(self) -> None:
        self._size = 0
        if self._host.nbytes:
            self._cuda.free_pinned(self._host)
            self._host = np.empty(0, np.uint8)
        if self._device:
            self._cuda.free(self._device)
            self._device = 0


def _layout(interface: dict[str, Any]) -> tuple[tuple[int, int], int]:
    """Height and width, and bytes from one row to the next, of a frame given by its array interface."""
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    if len(shape) != 3 or shape[2] != 3 or interface["typestr"] != "|u1":
        raise InputError(f"a frame must be an array (height, width, 3) of uint8, not {shape} {interface['typestr']}")
    height, width = int(shape[0]), int(shape[1])
    if strides is not None and (tuple(strides[1:]) != (3, 1) or strides[0] < 3 * width):
        raise InputError(f"a frame's pixels must be adjacent in memory; its strides are {tuple(strides)}")
    return (height, width), int(strides[0]) if strides is not None else 3 * width


def _inside(boxes: npt.NDArray[np.int32], shape: tuple[int, int]) -> bool:
    left, top, right, bottom = boxes.T
    return bool(
        (left >= 0).all()
        and (top >= 0).all()
        and (right <= shape[1]).all()
        and (bottom <= shape[0]).all()
        and (right > left).all()
        and (bottom > top).all()
    )


def open_crops(model: object, spec: ImageInput, bgr: bool) -> GpuCrops | None:
    """Crops on the GPU for a model; None if the CPU has to make them: no engine, or no compiler for the kernel."""
    if not isinstance(model, TensorRTModel) or not GpuCrops.supports(spec):
        return None
    try:
        return GpuCrops(model, spec, bgr)
    except DeviceError as error:
        logger.warning("%s; crops are made on the CPU", error)
        return None
