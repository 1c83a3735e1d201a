"""Runs the C++ compiler on the kernels, and tells a refusal that lasts from a failure that may pass."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("kernels.cpp")
MOST_SECONDS = 120

# A shell that ends all it has started, the compiler's own programs too, when the process that asked is gone: the other
# end of its standard input is closed then.
RUN = 'exec 3<&0; (read -r nothing <&3; kill -KILL 0) >/dev/null 2>&1 & "$@" </dev/null'

# What the machine lacks for the moment; anything else that the compiler calls an error is about the source or a flag.
LACKS = (
    errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS,
    errno.ESTALE, errno.EFBIG, errno.EINTR, errno.EACCES, errno.EPERM, errno.ETXTBSY, errno.EBUSY, errno.ENOLCK,
    errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED,
)  # fmt: skip
PASSING = re.compile(
    "|".join(
        [
            *map(os.strerror, LACKS),
            *("memory", "file descriptors", "[Kk]illed", "terminated", "signal", "internal compiler error"),
            *("Segmentation fault", "Bus error", "Aborted", "truncated", "[Cc]an't write", "final link failed"),
        ]
    )
)


class Refusal(NamedTuple):
    """Why there is no library. A lasting reason is one that the compiler would find again."""

    said: str
    is_lasting: bool


def compile_with(compiler: str, flags: Sequence[str], made: Path) -> Refusal | None:
    """Compile the kernels into `made`; None, or why that did not succeed.

    The compiler ends with this process, whatever ends it.
    """
    command = ["sh", "-c", RUN, "sh", compiler, *flags, str(SOURCE), "-o", str(made)]
    environment = os.environ | {"LC_ALL": "C", "TMPDIR": str(made.parent)}
    reading, writing = os.pipe()
    try:
        # The user's own compiler on our own source.
        with subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as running:
            try:
                said = running.communicate(timeout=MOST_SECONDS)[1].decode(errors="replace")
            except subprocess.TimeoutExpired:
                return Refusal(f"it took longer than {MOST_SECONDS} s", is_lasting=False)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
    finally:
        os.close(reading)
        os.close(writing)
    if running.returncode == 0 and made.is_file():
        return None
    is_lasting = running.returncode in range(1, 126) and "error" in said and not PASSING.search(said)
    return Refusal(said or f"it ended with exit code {running.returncode}", is_lasting)
