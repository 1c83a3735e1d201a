"""A prompt and what it becomes: chunks, and the completion that they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..engine.request import FinishReason, Request, Sampling, TokenLogprob
from ..errors import LlamaError
from ..tokenizer.chat import ToolCall

# How an answer ends: as the engine ends it, or with calls of tools, which a conversation finds.
EndReason = Literal[FinishReason, "tool_calls"]


class Prompt(NamedTuple):
    """A prompt with settings of its own. Ids are taken as they are; text gets the begin token."""

    content: str | Sequence[int]
    sampling: Sampling


AnyPrompt = str | Sequence[int] | Prompt


@dataclass(frozen=True)
class Chunk:
    """What one step added to one sample of one prompt. `finish_reason` is set in the last chunk only."""

    prompt: int  # which prompt, counted from 0
    sample: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: EndReason | None = None
    error: LlamaError | None = None
    tool_calls: tuple[ToolCall, ...] = ()  # in the last chunk of an answer in a chat


@dataclass
class Completion:
    """One finished sample.

    `token_ids` keeps a stop token as its last id, as Meta's generate() does; `text` leaves it out, and ends
    before a stop string.
    """

    prompt: int
    sample: int
    prompt_token_ids: tuple[int, ...]
    seed: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: EndReason = "length"

    @classmethod
    def of(cls, request: Request) -> list[Completion]:
        """The empty completions of a request, one for each sample."""
        seeds = [(request.seed + sample) % 2**64 for sample in range(request.sampling.n)]
        return [cls(request.key, sample, request.prompt, seed) for sample, seed in enumerate(seeds)]

    def add(self, chunk: Chunk) -> None:
        """Take over what a chunk of the same sample brought."""
        self.text += chunk.text
        self.token_ids += chunk.token_ids
        self.logprobs += chunk.logprobs
        self.prompt_logprobs += chunk.prompt_logprobs
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason


def empty_completions(requests: Iterable[Request]) -> dict[tuple[int, int], Completion]:
    """The completions of requests that are to come, by the keys of the requests and the numbers of the samples."""
    return {(each.prompt, each.sample): each for request in requests for each in Completion.of(request)}


def collect(requests: Iterable[Request], chunks: Iterable[Chunk]) -> list[Completion]:
    """All samples of all requests, finished, out of their chunks; the error of the first request that failed."""
    completions = empty_completions(requests)
    for chunk in chunks:
        if chunk.error is not None:
            raise chunk.error
        completions[chunk.prompt, chunk.sample].add(chunk)
    return list(completions.values())
