"""The output file of a batch: rows are appended whole, and a row exists once its newline is on the disk.

A kill at any moment leaves whole rows and at most one torn one at the end, which the next start moves
aside. So resuming is running the same command again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from ..errors import OutputFailed, OutputRefused
from .rows import hash_of

READ_BYTES = 1 << 20

# How every row of ours begins; anything else is read as JSON.
OWN_BEGINNING = b'{"id": '
OWN_ROW = re.compile(rb'\{"id": "(?:[^"\\]*", "custom_id": ")?([^"\\]*)", "index": ')
ERROR_MARK = re.compile(rb'"error": \{"code": "[a-z_]+", "message": "[^"]*(?:\\"[^"]*)*"\}\}$')


class WrittenRow(NamedTuple):
    """A row found in the file."""

    custom_id: str
    is_error: bool
    offset: int
    size: int


class Done:
    """The ids that need not run again, 8 bytes each."""

    def __init__(self, hashes: array[int]) -> None:
        self._sorted = numpy.sort(numpy.frombuffer(hashes, dtype=numpy.uint64)) if hashes else None

    def __len__(self) -> int:
        return 0 if self._sorted is None else len(self._sorted)

    def among(self, hashes: numpy.ndarray[tuple[int], numpy.dtype[numpy.uint64]]) -> bytes:
        """A byte for each hash: 1 if it is here."""
        if self._sorted is None:
            return bytes(len(hashes))
        places = numpy.searchsorted(self._sorted, hashes).clip(max=len(self._sorted) - 1)
        found: bytes = (self._sorted[places] == hashes).tobytes()
        return found

    def __contains__(self, custom_id: str) -> bool:
        if self._sorted is None:
            return False
        wanted = numpy.uint64(hash_of(custom_id))
        place = int(numpy.searchsorted(self._sorted, wanted))
        return place < len(self._sorted) and bool(self._sorted[place] == wanted)


class Ledger:
    """One output file, locked for this process. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn: Path | None = None  # where a torn last row was moved
        if path.exists() and not path.is_file():  # opening a pipe waits for its reader, for ever
            raise OutputRefused(f"{path} is no regular file", "give a file with -o, or -o - for standard output")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _failed(path, error) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise OutputRefused(
                f"{path} is being written by another run", "wait for it, or give another output with -o"
            ) from None
        self._size = self._repair()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    def _repair(self) -> int:
        """Move what follows the last newline into a file of its own; returns the size of what stays."""
        size = os.fstat(self._fd).st_size
        keep = self._end_of_last_row(size)
        if keep < size:
            self._refuse_foreign(has_rows=keep > 0)
            self.torn = self.path.with_name(f"{self.path.name}.torn-{time.time_ns()}")
            self.torn.write_bytes(os.pread(self._fd, size - keep, keep))
            os.ftruncate(self._fd, keep)
            os.fsync(self._fd)
        return keep

    def _refuse_foreign(self, *, has_rows: bool) -> None:
        """OutputRefused if the file was not begun by a batch: its last line is none of ours to move."""
        with open(self.path, "rb") as file:
            first = file.readline() if has_rows else file.read(len(OWN_BEGINNING))
        if has_rows:
            _read_row(self.path, first, 0)
        elif not OWN_BEGINNING.startswith(first):
            raise _foreign(self.path, 0)

    def _end_of_last_row(self, size: int) -> int:
        end = size
        while end:
            start = max(0, end - READ_BYTES)
            place = os.pread(self._fd, end - start, start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
        return 0

    def rows(self) -> Iterator[WrittenRow]:
        """Every row in the file, with its place."""
        offset = 0
        with open(self.path, "rb", buffering=READ_BYTES) as file:
            for line in file:
                if offset + len(line) > self._size:
                    return
                yield _read_row(self.path, line, offset)
                offset += len(line)

    def done(self, *, retry_errors: bool) -> tuple[Done, int]:
        """The ids that are finished, and how many of their rows are errors."""
        hashes: array[int] = array("Q")
        n_errors = 0
        for row in self.rows():
            if row.is_error and retry_errors:
                continue
            hashes.append(hash_of(row.custom_id))
            n_errors += row.is_error
        return Done(hashes), n_errors

    def append(self, row: bytes) -> None:
        """Write one row and wait for the disk. OutputFailed leaves the file ending in a whole row."""
        assert row.endswith(b"\n"), "a row ends in its newline"
        written = 0
        try:
            while written < len(row):
                written += os.write(self._fd, row[written:])
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise _failed(self.path, error) from None
        self._size += len(row)

    def compact(self) -> None:
        """Keep one row for each id, the latest that is no error, in the order of their indexes."""
        best: dict[int, tuple[int, WrittenRow]] = {}
        for row in self.rows():
            index = int(json.loads(os.pread(self._fd, row.size, row.offset))["index"])
            if index not in best or not row.is_error or best[index][1].is_error:
                best[index] = (index, row)
        replace_file(self.path, (os.pread(self._fd, row.size, row.offset) for _, row in sorted(best.values())))


def _read_row(path: Path, line: bytes, offset: int) -> WrittenRow:
    match = OWN_ROW.match(line)
    is_error = ERROR_MARK.search(line.rstrip(b"\n")) is not None
    if match:
        return WrittenRow(match[1].decode(), is_error, offset, len(line))
    try:
        fields: dict[str, Any] = json.loads(line)
        custom_id = fields["custom_id"] if "custom_id" in fields else fields["id"]
        return WrittenRow(str(custom_id), bool(fields.get("error")), offset, len(line))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _foreign(path, offset) from None


def _foreign(path: Path, offset: int) -> OutputRefused:
    return OutputRefused(f"{path} holds a line at byte {offset} that no batch wrote", "give another output with -o")


def _failed(path: Path, error: OSError) -> OutputFailed:
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputFailed(f"cannot write {path}: {reason}; what is in it is whole", "free some space, run it again")
    return OutputFailed(f"cannot write {path}: {reason}", "look at where it goes, and run it again")


def replace_file(path: Path, parts: Iterator[bytes], *, private: bool = False) -> None:
    """Write a file whole: beside it, onto the disk, then over it by renaming. A private one is its owner's alone."""
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _failed(path, error) from None
