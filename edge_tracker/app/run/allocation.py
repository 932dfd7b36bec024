"""Memory that returns to the system as soon as it is freed."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE = 128 << 10  # glibc's own starting value, bytes


def give_back_large_blocks() -> None:
    """Keep frames out of the heaps of the threads that decode, track and write them.

    glibc raises the size from which a block is given back when it is freed, up to 32 MiB, as large blocks are freed
    (mallopt(3)). Frames then come from a heap for each thread, which never shrinks: some 40 MiB for one small camera.
    Set explicitly, the size stays. Other C libraries have no such heaps, and nothing is done.
    """
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
    except (OSError, AttributeError):
        return
