"""Looks at a file before opening it, and notices when it changes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from ..errors import ModelRejected
from .quoting import hint_path, plain


class Identity(NamedTuple):
    """What stays the same while nobody touches a file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int  # which nobody can put back

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """That of what the system has looked at."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def identify(path: Path) -> Identity:
    """The identity of a regular file. Pipes, devices and folders are refused unopened: they could block."""
    try:
        status = path.stat()  # of what a symlink leads to: the Hugging Face cache is made of them
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ModelRejected(f"{plain(path)} is {kind}", "give a folder with the files as they were downloaded")
    return Identity.of(status)


def read_head(path: Path, n_bytes: int) -> bytes:
    """The first bytes of a file, at most `n_bytes`."""
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise unreadable(path, error) from None


def read_small(path: Path, limit: int) -> bytes:
    """A whole file of at most `limit` bytes."""
    size = identify(path).size
    if size > limit:
        raise ModelRejected(
            f"{plain(path.name)} has {size:,} bytes; such a file has at most {limit:,}",
            f"look at {hint_path(path)}, or download it again",
        )
    return read_head(path, limit)


def unreadable(path: Path, error: OSError) -> ModelRejected:
    """What the system said about a path."""
    reason = (error.strerror or type(error).__name__).lower()
    return ModelRejected(f"cannot read {plain(path)}: {reason}", f"ls -lL {hint_path(path)}")


def ensure_unchanged(path: Path, before: Identity) -> None:
    """ModelRejected if the file is not what it was: mapped weights change with their file."""
    if identify(path) != before:
        raise ModelRejected(
            f"{plain(path)} changed while it was being read",
            "run again; replace model files by renaming a finished copy over them",
        )
