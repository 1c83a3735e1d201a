"""The output file of a run: rows are appended whole, and a row exists once its newline is on the disk.

A kill at any moment leaves whole rows and at most one torn one at the end, which the next start moves
aside. So resuming is running the same command again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputFailed, OutputRefused
from ..files.own import lock, open_own
from ..files.whole import read_at, write_all
from ..files.write import READABLE, replace_file, write_failed
from .finished import Asked, Finished
from .written import WrittenRow, lines_of, read_written

READ_BYTES = 1 << 20

OWN_BEGINNING = b'{"id": '


class Ledger:
    """One output file, locked for this process. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn: Path | None = None  # where a torn last row was moved
        self._fd = _open_locked(path)
        self._repair()
        self._begin()

    def _begin(self) -> None:
        """What follows is written by this run, and looked at once more at the end."""
        self._status = os.fstat(self._fd)
        self._size = self._began = self._status.st_size
        self._ctime_ns = self._status.st_ctime_ns
        self._is_touched = False  # by somebody else, who may only have changed its mode
        self._written = hashlib.blake2b()
        self._found: bytes | None = None  # a digest of what is before that

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """OutputFailed if the file is not what this run has written."""
        try:
            if kind is None:
                self._ensure_ours()
                self._ensure_unchanged()
        finally:
            os.close(self._fd)

    def _ensure_ours(self) -> None:
        """OutputFailed unless the path leads to the file that this run writes, as large as this run left it."""
        hint = "let nothing touch it while rows run; run the same command again for what is missing"
        try:
            now = self.path.stat()
        except OSError:
            raise OutputFailed(f"{self.path} was removed or renamed while this run wrote to it", hint) from None
        if not os.path.samestat(now, self._status):
            raise OutputFailed(f"{self.path} was replaced by another file while this run wrote to it", hint)
        if now.st_size != self._size:
            raise OutputFailed(
                f"{self.path} was changed by another program: it has {now.st_size:,} bytes,"
                f" this run left {self._size:,}",
                hint,
            )
        self._is_touched |= now.st_ctime_ns != self._ctime_ns

    def _ensure_unchanged(self) -> None:
        """OutputFailed if what this run wrote does not stand there any more.

        What was there before is read once more only where somebody has touched the file.
        """
        is_whole = self._hash(self._began, self._size) == self._written.digest()
        if self._is_touched and self._found is not None:
            is_whole &= self._hash(0, self._began) == self._found
        if not is_whole:
            raise OutputFailed(
                f"{self.path} was changed by another program while this run wrote to it",
                "its rows cannot be trusted: give another output with -o, and begin anew",
            )

    def _hash(self, begin: int, end: int) -> bytes:
        digest = hashlib.blake2b()
        for start in range(begin, end, READ_BYTES):
            digest.update(read_at(self._fd, min(READ_BYTES, end - start), start))
        return digest.digest()

    def _repair(self) -> None:
        """Move what follows the last newline into a file of its own."""
        size = os.fstat(self._fd).st_size
        keep = self._end_of_last_row(size)
        if keep < size:
            self._refuse_foreign(has_rows=keep > 0)
            self.torn = self.path.with_name(f"{self.path.name}.torn-{time.time_ns()}")
            try:
                self._move_to(self.torn, keep, size)
            except OSError as error:
                raise write_failed(self.torn, error) from None

    def _move_to(self, path: Path, begin: int, end: int) -> None:
        """Cut the bytes from `begin` on off, once they are on the disk in a file of their own."""
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        with open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            for start in range(begin, end, READ_BYTES):
                file.write(read_at(self._fd, min(READ_BYTES, end - start), start))
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(self._fd, begin)
        os.fsync(self._fd)

    def _file(self) -> BinaryIO:
        """The file from its beginning, whatever its name means by now."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return open(os.dup(self._fd), "rb", buffering=READ_BYTES)

    def _refuse_foreign(self, *, has_rows: bool) -> None:
        """OutputRefused if the file was not begun by a batch: its last line is none of ours to move."""
        with self._file() as file:
            first = file.readline() if has_rows else file.read(len(OWN_BEGINNING))
        if has_rows:
            try:
                read_written(first, 0)
            except ValueError:
                raise _foreign(self.path, 0) from None
        elif not OWN_BEGINNING.startswith(first):
            raise _foreign(self.path, 0)

    def _end_of_last_row(self, size: int) -> int:
        end = size
        while end:
            start = max(0, end - READ_BYTES)
            place = read_at(self._fd, end - start, start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
        return 0

    def rows(self) -> Iterator[WrittenRow]:
        """Every row in the file, with its place."""
        return self._rows(hashlib.blake2b())

    def _rows(self, digest: hashlib.blake2b) -> Iterator[WrittenRow]:
        offset = 0
        try:
            with self._file() as file:
                for line in lines_of(file):
                    if offset + len(line) > self._size:
                        return
                    digest.update(line)
                    yield read_written(line, offset)
                    offset += len(line)
        except ValueError:
            raise _foreign(self.path, offset) from None

    def finished(self) -> Finished:
        """All of them, in numbers."""
        digest = hashlib.blake2b()
        found = Finished(self._rows(digest))
        if self._size == self._began:
            self._found = digest.digest()
        return found

    def append(self, row: bytes) -> None:
        """Write one row and wait for the disk. OutputFailed leaves the file ending in a whole row.

        It says so, too, if another program has removed, replaced or changed the file.
        """
        assert row.endswith(b"\n"), "a row ends in its newline"
        self._ensure_ours()
        try:
            write_all(self._fd, row)
            os.fsync(self._fd)
        except OSError as error:
            raise self._take_back(error) from None
        self._size += len(row)
        self._ctime_ns = os.fstat(self._fd).st_ctime_ns
        self._written.update(row)

    def _take_back(self, error: OSError) -> OutputFailed:
        """Cut off what was written of a row; what to raise."""
        whole = ""
        with suppress(OSError):
            if os.fstat(self._fd).st_size >= self._size:  # to make it longer would fill it with zeros
                os.ftruncate(self._fd, self._size)
                whole = "; what is in it is whole"
        return write_failed(self.path, error, more=whole)

    def compact(self, asked: Asked) -> None:
        """Keep one row for each id, one that answers what is asked for now, rather no error, and in their order."""
        self._ensure_ours()
        self._ensure_unchanged()
        found = self.finished()
        kept = found.best(asked)
        replace_file(self.path, (read_at(self._fd, int(found.sizes[row]), int(found.offsets[row])) for row in kept))
        before, self._fd = self._fd, _open_locked(self.path)
        os.close(before)
        self._begin()


def _open_locked(path: Path) -> int:
    """A descriptor of an output that no other run has; OutputRefused if one has it."""
    handle = _open(path)
    if not lock(handle):
        os.close(handle)
        raise OutputRefused(f"{path} is being written by another run", "wait for it, or give another output with -o")
    return handle


def _open(path: Path) -> int:
    """A descriptor of an output, made if need be. OutputRefused if it is no file, OutputFailed if it cannot be."""
    hint = "give a file with -o, or -o - for standard output"
    try:
        if path.exists() and not path.is_file():
            raise OutputRefused(f"{path} is no regular file", hint)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, READABLE)
    except OSError as error:
        raise write_failed(path, error) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # it became one meanwhile: a pipe would wait for its reader
        os.close(handle)
        raise OutputRefused(f"{path} is no regular file", hint)
    return handle


def _foreign(path: Path, offset: int) -> OutputRefused:
    return OutputRefused(f"{path} holds a line at byte {offset} that no batch wrote", "give another output with -o")
