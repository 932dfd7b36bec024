"""Passing items from one thread to the next through a bounded queue."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAKE_S = 0.2  # interval at which waiting threads check whether the run is to end


def put_while(wanted: Callable[[], bool], into: queue.Queue[T], item: T) -> bool:
    """Wait for room and put `item` in; False as soon as it is no longer wanted."""
    while wanted():
        try:
            into.put(item, timeout=WAKE_S)
            return True
        except queue.Full:
            continue
    return False
