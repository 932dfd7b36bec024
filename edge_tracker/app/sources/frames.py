"""What a source gives: frames, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import time as now
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes:
        index: number within the source, from 1. Frames that a live source dropped are not numbered.
        time: seconds since the first frame; never less than that of the frame before, whatever the clocks do.
        image: (H, W, 3) uint8, BGR; None where detections are replayed without images. A live source may change H and W
            when it reconnects.
        wall: Unix time in seconds at which it was taken or read: for people and messages. It may jump; steps of time
            come from `time`.
    """

    index: int
    time: float
    image: np.ndarray | None
    wall: float = field(default_factory=now)


class Source(Protocol):
    """Frames in order.

    Attributes:
        name: what to call it in messages, without credentials.
        fps: frames per second, or None if unknown.
        frame_count: number of frames, or None if unknown. A container's own figure may be wrong.
        live: frames come as time passes; what is not read is lost. It is a `LiveSource`.
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
        """Let go of the file or the device."""
