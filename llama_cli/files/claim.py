"""Holds a file that one process keeps up to date, and tells before the work whether it can be written."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ..errors import OutputFailed, OutputRefused
from .own import lock, open_own
from .write import write_failed

if TYPE_CHECKING:
    from typing_extensions import Self


class InUse(OutputRefused):
    """Another process has the file."""


class Claim:
    """A lock on a file against other processes. A file that is not there yet is locked once it has been written.

    `make` makes an empty one, so that it is held from now on. Use it as a context manager.
    """

    def __init__(self, path: Path, *, make: bool = False) -> None:
        self.path = path
        self._made = make
        ensure_writable(path)
        if make:
            os.close(open_own(path, os.O_RDWR | os.O_CREAT))
        self._handle = _hold(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handle is None:
            return
        if self._made and os.fstat(self._handle).st_size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = None

    def renew(self, path: Path) -> None:
        """Hold what was written now, which replaced the file that was held."""
        before = self._handle
        if before is not None and os.path.samestat(os.fstat(before), path.stat()):
            return
        self.path, self._handle = path, _hold(path)
        if before is not None:
            os.close(before)


def ensure_writable(path: Path) -> None:
    """OutputRefused if something else than a file has this name, OutputFailed if a file cannot be written there."""
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise OutputRefused(f"{path} is {what}", "give the name of a file")
        if mode is not None and not mode & 0o222:
            raise OutputFailed(
                f"cannot write {path}: it is read-only", f"chmod u+w {quote(str(path))}, or give another file"
            )
        with tempfile.TemporaryFile(dir=target.parent):  # whatever the modes say, this is what will be done
            pass
    except OSError as error:
        raise write_failed(path, error) from None


def _hold(path: Path) -> int | None:
    """The file, locked; None where there is none. InUse if another process has it."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise write_failed(path, error) from None
        if not lock(handle):
            os.close(handle)
            raise InUse(f"{path} is open in another chat", "leave that one first, or give another file")
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
        os.close(handle)  # it was replaced between opening and locking
