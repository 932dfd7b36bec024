"""Weights from files, as they are published: read without running anything that a file may contain.

The layouts are distinguished by the first bytes of a file, not by its name:
    pytorch      written by torch.save, old and new: a state dict, bare or inside a training checkpoint.
    torchscript  written by torch.jit.save, such as OpenAI's CLIP archives.
    safetensors  names and arrays, nothing else.

A pickle is a program. torch.load(weights_only=True) runs only the parts that tensors need, and refuses the rest; it has
been safe since torch 2.6 (CVE-2025-32434). A TorchScript archive is a program as well: torch.jit.load executes the
`__setstate__` of its classes, which can write files. Only its tensors are needed here, so `_TorchScript` below reads
those from the archive itself, and the archive's code is never compiled or run.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from edge_tracker.errors import ModelError

# The keys under which training checkpoints keep their weights.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# The prefix that torch.nn.DataParallel puts before every name.
PARALLEL = "module."
# Counts batches in training; unused in evaluation, and missing in files older than PyTorch 0.4.1.
COUNTER = "num_batches_tracked"

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
NOT_WEIGHTS = {
    b"<": "a web page, not weights: the download asked for a confirmation or failed",
    b"version https://git-lfs": "a Git LFS pointer, not the weights it points to: run `git lfs pull`",
    b"\x1f\x8b": "a gzip archive: unpack it first",
}


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and the file they came from.

    Attributes:
        path: the file.
        layout: "pytorch", "torchscript" or "safetensors".
        tensors: by parameter name, without `module.`; floating-point ones are float32.
    """

    path: Path
    layout: str
    tensors: dict[str, Tensor]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file of weights in any of the layouts above.

    Raises:
        ModelError: the file is missing, truncated, not weights, or contains code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    content: Any
    if start.startswith(ZIP) and _is_torchscript(path):
        layout, content = "torchscript", _TorchScript(path).read()
    elif start.startswith((ZIP, PICKLE)):
        layout, content = "pytorch", _torch_load(path)
    elif start[8:9] == b"{":
        layout, content = "safetensors", _load_safetensors(path)
    else:
        meaning = next((meaning for sign, meaning in NOT_WEIGHTS.items() if start.lstrip().startswith(sign)), None)
        what = meaning or ("neither a PyTorch, a TorchScript nor a safetensors file" if start else "empty")
        raise ModelError(f"{path}: {what}")
    return Checkpoint(path, layout, _tensors(content, path))


def fill(network: nn.Module, weights: Mapping[str, Tensor], origin: str, ignore: Iterable[str] = ()) -> None:
    """Put weights into a network: all that it has, with none left over.

    Args:
        network: may be on the meta device; afterwards it is on the CPU, shares the tensors' memory, and is in
            evaluation mode.
        weights: by parameter name.
        origin: the file, for the error.
        ignore: prefixes of names that may be left over, e.g. "classifier.".

    Raises:
        ModelError: a weight is missing, left over, has another shape, or is not finite.
    """
    wanted = network.state_dict()
    ignored = tuple(ignore)
    given = {name: tensor for name, tensor in weights.items() if name in wanted or not name.startswith(ignored)}
    for name, place in wanted.items():
        if name.endswith(COUNTER) and place.dim() == 0:
            given[name] = torch.zeros((), dtype=torch.long)
    complaints = []
    for what, names in (("missing", wanted.keys() - given.keys()), ("left over", given.keys() - wanted.keys())):
        if names:
            complaints.append(f"{len(names)} {what} ({_some(sorted(names))})")
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(place.shape)}"
        for name, place in wanted.items()
        if name in given and given[name].shape != place.shape
    ]
    if shapes:
        complaints.append(f"{len(shapes)} of another shape ({_some(shapes)})")
    if complaints:
        raise ModelError(f"{origin}: not the weights of this network: " + "; ".join(complaints))
    broken = [name for name, tensor in given.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ModelError(f"{origin}: {len(broken)} weights are not finite ({_some(broken)})")
    network.load_state_dict(given, assign=True)
    network.requires_grad_(False).eval()


def fits(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """True if the weights have all the names that the network needs, in its shapes (they may have more)."""
    return all(
        name.endswith(COUNTER) or (name in weights and weights[name].shape == place.shape)
        for name, place in network.state_dict().items()
    )


def _some(items: list[str], limit: int = 3) -> str:
    return ", ".join(items[:limit]) + (", …" if len(items) > limit else "")


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in the content of a file."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
        found = {
            str(name).removeprefix(PARALLEL): tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in content.items()
            if isinstance(tensor, Tensor)
        }
        if found:
            return found
        raise ModelError(f"{path}: holds no weights, only {_some([str(key) for key in content]) or 'an empty dict'}")
    raise ModelError(f"{path}: holds a {type(content).__name__}, not weights by name")


def _refuse(path: Path, name: str) -> NoReturn:
    raise ModelError(f"{path}: contains code ({name}), not only weights; none of it was run. Save only its state dict")


class _Blank:
    """Stands for a NumPy value beside the weights, such as the accuracy that Torchreid notes; read and dropped."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_NUMPY = (
    "dtype",
    "ndarray",
    "core.multiarray.scalar",
    "core.multiarray._reconstruct",
    "_core.multiarray.scalar",
    "_core.multiarray._reconstruct",
)


def _torch_load(path: Path) -> Any:
    blanks: list[Any] = [(_Blank, f"numpy.{name}") for name in _NUMPY]
    try:
        # latin1 is for files pickled by Python 2.
        with torch.serialization.safe_globals(blanks), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        foreign = re.search(r"(?:GLOBAL|unrecognized function) (\S+)", str(error))
        if foreign:
            _refuse(path, foreign[1])
        # Torch's own advice around it is to read the file without these checks.
        reason = str(error).split("WeightsUnpickler error:")[-1].partition("Check the documentation")[0]
        raise _damaged(path, type(error)(reason)) from error
    except MemoryError:
        raise
    except Exception as error:
        # A damaged pickle can raise anything.
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:160]
    return ModelError(f"{path}: truncated or damaged ({type(error).__name__}{': ' + reason if reason else ''})")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from error


_DTYPES = {
    "HalfStorage": torch.half,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float,
    "DoubleStorage": torch.double,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.short,
    "IntStorage": torch.int,
    "LongStorage": torch.long,
    "BoolStorage": torch.bool,
}


class _Node:
    """An object of a TorchScript class: its attributes, and none of its code.

    One with its own `__getstate__` stores something other than its attributes, which only its code can read.
    """

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


@dataclass(frozen=True)
class _Storage:
    """The memory of an archive's tensors."""

    values: Tensor


class _TorchScript(pickle.Unpickler):
    """Reads the tensors of a TorchScript archive, as torch.jit.load(path).state_dict() would return them.

    The archive is a zip file. Its `data.pkl` pickles the tree of modules, in which a tensor is a view of a storage, and
    a storage is a file `data/N`. Of the names in a pickle only the few below are resolved; a class of the archive
    becomes a `_Node`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def read(self) -> dict[str, Tensor]:
        """The tensors by name.

        Raises:
            ModelError: the archive is damaged, has a layout from before PyTorch 1.4, or names something not needed.
        """
        try:
            with zipfile.ZipFile(self.path) as self.archive:
                (pickled,) = (name for name in self.archive.namelist() if name.endswith("/data.pkl"))
                self.root = pickled.removesuffix("data.pkl")
                order = f"{self.root}byteorder"
                if order in self.archive.namelist() and self.archive.read(order).strip() != b"little":
                    raise ValueError("written on a big-endian machine")
                with self.archive.open(pickled) as file:
                    super().__init__(file)
                    return self._collect(self.load())
        except (ModelError, MemoryError):
            raise
        except Exception as error:
            # A damaged pickle can raise anything.
            raise _damaged(self.path, error) from error

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Node
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":
            # Lists and dicts of a declared type: build_intlist(values), restore_type_tag(value, type).
            return _untagged
        return _refuse(self.path, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, length = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"unknown reference {kind}")
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}"))
            if len(content) != length * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(content)} bytes, {length * dtype.itemsize} expected")
            self.storages[key] = _Storage(
                torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]

    @staticmethod
    def _collect(root: Any) -> dict[str, Tensor]:
        """Tensors by their path of attributes."""
        tensors: dict[str, Tensor] = {}
        seen = set()
        todo: list[tuple[str, Any]] = [("", root)]
        while todo:
            prefix, node = todo.pop()
            if not isinstance(node, _Node) or id(node) in seen:
                continue
            seen.add(id(node))
            for name, value in vars(node).items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{name}"] = value
                else:
                    todo.append((f"{prefix}{name}.", value))
        return tensors


def _rebuild(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    # as_strided checks that the view lies within the storage.
    return torch.as_strided(storage.values, size, stride, offset)


def _untagged(value: Any, *_: Any) -> Any:
    return value
