"""A folder that is complete or not there: made beside its place, renamed into it at the end.

.NAME.partial/            a place of our own, locked by who writes; the next run finishes what a kill left in it
    made-by-llama-cli     says so: a folder of that name without it is somebody else's
    new/                  what is being written
    old/                  with `replace`, the folder that was there, between the two renames
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import MORE_ROOM, LlamaError, OutputFailed, OutputRefused
from .own import lock, open_own
from .write import no_folder_for, sync_folder

CONFIG_NAMES = ("params.json", "config.json")
MARKER, NEW, OLD = "made-by-llama-cli", "new", "old"
WRITTEN_BY_OTHERS = 0o022
ENDINGS = (".pth", ".safetensors", ".json", ".jinja", ".model")  # of the files that a conversion writes


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder to write into, which becomes `target` when the block ends without an exception.

    OutputRefused if there is something at `target` that may not be replaced, if another run writes it, or if
    something else has the name of the place beside it; OutputFailed for whatever the disk says meanwhile.
    """
    target = Path(os.path.realpath(target))  # a link stands for where it leads to
    partial = target.with_name(f".{target.name}.partial")
    try:
        with _locked(partial, target) as handle:
            try:
                _recover(partial, target)
                check_target(target, replace=replace)
                (partial / NEW).mkdir()
                yield partial / NEW
                _finish(partial / NEW)
                _require_place(handle, partial, target)  # much may have happened since
                check_target(target, replace=replace)
                _put_in_place(partial, target)
            finally:
                with suppress(OSError, OutputRefused):  # what is none of ours stays, and the next run says so
                    _remove_place(partial)
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
            f"needs {n_bytes / 1e9:,.2f} GB on the disk of {folder}, {free / 1e9:,.2f} GB are free",
            "free some space, or give a folder on another disk",
        )


@contextmanager
def _locked(partial: Path, target: Path) -> Iterator[int]:
    """A descriptor of the place beside `target`, ours alone."""
    handle = _open_place(partial)
    try:
        if not lock(handle):
            raise _busy(target)
        _require_place(handle, partial, target)
        names = os.listdir(handle)
        if names and (MARKER not in names or not set(names) <= {MARKER, NEW, OLD}):
            raise _not_ours(partial)
        os.close(open_own(partial / MARKER, os.O_WRONLY | os.O_CREAT))
        yield handle
    finally:
        os.close(handle)


def _open_place(partial: Path) -> int:
    with suppress(FileExistsError):
        partial.mkdir(0o700)
    try:
        handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:
        raise _not_ours(partial) from None
    if os.fstat(handle).st_uid != os.geteuid():
        os.close(handle)
        raise _not_ours(partial)
    return handle


def _require_place(handle: int, partial: Path, target: Path) -> None:
    """OutputRefused if the place is not there any more: who held the lock before may have removed it."""
    try:
        is_there = os.path.samestat(os.fstat(handle), partial.lstat())
    except FileNotFoundError:
        is_there = False
    if not is_there:
        raise _busy(target)


def _busy(target: Path) -> OutputRefused:
    return OutputRefused(f"{target} is being written by another run", "wait for it, or give another folder")


def _not_ours(path: Path) -> OutputRefused:
    return OutputRefused(
        f"{path} is none of this program's, and is where the new folder would be made",
        "move it away, or give another folder",
    )


def _recover(partial: Path, target: Path) -> None:
    """Finish what a kill left: the old folder goes back, or away where the new one is in its place."""
    _remove_written(partial / NEW)
    old = partial / OLD
    if not old.exists():
        return
    if target.exists():
        shutil.rmtree(old)
    else:
        old.rename(target)


def _remove_written(folder: Path) -> None:
    """Remove a folder that a conversion has filled; OutputRefused if anything else lies in it."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise _not_ours(folder)
    for path in folder.iterdir():
        if path.suffix not in ENDINGS or path.is_symlink() or not path.is_file():
            raise _not_ours(path)
        path.unlink()
    folder.rmdir()


def _remove_place(partial: Path) -> None:
    _remove_written(partial / NEW)
    (partial / MARKER).unlink(missing_ok=True)
    partial.rmdir()


def _finish(folder: Path) -> None:
    """Bring all onto the disk, with nothing that others may write into, whatever the umask is."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fchmod(handle, stat.S_IMODE(os.fstat(handle).st_mode) & ~WRITTEN_BY_OTHERS)
            os.fsync(handle)
        finally:
            os.close(handle)
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~WRITTEN_BY_OTHERS)
    sync_folder(folder)


def _put_in_place(partial: Path, target: Path) -> None:
    new, old = partial / NEW, partial / OLD
    is_occupied = target.exists() and any(target.iterdir())
    if is_occupied:
        target.rename(old)
    try:
        new.rename(target)  # over an empty folder, if there is one
    except BaseException:
        if is_occupied and not target.exists():
            old.rename(target)
        raise
    sync_folder(target.parent)
    if is_occupied:
        shutil.rmtree(old)


def _failed(target: Path, error: OSError) -> LlamaError:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return OutputRefused(f"{target} exists already", "give another folder, or --force to replace it")
    reason = (error.strerror or type(error).__name__).lower()
    hint = MORE_ROOM.get(error.errno or 0, f"look at {target.parent}")
    return no_folder_for(target) or OutputFailed(f"cannot write {target}: {reason}", hint)
