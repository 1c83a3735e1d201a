"""Rows on standard output: of a batch with `-o -`, of `score --rows`. There is nothing to go on with afterwards."""

from __future__ import annotations

from array import array

from ..jobs.ledger import Done
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

    def done(self, *, retry_errors: bool) -> tuple[Done, int]:
        """No row was finished before."""
        return Done(array("Q")), 0

    def append(self, row: bytes) -> None:
        """Print one row, at once."""
        self._terminal.write(row.decode("ascii"))

    def compact(self) -> None:
        """What is printed stays."""
