"""Returning memory to the system as soon as it is free."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE = 128 << 10  # glibc's own starting value, bytes


def give_back_large_blocks() -> None:
    """Keep frames out of the heaps of the threads that decode, track and write them.

    Whenever a large block is freed, glibc raises the size from which blocks are returned to the system, up to 32 MiB
    (mallopt(3)). Frames are then allocated in the heap of each thread, which never shrinks: some 40 MiB for one small
    camera. If the size is set explicitly, it stays. Other C libraries have no such heaps, and nothing is done.
    """
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
    except (OSError, AttributeError):
        return
