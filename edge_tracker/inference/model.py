"""What every backend offers: named arrays in, arrays out."""

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
        name: what it is called in messages: its file, or its address.
        short_name: the same without folder or server.
        device: what it runs on: "cpu", "cuda", "tensorrt" or "triton".
        inputs, outputs: its tensors, in the file's order.
        metadata: the text that the file carries beside the graph.
        manifest: what `export` wrote of it, or None for a file that did not come from there.
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
        """The file it came from; None for a model on a server."""
        ...

    @property
    def batch_limit(self) -> int | None:
        """Rows that one batch may have at most; None where there is no such limit."""
        ...

    @property
    def availability(self) -> Availability | None:
        """Whether its server can be asked; None for a model in this process, which is always there."""
        ...

    def run(self, feeds: Feeds) -> Outputs:
        """Compute all outputs, in the order of `outputs`, from one array per input."""
        ...

    def stream(self, batches: Iterable[Feeds]) -> Iterator[Outputs | None]:
        """The outputs of each batch, in order; None for one that a server lost.

        A batch is taken when it is needed: its arrays may be written again when the next is asked for.
        """
        ...

    def close(self) -> None:
        """Free what the model holds. It cannot run afterwards."""
        ...


class InProcess:
    """The part of `Model` that is the same for every model in this process."""

    batch_limit: int | None = None
    availability: Availability | None = None

    def run(self, feeds: Feeds) -> Outputs:
        """As `Model.run`."""
        raise NotImplementedError

    def stream(self, batches: Iterable[Feeds]) -> Iterator[Outputs | None]:
        """As `Model.stream`; each batch is run when it comes."""
        for feeds in batches:
            yield self.run(feeds)


def signature(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """The tensors of a model in one line, for messages."""
    return f"inputs: {'; '.join(map(str, inputs))}; outputs: {'; '.join(map(str, outputs))}"
