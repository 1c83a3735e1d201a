"""Gives memory back that files were mapped into, so that a large file can be read through with little of it."""

from __future__ import annotations

import ctypes
import mmap

MADV_DONTNEED = 4  # on Linux and on macOS


def release_pages(address: int, n_bytes: int) -> None:
    """Let go of the whole pages of a private, unwritten file mapping; reading them again reads the file again.

    Neither torch nor safetensors hand out the mmap object that could be asked in Python.
    """
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (address + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(MADV_DONTNEED))
