"""Folders for the time that a process lives: what a killed one left is cleared by the next that makes such a folder."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from .own import lock

SECONDS_TO_LOCK = 10.0  # far more than lie between the making of a folder and its lock


class Scratch:
    """A folder that nobody else may look into, locked as long as this process has it. Use it as a context manager."""

    def __init__(self, parent: Path, prefix: str) -> None:
        _clear_left(parent, prefix)
        self._folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent)
        self.path = Path(self._folder.name)
        self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        lock(self._handle)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        self._folder.cleanup()
        os.close(self._handle)


def _clear_left(parent: Path, prefix: str) -> None:
    before = time.time() - SECONDS_TO_LOCK
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(handle)
                is_ours = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
                if is_ours and found.st_mtime < before and lock(handle):
                    shutil.rmtree(folder)
            finally:
                os.close(handle)
