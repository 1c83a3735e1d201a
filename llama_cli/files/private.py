"""Folders for what is run as code: nobody else may put anything into them, or another folder into their place."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from .user_folders import user_folder

OTHERS_WRITE, GROUP_WRITES = 0o002, 0o020


def private_folder(name: str) -> Path:
    """A folder in the user's cache, made if need be: its real path. OSError if it is not the user's alone."""
    return make_private(user_folder("cache") / name)


def temporary_folder(name: str) -> Path:
    """The same where the cache cannot be had: it stays until the system clears its temporary files.

    Its name can be foretold, so that the next start finds it: what somebody else has put there is not used.
    """
    return make_private(Path(tempfile.gettempdir()) / f"llama-cli-{os.geteuid()}" / name)


def make_private(folder: Path) -> Path:
    """Make a folder, and the missing ones above it, for the user alone: its real path.

    OSError names the one of them that somebody else owns or may write into. Above the folder a shared one will do
    where nobody can rename what others made in it, as in /tmp.
    """
    folder = Path(os.path.realpath(folder))
    for each in (*reversed(folder.parents), folder):
        if not each.is_dir():
            with suppress(FileExistsError):
                each.mkdir(0o700)
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise OSError(f"{each} is no folder")
        if found.st_uid != os.geteuid() and (each == folder or found.st_uid != 0):
            raise OSError(f"{each} belongs to another user")
        if _others_may_write(found) and (each == folder or not found.st_mode & stat.S_ISVTX):
            raise OSError(f"others may write into {each}")
    return folder


def _others_may_write(found: os.stat_result) -> bool:
    if found.st_mode & OTHERS_WRITE:
        return True
    return bool(found.st_mode & GROUP_WRITES) and not _is_own_group(found.st_gid)


def _is_own_group(gid: int) -> bool:
    """Whether a group is the one that many systems give each user, with nobody else in it."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
