"""Gives memory back that mapped files take."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

MAPPINGS = Path("/proc/self/maps")

# malloc.h's names and numbers.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BLOCK, KEPT_IN_ALL = 128 << 20, 512 << 20

SMALLEST_DROPPED = 1 << 20


def trim_heap() -> None:
    """Give back what was freed between blocks that are still in use. Nothing happens where the C library cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    except (OSError, AttributeError):  # not glibc
        return


def keep_heap() -> None:
    """Keep what one step frees for the next: a page that went back to the system costs more than its arithmetic.

    Larger blocks than any step of a model with a few billion parameters makes still go back.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
    mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL)


def drop_pages(files: Iterable[Path]) -> None:
    """Let the system take the pages of mapped files back now; looking at them again reads them again.

    Without it, all of a file that was read once counts as this process's memory. Nothing happens off Linux, or to
    small files: asking the system where they lie takes longer than reading them.
    """
    names = {os.path.realpath(file) for file in files if file.stat().st_size >= SMALLEST_DROPPED}
    if not names:
        return
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
