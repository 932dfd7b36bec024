"""The interface of every backend: named arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_tracker.inference.availability import Availability
from edge_tracker.inference.manifest import ModelManifest

Feeds = Mapping[str, npt.NDArray[Any]]  # one array per input, by name
Outputs = list[npt.NDArray[Any]]  # all outputs, in the model's order

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
        name: its file or its address, for messages.
        short_name: the same without folder or server.
        device: the device it runs on: "cpu", "cuda", "tensorrt" or "triton".
        inputs, outputs: its tensors, in the file's order.
        metadata: the texts that the file contains besides the graph, by key.
        manifest: the description that `export` wrote into it; None for a file from elsewhere.
    """

    name: str
    short_name: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    manifest: ModelManifest | None

    @property
    def path(self) -> Path | None:
        """Its file; None for a model on a server."""
        ...

    @property
    def batch_limit(self) -> int | None:
        """The most rows that one batch may have; None for no limit."""
        ...

    @property
    def availability(self) -> Availability | None:
        """The state of its server; None for a model in this process, which is always available."""
        ...

    def run(self, feeds: Feeds) -> Outputs:
        """Compute all outputs, in the order of `outputs`, from one array per input."""
        ...

    def stream(self, batches: Iterable[Feeds]) -> Iterator[Outputs | None]:
        """The outputs of each batch, in order; None for one that a server lost.

        Batches are fetched one at a time. The arrays of one may be overwritten as soon as the next is fetched.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. It cannot run afterwards."""
        ...


class InProcess:
    """The part of `Model` that is the same for every model in this process."""

    batch_limit: int | None = None
    availability: Availability | None = None

    def run(self, feeds: Feeds) -> Outputs:
        """As `Model.run`."""
        raise NotImplementedError

    def stream(self, batches: Iterable[Feeds]) -> Iterator[Outputs | None]:
        """As `Model.stream`, one batch after the other."""
        for feeds in batches:
            yield self.run(feeds)


def signature(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """The tensors of a model in one line, for messages."""
    return f"inputs: {'; '.join(map(str, inputs))}; outputs: {'; '.join(map(str, outputs))}"
