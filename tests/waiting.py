"""Running work in other threads, waiting for other threads and processes, and finding ports for them."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")

# How long something takes is not what is tested.
PATIENCE_S = 300.0
COMPILING_S = 900.0  # for a program that compiles the tracker first, on a busy machine
WORKERS = 64  # more than pytest-xdist is started with


def wait_for(condition: Callable[[], T], what: str | Callable[[], str] = "", seconds: float = PATIENCE_S) -> T:
    """Wait until a condition is true, and return its value. A failure quotes `what`: a description, or a log."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s: {what() if callable(what) else what}"
        time.sleep(0.01)
    return answer


wait_for_program = partial(wait_for, seconds=COMPILING_S)


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread during the block; at its end, set the event of `work` and wait for the thread."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nobody listens on.

    They lie below those that the kernel gives to outgoing connections. Otherwise such a connection could take the port
    while its server is away, and a client looking for that server could even connect to itself. Each worker of
    pytest-xdist has ports of its own, since a port stays free until its server listens.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randrange(15_000 + worker, 32_000, WORKERS)
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                ports.append(port)
        return ports


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]
