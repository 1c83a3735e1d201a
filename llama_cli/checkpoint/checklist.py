"""The checksums that came with a download: Meta's checklist.chk, and names in Hugging Face's cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from ..files.foreign import foreign
from ..files.regular_file import identify, read_small

CHECKLIST, TOKENIZER_CHECKLIST = "checklist.chk", "tokenizer_checklist.chk"
MAX_BYTES = 1 << 20
LINE = re.compile(r"([0-9a-fA-F]{32})[ \t]+\*?(?:\./)?([^/\\]+?)[ \t\r]*")
BLOB = re.compile(r"[0-9a-f]{64}")


class Checksum(NamedTuple):
    """What a file's digest should be."""

    algorithm: Literal["md5", "sha256"]
    digest: str  # hexadecimal


class Checklist(NamedTuple):
    """Sums by file name, and the lines that are none."""

    sums: dict[str, Checksum]
    unreadable: list[str]


def read_checklist(path: Path) -> Checklist:
    """`md5  name` lines. ModelRejected says what else the file is: sign-in pages are saved under this name too."""
    data = read_small(path, MAX_BYTES)
    sums: dict[str, Checksum] = {}
    unreadable = []
    for line in data.decode("utf-8", errors="replace").split("\n"):
        match = LINE.fullmatch(line)
        if match:
            sums[match[2]] = Checksum("md5", match[1].lower())
        elif line.strip():
            unreadable.append(line.strip())
    if not sums:
        raise foreign(path, identify(path).size)
    return Checklist(sums, unreadable)


def blob_checksum(path: Path) -> Checksum | None:
    """The SHA-256 by which Hugging Face's cache calls the file that a link leads to."""
    name = path.resolve().name if path.is_symlink() else ""
    return Checksum("sha256", name) if BLOB.fullmatch(name) else None
