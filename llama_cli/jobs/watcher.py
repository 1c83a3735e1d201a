"""Who watches a run of rows, as the run sees them: a terminal, a test, or nobody."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Progress(Protocol):
    """How far a run is."""

    def advance(self, *, failed: bool = False) -> None:
        """One more row is settled."""

    def show(self, tokens: int) -> None:
        """Bring what is seen up to date, of which so many tokens are a part."""


class Watcher(Protocol):
    """Is told how a run goes, and shows what of that it likes."""

    def note(self, text: str) -> None:
        """A line for a person."""

    def trace(self, error: Exception) -> None:
        """An error of this program, of which a row tells no more than its name."""

    def print_row(self, row: bytes) -> None:
        """One line of the product, where it goes into no file. ReaderGone if nobody reads it any more."""

    def progress(self, n_rows: int | None) -> AbstractContextManager[Progress]:
        """While it is entered, rows run: so many, where their number is known."""
