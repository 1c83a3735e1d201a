"""How likely a text is: log-probabilities of given tokens, in windows where the text is long."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .engine.engine import Engine
from .engine.request import PromptScored, Request, Sampling, TokenLogprob
from .errors import LlamaError


@dataclass(frozen=True)
class Windows:
    """A long text is scored in windows of `size` tokens, each `stride` tokens after the one before."""

    size: int
    stride: int

    def over(self, n_tokens: int) -> Iterator[tuple[int, int, int]]:
        """(begin, end, first token to score) of each window; every token but the first is scored once.

        size = 6, stride = 2:  0 [x x x x x]        scores 1 ... 5
                                   2 . . . [x x]    scores 6, 7 with what is before them
        """
        begin, scored = 0, 1
        while scored < n_tokens or begin == 0:
            end = min(begin + self.size, n_tokens)
            yield begin, end, scored
            begin, scored = begin + self.stride, end
            if end == n_tokens:
                return


@dataclass(frozen=True)
class Score:
    """What a text scored. `n_bytes` counts the UTF-8 bytes of the tokens that were scored."""

    logprobs: list[TokenLogprob]
    n_bytes: int

    @property
    def nats(self) -> float:
        """Total negative log-probability."""
        return -math.fsum(score.logprob for score in self.logprobs)

    @property
    def nats_per_token(self) -> float:
        return self.nats / max(len(self.logprobs), 1)

    @property
    def bits_per_token(self) -> float:
        return self.nats_per_token / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(self.n_bytes, 1)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_token, 700))  # e^709 is the largest float


def score_tokens(
    engine: Engine, ids: Sequence[int], windows: Windows, *, first: int = 1, top: int = 0
) -> list[TokenLogprob]:
    """Log-probabilities of the tokens ids[first:], each given those before it in its window.

    A text that fits one window is scored from `first` on and finds what is before it in the cache, if an
    earlier text left it there.
    """
    if len(ids) <= windows.size:
        spans: list[tuple[int, int, int]] = [(0, len(ids), first)]
    else:
        spans = [span for span in windows.over(len(ids)) if span[1] > first]
    sampling = Sampling(max_tokens=0, prompt_logprobs=True, top_logprobs=top)
    requests = [
        Request(key, tuple(ids[begin:end]), sampling, 0, max(start, first) - begin)
        for key, (begin, end, start) in enumerate(spans)
    ]
    found: dict[int, list[TokenLogprob]] = {request.key: [] for request in requests}
    for event in engine.generate(requests):
        if isinstance(event, PromptScored):
            found[event.key] += event.logprobs
    scores = [score for key in sorted(found) for score in found[key]]
    if not all(math.isfinite(score.logprob) for score in scores):
        raise LlamaError("the model produced NaN or infinity", "a damaged weight: download the files again")
    return scores
