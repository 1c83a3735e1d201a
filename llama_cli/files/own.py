"""Opens the files that this program keeps beside others: regular ones of the user's, never through a link."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

from ..errors import OutputRefused
from .write import write_failed

logger = logging.getLogger(__name__)

CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a pipe would wait for its other end
OTHER_KINDS = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR, errno.EOPNOTSUPP)


def open_own(path: Path, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a file of our own. OutputRefused if something else has its name; OutputFailed if it cannot be.

    What is checked is what was opened: a regular file, the user's own, with no second name.
    """
    try:
        handle = os.open(path, flags | CAREFULLY, mode)
    except OSError as error:
        if error.errno in OTHER_KINDS:
            raise _refused(path) from None
        raise write_failed(path, error) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        os.close(handle)
        raise _refused(path)
    return handle


def read_own(path: Path, most_bytes: int) -> bytes | None:
    """What a file of our own holds; None where there is none. One that is larger than such files are is refused."""
    if not os.path.lexists(path):
        return None
    with open(open_own(path, os.O_RDONLY), "rb") as file:
        found = file.read(most_bytes + 1)
    if len(found) > most_bytes:
        raise OutputRefused(
            f"{path} has more than {most_bytes:,} bytes", "move it away: this program wrote none so large"
        )
    return found


def lock(handle: int) -> bool:
    """Whether no other process has this file or folder; True with a warning where the file system locks nothing."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning(
            "this file system cannot lock (%s): let no other run write to the same place", os.strerror(error.errno or 0)
        )
    return True


def _refused(path: Path) -> OutputRefused:
    return OutputRefused(
        f"{path} is not a plain file of yours, and this program keeps a file of that name",
        "move it away, or give another output",
    )
