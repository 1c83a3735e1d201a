"""Reads and writes all of what was asked for: a signal or a network's file system ends a call of the system early."""

from __future__ import annotations

import os


def read_at(handle: int, n_bytes: int, place: int) -> bytes:
    """So many bytes from a place on; fewer only where the file ends before."""
    parts: list[bytes] = []
    while n_bytes and (part := os.pread(handle, n_bytes, place)):
        parts.append(part)
        n_bytes, place = n_bytes - len(part), place + len(part)
    return b"".join(parts)


def write_all(handle: int, data: bytes) -> None:
    """All bytes at the end of what was written. A full disk takes a part first and fails at the rest."""
    n_written = 0
    while n_written < len(data):
        n_written += os.write(handle, data[n_written:])


def write_all_at(handle: int, data: bytes | memoryview, place: int) -> None:
    """The same at a place of its own."""
    left = memoryview(data)
    while left:
        n_written = os.pwrite(handle, left, place)
        place, left = place + n_written, left[n_written:]
