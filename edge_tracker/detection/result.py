"""The detections of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Detections:
    """The objects in one frame; from a detector, the most confident first.

    Attributes:
        ltwh: (M, 4) float32 left, top, width, height in frame pixels.
        confidence: (M,) float32, 0..1.
        class_id: (M,) int64, each an index into `names`.
        names: the detector's classes.
    """

    ltwh: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]
    names: Sequence[str]

    @classmethod
    def none(cls, names: Sequence[str] = ()) -> Detections:
        """The detections of an empty frame."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names)

    def __len__(self) -> int:
        return len(self.ltwh)

    def select(self, which: npt.NDArray[Any]) -> Detections:
        """The detections selected by a boolean mask (M,), or by indices, in their order."""
        return replace(self, ltwh=self.ltwh[which], confidence=self.confidence[which], class_id=self.class_id[which])
