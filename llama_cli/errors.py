"""What goes wrong, as exceptions: one line of what, one line of what to type, one exit code.

`explained` makes such errors of what the system and libraries say where the surroundings are at fault. What it does not
know is taken for a fault of this program.
"""

from __future__ import annotations

import errno
import os
import re

SOME_ROWS_FAILED = 6  # exit code of a command that did its work, but not for every row
NOTE = 25  # a level of the log between INFO and WARNING: nothing is wrong, and a person wants to know it without -v

MORE_MEMORY = "use less: a smaller --max-seq-len or --batch-size, or a smaller model"

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
MORE_ROOM = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "allow larger files (ulimit -f unlimited) or write to another disk",
}
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_NAME = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "give the file itself: its links lead in a circle",
}
KNOWN = (*TOO_MANY_FILES, *MORE_ROOM, *NOT_ALLOWED, *NO_NAME, errno.ENOMEM, errno.EAGAIN, errno.EIO)


class LlamaError(Exception):
    """A failure the user can act on. `hint` is a thing to type or to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LlamaError):
    """The command line or the call does not make sense."""

    exit_code = 2


class ModelRejected(LlamaError):
    """The model folder is missing, damaged, hostile or of a kind that is not supported."""

    exit_code = 3


class NotComputed(ModelRejected):
    """The model is sound as far as is known, and of a kind that this program does not compute."""


class DoesNotFit(LlamaError):
    """Not enough memory, or no such device."""

    exit_code = 4


class InputRejected(LlamaError):
    """The prompt or the input file cannot be used."""

    exit_code = 5


class ContextTooLong(InputRejected):
    """The prompt is longer than the context."""


class OutputRefused(LlamaError):
    """The output exists, is locked or belongs to another run."""

    exit_code = 7


class OutputFailed(LlamaError):
    """Standard output or an output file could not be written."""

    exit_code = 74


class ReaderGone(Exception):
    """Whoever read standard output has closed it. Nothing is wrong, and nobody is there to be told."""


class NumericalError(LlamaError):
    """The model produced NaN or infinity."""


def explained(error: BaseException) -> LlamaError | None:
    """What the surroundings lack; None where an error is not about them."""
    said = str(error)
    if isinstance(error, ImportError):
        return _of_library(error)
    if "No usable temporary directory" in said:
        return OutputFailed("there is no folder for temporary files", "TMPDIR=FOLDER names one that can be written")
    if "can't start new thread" in said:
        return _of_number(errno.EAGAIN, "")
    if isinstance(error, MemoryError):
        return _of_number(errno.ENOMEM, "")
    if isinstance(error, OSError):
        name = error.filename
        return _of_number(error.errno, f"{os.fsdecode(name)}: " if isinstance(name, str | bytes) else "")
    if isinstance(error, RuntimeError):  # torch's and safetensors' own words around those of the system
        number = next((number for number in KNOWN if os.strerror(number) in said), None)
        named = re.search(r"<([^>]+)>", said)
        return _of_number(number, f"{named[1]}: " if named else "")
    return None


def _of_number(number: int | None, where: str) -> LlamaError | None:
    if number not in KNOWN or number is None:
        return None
    if number == errno.ENOMEM:
        return DoesNotFit("memory ran out", MORE_MEMORY)
    reason = f"{where}{os.strerror(number).lower()}"
    if number in TOO_MANY_FILES:
        return DoesNotFit(os.strerror(number).lower(), "allow more of them: ulimit -n 1024")
    if number == errno.EAGAIN:
        return DoesNotFit("the system starts no more processes or threads", "allow more of them: ulimit -u 4096")
    if number in MORE_ROOM:
        return OutputFailed(reason, MORE_ROOM[number])
    if number in NO_NAME:
        return UsageError(reason, NO_NAME[number])
    if number in NOT_ALLOWED:
        return OutputFailed(reason, "look at who may write there")
    return OutputFailed(reason, "look at the disk")


def _of_library(error: ImportError) -> LlamaError | None:
    """A library that is missing, broken, or finds no memory to be mapped into."""
    library = (error.name or "").partition(".")[0]
    if library == "llama_cli":
        return None
    if "failed to map segment" in str(error) or os.strerror(errno.ENOMEM) in str(error):
        return DoesNotFit(f"memory ran out for a library: {error}", "allow more of it: ulimit -v unlimited")
    return LlamaError(
        f"a library of this installation cannot be loaded: {error}",
        f"install it again: python -m pip install --force-reinstall {library or 'torch'}",
    )
