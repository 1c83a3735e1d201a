"""Where a prompt comes from: the argument, a file, standard input, or ids."""

from __future__ import annotations

import os
import re
import stat
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from ..errors import InputRejected, UsageError
from ..files.user_text import text_of
from .doubts import doubts_about_argument
from .waiting import told_when_long

Note = Callable[[str], None]  # says a line to a person, unless that is not wanted

# Far more than any context holds. A pipe may be endless, and memory is not.
MAX_BYTES = 256 << 20

LEAVE_IT = "--no-stdin leaves it alone"
IN_THE_ARGUMENT = "give the prompt as an argument"


def read_prompt(
    argument: str | None, file: Path | None, ids: str | None, *, stdin: bool, note: Note
) -> str | list[int]:
    """The prompt: ids, or the argument, the file and what is piped in, each on a line of its own.

    One newline at the end of a file or of a pipe is taken off: `echo` and editors put it there. Without `stdin`
    a pipe is left alone, for whoever else reads it, unless `-` asks for it.
    """
    if ids is not None:
        if argument is not None or file is not None:
            raise UsageError("--prompt-ids and a text prompt exclude each other", "give one of them")
        return parse_ids(ids)
    asked = argument == "-" or (file is not None and str(file) == "-")
    parts = [] if argument in (None, "-") else [check_text(str(argument), "the prompt")]
    for doubt in chain.from_iterable(map(doubts_about_argument, parts)):
        note(doubt)
    if file is not None and str(file) != "-":
        parts.append(read_text_file(file))
    if asked or (stdin and is_piped()):
        data = _read_stdin(note, is_more=bool(parts))
        if data and parts and not asked:
            note(f"{len(data):,} bytes of standard input are joined to the prompt; {LEAVE_IT}")
        piped = _without_end(text_of(data, "standard input"))
        # What starts a program without a terminal often gives it an empty input: that is no second part.
        parts += [piped] if piped or asked or not parts else []
    if not parts:
        left_alone = "" if stdin else ", and standard input is left alone"
        raise UsageError(f"no prompt{left_alone}", 'llama-cli complete "Once upon a time", or -f FILE, or pipe it in')
    return "\n".join(parts)


def read_text_file(path: Path) -> str:
    """The text of a file, without one newline at its end. InputRejected if it cannot be read or is not UTF-8."""
    return _without_end(text_of(_read_file(path), str(path)))


def stdin_text_lines(note: Note) -> Iterator[str]:
    """The lines of standard input without their ends, each as soon as it is there."""
    if sys.stdin is None:
        raise InputRejected("standard input is closed", "pipe messages in, one a line")
    with told_when_long(lambda: note("waiting for the first line of standard input")):
        first = sys.stdin.buffer.readline(MAX_BYTES + 1)
    rest = iter(lambda: sys.stdin.buffer.readline(MAX_BYTES + 1), b"")
    for number, line in enumerate(chain([first] if first else [], rest), 1):
        what = f"line {number} of standard input"
        line = _bounded(line, what).removeprefix(BOM_UTF8)  # files that are put together have one before each
        yield _without_end(text_of(line, what, begins=number == 1))


def is_piped() -> bool:
    """Whether something was piped or redirected into this process; a terminal or /dev/null was not."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def parse_ids(text: str, what: str = "--prompt-ids") -> list[int]:
    """`1,2,3` as ids, or `1 2 3`, or JSON's `[1, 2, 3]`."""
    inner = text.strip().removeprefix("[").removesuffix("]").strip().removesuffix(",")
    parts = re.split(r"\s*,\s*|\s+", inner) if inner else []
    try:
        ids = [int(part) for part in parts]
    except ValueError:
        ids = []
    if list(map(str, ids)) != parts:  # Python reads 1_0 and other scripts' digits too
        raise UsageError(f"{what} {text[:60]!r} is no list of numbers", "write 1,2,3")
    return ids


def check_text(text: str, what: str) -> str:
    """A text from the command line as it was typed; InputRejected if that was no UTF-8."""
    return text_of(os.fsencode(text), what, begins=False)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _bounded(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputRejected(f"cannot read {path}: {reason}", "give another file") from None


def _read_stdin(note: Note, *, is_more: bool) -> bytes:
    """All of standard input; `is_more` where there is a prompt without it."""
    if sys.stdin is None:
        raise InputRejected("standard input is closed", IN_THE_ARGUMENT)
    way_on = "Ctrl-D ends it" if sys.stdin.isatty() else LEAVE_IT if is_more else "a prompt may be an argument too"
    try:
        with told_when_long(lambda: note(f"waiting for standard input to end; {way_on}")):
            return _bounded(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    except OSError as error:
        raise InputRejected(f"cannot read standard input: {error.strerror}", IN_THE_ARGUMENT) from None


def _bounded(data: bytes, what: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise InputRejected(f"{what} has more than {MAX_BYTES:,} bytes", "give less text")
    return data


def _without_end(text: str) -> str:
    """Without one newline at the end."""
    return text.removesuffix("\n").removesuffix("\r")
