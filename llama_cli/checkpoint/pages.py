"""Gives memory back that mapped files take."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

MAPPINGS = Path("/proc/self/maps")


def trim_heap() -> None:
    """Give back what was freed between blocks that are still in use. Nothing happens where the C library cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    except (OSError, AttributeError):  # not glibc
        return


def drop_pages(files: Iterable[Path]) -> None:
    """Let the system take the pages of mapped files back now; looking at them again reads them again.

    Without it, all of a file that was read once counts as this process's memory. Nothing happens off Linux.
    """
    names = {os.path.realpath(file) for file in files}
    try:
        mappings = MAPPINGS.read_text(errors="surrogateescape")
    except OSError:
        return
    libc = ctypes.CDLL(None)
    for line in mappings.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
