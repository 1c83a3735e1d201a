"""How messages show names and paths that come from outside, on one line without control characters; and counts."""

from __future__ import annotations

import shlex
from pathlib import Path


def plain(text: object, limit: int = 160) -> str:
    """`text` with everything unprintable escaped; of a long one the two ends."""
    whole = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))
    if len(whole) <= limit:
        return whole
    return f"{whole[: limit // 2 - 1]}...{whole[-(limit // 2 - 2) :]}"


def quote(text: object, limit: int = 80) -> str:
    """The same in quotes, for names inside files, where a blank may matter."""
    return f"'{plain(text, limit)}'"


def hint_path(path: Path) -> str:
    """A path to type into a shell: whole, since half a path is of no use, and quoted, whatever it is called."""
    return shlex.quote(plain(path, 4096))


def plural(n: int, noun: str) -> str:
    """The noun as it stands behind the number."""
    return noun if n == 1 else f"{noun}s"
