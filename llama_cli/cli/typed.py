"""How a typed line is read: as a command with its argument, or as a message; text in three quotes is a block."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ..errors import UsageError

# `/` alone, or a word behind it; `/usr/bin` or `/*` begin a message.
COMMAND = re.compile(r"/(?:([A-Za-z][\w-]*|\?)(?:\s+(.*))?)?", re.DOTALL)

QUOTES = '"""'
_BLOCK_BEGINS = re.compile(rf"\s*(?:/set\s+[\w-]+[\s=]+|/[A-Za-z][\w-]*\s+)?{QUOTES}")


def is_command(line: str) -> bool:
    """Whether a line is for the chat and not for the model."""
    return COMMAND.fullmatch(line.rstrip()) is not None


def is_open(text: str) -> bool:
    """Whether more lines are to come: a message or a command's text begins with three quotes and is not closed."""
    return _BLOCK_BEGINS.match(text) is not None and text.count(QUOTES) % 2 == 1


def unquoted(text: str) -> str:
    """A block without its three quotes on either side."""
    block = text.strip()
    if len(block) < 2 * len(QUOTES) or not block.startswith(QUOTES) or not block.endswith(QUOTES):
        return text
    return block[len(QUOTES) : -len(QUOTES)].removeprefix("\n").removesuffix("\n")


def as_typed(message: str) -> str:
    """The line that is read as this message: a block where it would be taken for something else."""
    return f"{QUOTES}\n{message}\n{QUOTES}" if is_command(message) or unquoted(message) != message else message


def file_of(argument: str) -> Path:
    """The one file that is named. Quotes or a backslash keep a space; none is needed where the file is there.

    UsageError if there are several names.
    """
    whole = _expand(argument)
    if whole.exists() or (" " not in whole.name and whole.parent.is_dir()):
        return whole
    try:
        names = shlex.split(argument)
    except ValueError:  # an apostrophe
        return whole
    if len(names) > 1:
        raise UsageError(f"one file is meant, not {len(names)}: {', '.join(names)}", f'quote its name: "{argument}"')
    return _expand(names[0])


def _expand(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~ of a user that does not exist
        return Path(name)
