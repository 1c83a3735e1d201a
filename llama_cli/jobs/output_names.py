"""Refuses names for an output that say it is something else than lines of JSON."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")


def refuse_other_names(output: Path) -> None:
    """UsageError if the file would not be what its name says.

    Rows are appended one by one, each safe on the disk before the next: no compressed file can be written so.
    """
    ending = output.suffix.lower()
    plain = output.with_suffix("" if output.with_suffix("").suffix else ".jsonl")
    if ending in COMPRESSED:
        raise UsageError(
            f"{output} would be JSONL, not {ending[1:]}: rows are appended one by one",
            f"-o {plain}, and compress it then",
        )
    if ending in TABLES:
        raise UsageError(f"{output} would be JSONL, not {ending[1:]}", f"-o {output.with_suffix('.jsonl')}")
