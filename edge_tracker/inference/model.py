"""What every backend offers: named arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_tracker.inference.manifest import ModelManifest

DEVICES = ("auto", "cpu", "cuda", "tensorrt")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: tensor name.
        shape: sizes, None where an axis is dynamic.
        dtype: element type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({sizes}) {self.dtype.name}"


class Model(Protocol):
    """A loaded model.

    Attributes:
        name: what it is called in messages: its file, or its address.
        path: the file it came from; None for a model on a server.
        device: what it runs on: "cpu", "cuda", "tensorrt" or "triton".
        inputs, outputs: its tensors, in the file's order.
        metadata: the text that the file carries beside the graph.
        manifest: what `export` wrote of it, or None for a file that did not come from there.
    """

    name: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    manifest: ModelManifest | None

    @property
    def path(self) -> Path | None: ...

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Compute all outputs, in the order of `outputs`, from one array per input."""
        ...

    def close(self) -> None:
        """Free what the model holds. It cannot run afterwards."""
        ...


def signature(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """The tensors of a model in one line, for messages."""
    return f"inputs: {'; '.join(map(str, inputs))}; outputs: {'; '.join(map(str, outputs))}"
