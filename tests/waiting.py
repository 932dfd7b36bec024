"""Waiting for what another thread or process does, and a port for it to be found at."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")

# How long something takes is not what is tested.
PATIENCE_S = 60.0
COMPILING_S = 900.0  # for a program that compiles the tracker first, on a busy machine


def wait_for(condition: Callable[[], T], what: str | Callable[[], str] = "", seconds: float = PATIENCE_S) -> T:
    """Wait until a condition is true; gives what it says. `what` is for the failure: what is waited for, or a log."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s: {what() if callable(what) else what}"
        time.sleep(0.01)
    return answer


wait_for_program = partial(wait_for, seconds=COMPILING_S)


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
