"""An open input of rows: a file, a pipe or standard input, plain or gzip. Knows nothing of what a line means."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import zlib
from contextlib import ExitStack
from io import BufferedRandom, BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputRejected
from ..files import magic
from ..files.whole import read_at
from ..files.write import write_failed

if TYPE_CHECKING:
    Buffered = BufferedReader[Any] | BufferedRandom

STANDARD_INPUT = "standard input"
GZIP = magic.GZIP.beginning
BUFFER_BYTES = 1 << 16
SAMPLE_BYTES = 1 << 16


class Source:
    """Bytes that are read line by line, some of them again from the beginning."""

    def __init__(self, file: Buffered, name: str) -> None:
        self.name = name
        self.is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self.can_rewind = self.is_file
        self._begin = file.tell() if self.is_file else 0  # a shell may have read some of standard input already
        status = os.fstat(file.fileno())
        self._before, self._ctime_ns = _state(status), status.st_ctime_ns
        self._take(file)

    def _take(self, file: Buffered) -> None:
        self._stored = file  # the bytes as they lie on the disk
        self._file = gzip.GzipFile(fileobj=file) if file.peek(len(GZIP)).startswith(GZIP) else file

    def rewind(self) -> None:
        """Go back to the beginning, where that can be done."""
        if self.can_rewind:
            self._stored.seek(self._begin)
            self._take(self._stored)

    def keep(self, stack: ExitStack) -> None:
        """Copy what can be read only once into a nameless file, so that it can be read again; `stack` closes it."""
        if self.can_rewind:
            return
        try:
            copy: BufferedRandom = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            shutil.copyfileobj(self._stored, copy)
            copy.seek(0)
        except OSError as error:
            raise write_failed(Path(tempfile.gettempdir()), error) from None
        self.can_rewind = True
        self._take(copy)

    def readline(self, most_bytes: int) -> bytes:
        """The next line with its end, or so many bytes of it. InputRejected if it cannot be read."""
        try:
            return self._file.readline(most_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from None

    def peek(self) -> bytes:
        """Some of what comes next, which stays to be read."""
        try:
            return self._file.peek(1)
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> InputRejected:
        reason = str(getattr(error, "strerror", None) or error).lower()
        if self._file is self._stored:
            return InputRejected(f"cannot read {self.name}: {reason}", "give another file")
        return InputRejected(f"{self.name} is damaged gzip: {reason}", "make it again, or gunzip it yourself")

    def describe(self) -> dict[str, Any] | None:
        """Size and a hash of the beginning and the end of a file, to notice another one; None for a pipe."""
        if not self.is_file:
            return None
        handle = self._stored.fileno()
        size = os.fstat(handle).st_size - self._begin
        digest = hashlib.sha256(read_at(handle, SAMPLE_BYTES, self._begin))
        digest.update(read_at(handle, SAMPLE_BYTES, self._begin + max(0, size - SAMPLE_BYTES)))
        return {"size": size, "sha256": digest.hexdigest()}

    def ensure_unchanged(self) -> None:
        """InputRejected if a file is not what it was when it was opened."""
        if not self.is_file:
            return
        now = os.fstat(self._stored.fileno())
        is_there = self.name == STANDARD_INPUT or self.is_at(Path(self.name))
        if not is_there or _state(now) != self._before:
            what = "changed" if is_there else "was removed, renamed or replaced"
            raise changed_input(f"{self.name} {what} while it was read")

    def was_touched(self) -> bool:
        """Whether something was done to a file, were it only to put the time of its last change back."""
        return self.is_file and os.fstat(self._stored.fileno()).st_ctime_ns != self._ctime_ns

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to this very file."""
        return path.exists() and os.path.samestat(os.fstat(self._stored.fileno()), path.stat())


def changed_input(message: str) -> InputRejected:
    """What to say of an input that changes under a run."""
    return InputRejected(message, "let nothing write to it while it is read; run the same command again for the rest")


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def open_source(stack: ExitStack, name: str) -> Source:
    """A file of rows, or standard input for `-`; `stack` closes it."""
    if name == "-":
        if sys.stdin is None:
            raise InputRejected("standard input is closed", "give a file")
        return Source(sys.stdin.buffer, STANDARD_INPUT)  # type: ignore[arg-type]
    try:
        return Source(stack.enter_context(BufferedReader(FileIO(name), BUFFER_BYTES)), name)
    except OSError as error:
        raise InputRejected(
            f"cannot read {name}: {(error.strerror or str(error)).lower()}", "give another file"
        ) from None
