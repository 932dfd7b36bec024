"""The interface of an embedder: what a tracker asks of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]


class AppearanceEmbedder(Protocol):
    """An `Embedder`, or what stands in for one: shared between cameras, recording, or replaying a recording."""

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
        """The features (M, D) of detections in a frame; arguments and errors as of `Embedder.embed`."""
        ...

    def close(self) -> None:
        """Free what it holds. It cannot embed afterwards."""
        ...
