"""Runs requests for a command and keeps what it reports: completions and timings. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..answers.completion import Chunk, Completion, collect
from ..chat.shapes import describe_timings

if TYPE_CHECKING:
    from ..engine.request import Request
    from ..llm import LLM


class Run:
    """One command's requests on a session."""

    def __init__(self, session: LLM) -> None:
        self.session = session
        self._began = time.perf_counter()
        self._first_token: float | None = None

    def _chunks(self, requests: list[Request]) -> Iterator[Chunk]:
        for chunk in self.session.run(requests):
            if self._first_token is None and chunk.token_ids:
                self._first_token = time.perf_counter() - self._began
            if chunk.error is not None:
                raise chunk.error
            yield chunk

    def texts(self, request: Request) -> Iterator[str]:
        """The text of a request's only sample, as it is made."""
        return (chunk.text for chunk in self._chunks([request]))

    def collect(self, requests: list[Request]) -> list[Completion]:
        """All samples of all requests, finished."""
        return collect(requests, self._chunks(requests))

    def timings(self) -> dict[str, Any]:
        """Seconds, tokens per second, bytes; None where nothing was measured."""
        return describe_timings(self.session.info, self.session.stats, self._first_token)
