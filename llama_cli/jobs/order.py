"""Puts finished rows back into the order in which they were taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class InOrder(Generic[T]):
    """Hands rows on in the order of their tickets, or at once where order does not matter."""

    def __init__(self, write: Callable[[T], object], *, ordered: bool) -> None:
        self._write = write
        self._ordered = ordered
        self._held: dict[int, T] = {}
        self._next_ticket = 0
        self._next_written = 0

    def ticket(self) -> int:
        """The place of the next row."""
        self._next_ticket += 1
        return self._next_ticket - 1

    def put(self, ticket: int, row: T) -> None:
        """A row is finished."""
        if not self._ordered:
            self._write(row)
            return
        self._held[ticket] = row
        while self._next_written in self._held:
            self._write(self._held.pop(self._next_written))
            self._next_written += 1
