"""Handing things from one thread to the next through a bounded queue."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAKE_S = 0.2  # how often a thread that waits looks whether the run is to end


def put_while(wanted: Callable[[], bool], into: queue.Queue[T], item: T) -> bool:
    """Wait for room and put `item` in; False as soon as it is not wanted any more."""
    while wanted():
        try:
            into.put(item, timeout=WAKE_S)
            return True
        except queue.Full:
            continue
    return False
