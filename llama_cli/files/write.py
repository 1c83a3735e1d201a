"""Writes a file whole or not at all: beside its place, onto the disk, then over it by renaming."""

from __future__ import annotations

import errno
import functools
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import MORE_ROOM, OutputFailed, OutputRefused
from .quoting import hint_path

logger = logging.getLogger(__name__)

PART = ".part"
READABLE = 0o644  # of a new file: others may read it as the umask says, and never write
STALE_SECONDS = 3600  # what a killed program left beside a file; a living one is done long before
NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def replace_file(path: Path, parts: Iterator[bytes], *, private: bool = False) -> None:
    """Write `path` whole; a link stands for the file it leads to. OutputFailed leaves what was there.

    The file has its final mode before its first byte: its owner's alone where it is private, else that of the
    file it replaces. Nobody can foretell the name it has meanwhile.
    """
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART}")
    try:
        before = _mode_of(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(beside, flags, READABLE if before is None and not private else 0o600)
        try:
            with open(handle, "wb") as file:
                if before is not None and not private:
                    os.fchmod(handle, before)
                file.writelines(parts)
                file.flush()
                os.fsync(handle)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        _clear_stale(path)
    except OSError as error:
        raise write_failed(path, error) from None


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; file systems that cannot do so are told once."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        _warn_of_names(os.fstat(handle).st_dev, str(folder))
    finally:
        os.close(handle)


def write_failed(path: Path, error: OSError, *, more: str = "") -> OutputFailed:
    """What the system said about a file that cannot be written; `more` is added where the disk is full."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in MORE_ROOM:
        return OutputFailed(f"cannot write {path}: {reason}{more}", f"{MORE_ROOM[error.errno]}, run it again")
    return no_folder_for(path) or OutputFailed(
        f"cannot write {path}: {reason}", "look at where it goes, and run it again"
    )


def no_folder_for(path: Path) -> OutputFailed | None:
    """The error of a file or folder whose own folder is not there; None where it is."""
    folder = Path(os.path.realpath(path)).parent
    if os.path.lexists(folder):
        return None
    return OutputFailed(f"cannot write {path}: there is no folder {folder}", f"mkdir -p {hint_path(folder)}")


def _mode_of(path: Path) -> int | None:
    """The mode of the file that is there; None where there is none. OutputRefused if it is no file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise OutputRefused(f"{path} is no regular file", "give another name")
    return stat.S_IMODE(mode)


def _clear_stale(path: Path) -> None:
    """Remove what programs left that were killed while they wrote this file."""
    before = time.time() - STALE_SECONDS
    for left in path.parent.glob(f".{_literally(path.name)}.{'[0-9a-f]' * 16}{PART}"):
        status = left.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_mtime < before:
            left.unlink(missing_ok=True)


def _literally(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


@functools.cache
def _warn_of_names(device: int, folder: str) -> None:
    logger.warning("the file system of %s cannot wait for new names: a power cut may lose the latest files", folder)
