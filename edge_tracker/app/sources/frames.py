"""Frames, and the protocol of their sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import time as now
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a source.

    Attributes:
        index: number within the source, from 1. Frames that a live source dropped are not numbered.
        time: seconds since the first frame; never less than that of the frame before, whatever the clocks do.
        image: (H, W, 3) uint8, BGR; None where detections are replayed without images. A live source may change H and W
            when it reconnects.
        wall: Unix time in seconds at which it was taken or read, for people and messages. It may jump; time steps
            come from `time`.
    """

    index: int
    time: float
    image: np.ndarray | None
    wall: float = field(default_factory=now)


class Source(Protocol):
    """Frames in order.

    Attributes:
        name: its name in messages, without credentials.
        fps: frames per second, or None if unknown.
        frame_count: number of frames, or None if unknown. A container's own figure may be wrong.
        live: True for a `LiveSource`: frames come as time passes, and those not read are lost.
    """

    @property
    def name(self) -> str: ...

    @property
    def fps(self) -> float | None: ...

    @property
    def frame_count(self) -> int | None: ...

    @property
    def live(self) -> bool: ...

    def __iter__(self) -> Iterator[Frame]:
        """The frames, once."""

    def close(self) -> None:
        """Release the file or the device."""
