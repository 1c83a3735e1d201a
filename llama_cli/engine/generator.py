"""What runs requests, as all that is above the engine sees it: one engine, or several that answer as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from .engine import Stats
from .limits import Limits
from .request import Event, Request
from .runner import Snapshot


class Generator(Protocol):
    """Ids in, ids out. One thread runs it at a time."""

    @property
    def limits(self) -> Limits: ...

    @property
    def stop_tokens(self) -> frozenset[int]: ...

    @property
    def stats(self) -> Stats: ...

    @property
    def is_busy(self) -> bool:
        """Whether a request waits or runs."""

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Event]:
        """Run requests to their ends; `requests` is read as needed, None among them where there is none just now.

        One that the model cannot run ends with the reason. Abandoning the iterator abandons the requests.
        """

    def cancel(self, key: int, sample: int) -> None:
        """Stop one sample before the next step."""

    def reserve(self, length: int) -> None:
        """Let the cache grow now to what a sequence of `length` tokens takes."""

    def forget(self) -> None:
        """Compute the next prompts from their beginnings, whatever the cache holds of them."""

    def snapshot(self) -> Snapshot:
        """Keys and values of the longest past sequence; InputRejected where no one process has them."""

    def restore(self, snapshot: Snapshot) -> None:
        """Let a prompt that begins as a snapshot does find it in the cache; InputRejected if it is another model's."""
