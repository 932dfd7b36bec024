"""The interface of an embedder, as a tracker uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]


class AppearanceEmbedder(Protocol):
    """An `Embedder`, or a stand-in: one that is shared between cameras, records, or replays a recording."""

    @property
    def dimension(self) -> int:
        """Length D of the features."""
        ...

    def embed(
        self,
        frame: Any,
        ltwh: Any,
        masks: Sequence[npt.NDArray[Any]] | npt.NDArray[Any] | None = None,
        polygons: Sequence[Any] | None = None,
    ) -> Features:
        """The features (M, D) of detections in a frame; arguments and errors are those of `Embedder.embed`."""
        ...

    def close(self) -> None:
        """Free its model. It cannot embed afterwards."""
        ...
