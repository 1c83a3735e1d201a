"""A folder that is complete or not there: made beside its place, renamed into it at the end.

.NAME.partial    what is being written, locked by who writes it; the next run empties what a kill left behind
.NAME.replaced   with `replace`, the old folder between the two renames; the next run puts it back
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LlamaError, OutputFailed, OutputRefused

CONFIG_NAMES = ("params.json", "config.json")


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder to write into, which becomes `target` when the block ends without an exception.

    OutputRefused if there is something at `target` that may not be replaced, or if another run writes it;
    OutputFailed for whatever the disk says meanwhile.
    """
    target = Path(os.path.realpath(target))  # a link stands for where it leads to
    partial, replaced = (target.with_name(f".{target.name}.{state}") for state in ("partial", "replaced"))
    try:
        with _locked(partial, target):
            try:
                _recover(target, replaced)
                check_target(target, replace=replace)
                _empty(partial)
                yield partial
                _sync(partial)
                check_target(target, replace=replace)  # much may have happened since
                _put_in_place(partial, target, replaced)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise _failed(target, error) from None


def check_target(target: Path, *, replace: bool) -> None:
    """OutputRefused if `target` may not be written: something is there, and is not to be replaced or no model."""
    if not os.path.lexists(target) or (target.is_dir() and not os.listdir(target)):
        return
    if not replace:
        raise OutputRefused(f"{target} exists already", "give another folder, or --force to replace it")
    if not target.is_dir():
        raise OutputRefused(f"{target} is no folder; --force replaces folders with a model", "give another one")
    entries = list(target.iterdir())
    if any(path.is_dir() for path in entries) or not any(path.name in CONFIG_NAMES for path in entries):
        raise OutputRefused(
            f"{target} is more than the folder of one model; --force does not replace it",
            "delete it yourself, or give another folder",
        )


def check_space(folder: Path, n_bytes: int) -> None:
    """OutputFailed, with the arithmetic, if the disk has no room for so much."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OutputFailed(
            f"needs {n_bytes / 1e9:,.2f} GB on the disk of {folder.parent}, {free / 1e9:,.2f} GB are free",
            "free some space, or give a folder on another disk",
        )


@contextmanager
def _locked(partial: Path, target: Path) -> Iterator[None]:
    partial.mkdir(exist_ok=True)
    handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _lock(handle) or not _is_at(handle, partial):
            raise OutputRefused(f"{target} is being written by another run", "wait for it, or give another folder")
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether no other process has the folder."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # NFS locks no folders: two runs at a time are the user's business there
        return True
    return True


def _is_at(handle: int, folder: Path) -> bool:
    """Whether the folder is still there: who held the lock before may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _recover(target: Path, replaced: Path) -> None:
    """Finish what a kill between two renames left."""
    if not replaced.exists():
        return
    if target.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(target)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        _fsync(path)
    _fsync(folder)


def _put_in_place(partial: Path, target: Path, replaced: Path) -> None:
    is_occupied = target.exists() and any(target.iterdir())
    if is_occupied:
        target.rename(replaced)
    try:
        partial.rename(target)  # over an empty folder, if there is one
    except BaseException:
        if is_occupied and not target.exists():
            replaced.rename(target)
        raise
    _fsync(target.parent)
    if is_occupied:
        shutil.rmtree(replaced)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(target: Path, error: OSError) -> LlamaError:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return OutputRefused(f"{target} exists already", "give another folder, or --force to replace it")
    reason = (error.strerror or type(error).__name__).lower()
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free some space" if full else f"look at {target.parent}"
    return OutputFailed(f"cannot write {target}: {reason}", hint)
