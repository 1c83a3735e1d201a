"""Rows that go into no file, as on standard output. There is nothing to go on with afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .finished import Asked, Finished
from .written import WrittenRow


class PrintedRows:
    """Takes rows as a Ledger does, and hands each to `append` at once."""

    torn = None

    def __init__(self, append: Callable[[bytes], None]) -> None:
        self.append = append

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

    def compact(self, asked: Asked) -> None:
        """What is printed stays."""
