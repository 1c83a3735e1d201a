"""The answer to a prompt that was submitted, for the thread that waits for it."""

from __future__ import annotations

from collections.abc import Iterator

from ..engine.request import Request
from ..engine.sharing import Caller
from .completion import Chunk, Completion


class Stream:
    """The answer to a prompt that was submitted: chunks as they are made, for one thread to read."""

    def __init__(self, llm: object, request: Request, caller: Caller, chunks: Iterator[Chunk]) -> None:
        self._llm = llm  # which ends when nobody has it
        self._caller = caller
        self._chunks = chunks
        self._completions = Completion.of(request)

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        """The next chunk, when it is there. LlamaError if the request failed, or the model was closed."""
        chunk = next(self._chunks)
        if chunk.error is not None:
            raise chunk.error
        self._completions[chunk.sample].add(chunk)
        return chunk

    def completions(self) -> list[Completion]:
        """Wait for the end: all samples, with what was read as chunks before."""
        for _ in self:
            pass
        return self._completions

    def cancel(self) -> None:
        """Stop all samples before the next step; what was made until then can still be read."""
        for completion in self._completions:
            self._caller.cancel(completion.prompt, completion.sample)

    def __del__(self) -> None:
        self._caller.abandon()  # nobody reads it any more
