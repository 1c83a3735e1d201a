"""How files begin, and what such a file is: said once, for weights, rows and whatever else is read."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of file. `what` is what an error says that a file is."""

    beginning: bytes
    what: str


GIT_LFS = Kind(b"version https://git-lfs", "a git-lfs pointer, not the file itself")
GGUF = Kind(b"GGUF", "a GGUF file")
ZIP = Kind(b"PK\x03\x04", "a zip archive")
GZIP = Kind(b"\x1f\x8b", "compressed with gzip")
BZIP2 = Kind(b"BZh", "compressed with bzip2")
XZ = Kind(b"\xfd7zXZ\x00", "compressed with xz")
ZSTD = Kind(b"\x28\xb5\x2f\xfd", "compressed with zstd")
PARQUET = Kind(b"PAR1", "a Parquet file")
ARROW = Kind(b"ARROW1", "an Arrow file")
SQLITE = Kind(b"SQLite format 3\x00", "an SQLite database")
PDF = Kind(b"%PDF-", "a PDF")
OFFICE = Kind(b"\xd0\xcf\x11\xe0", "an old Office file")

KINDS = (GIT_LFS, GGUF, ZIP, GZIP, BZIP2, XZ, ZSTD, PARQUET, ARROW, SQLITE, PDF, OFFICE)


def kind_of(beginning: bytes) -> Kind | None:
    """The kind of a file that begins so; None where it is none of these."""
    return next((kind for kind in KINDS if beginning.startswith(kind.beginning)), None)
