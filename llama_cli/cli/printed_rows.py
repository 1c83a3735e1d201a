"""Rows on standard output: of a batch with `-o -`, of `score --rows`. There is nothing to go on with afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from ..jobs.finished import Asked, Finished
from ..jobs.written import WrittenRow
from .terminal import Terminal


class PrintedRows:
    """Takes rows as a Ledger does."""

    torn = None

    def __init__(self) -> None:
        self._terminal = Terminal()

    def __enter__(self) -> PrintedRows:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held back."""

    def finished(self) -> Finished:
        """No row was finished before."""
        return Finished([])

    def rows(self) -> Iterator[WrittenRow]:
        """None of them is kept."""
        return iter(())

    def append(self, row: bytes) -> None:
        """Print one row, at once."""
        self._terminal.write(row.decode("ascii"))

    def compact(self, asked: Asked) -> None:
        """What is printed stays."""
