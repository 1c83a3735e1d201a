"""How likely a text is: log-probabilities of given tokens, in windows where the text is long."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from ..engine.generator import Generator
from ..engine.request import Finish, PromptScored, Request, Sampling, TokenLogprob
from ..errors import LlamaError, NumericalError


@dataclass(frozen=True)
class Windows:
    """A long text is scored in windows of `size` tokens, each `stride` tokens after the one before."""

    size: int
    stride: int

    @classmethod
    def of(cls, size: int | None, stride: int | None, context: int) -> Windows:
        """Windows as they are asked for, by default of the whole context, each half its size after the one before."""
        size = min(size or context, context)
        return cls(size, min(stride or max(size // 2, 1), size - 1 or 1))

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
    def nats_per_byte(self) -> float:
        return self.nats / max(self.n_bytes, 1)

    @property
    def bits_per_token(self) -> float:
        return self.nats_per_token / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_byte / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_token, 700))  # e^709 is the largest float


class Text(NamedTuple):
    """Tokens to score: ids[first:], each given those before it in its window."""

    ids: Sequence[int]
    first: int = 1


@dataclass
class _Scoring:
    """A text while it is scored."""

    found: dict[int, list[TokenLogprob]]  # by the key of the request
    n_running: int
    error: LlamaError | None = None

    def result(self) -> list[TokenLogprob] | LlamaError:
        scores = [score for key in sorted(self.found) for score in self.found[key]]
        try:
            return self.error or finite(scores)
        except NumericalError as error:
            return error


def finite(scores: list[TokenLogprob]) -> list[TokenLogprob]:
    """The same; NumericalError if one of them is no number."""
    if not all(math.isfinite(score.logprob) for score in scores):
        raise NumericalError("the model produced NaN or infinity", "a damaged weight: download the files again")
    return scores


def score_texts(
    engine: Generator, texts: Iterable[Text], windows: Windows, *, top: int = 0
) -> Iterator[tuple[int, list[TokenLogprob] | LlamaError]]:
    """(number, log-probabilities or why not) of each text, as they are done; `texts` is read as needed.

    A text that fits one window is scored from `first` on and finds what is before it in the cache, if a
    neighbour or an earlier text left it there.
    """
    running: dict[int, _Scoring] = {}
    text_of: dict[int, int] = {}  # request to text

    def requests() -> Iterator[Request]:
        keys = count()
        for number, text in enumerate(texts):
            mine = requests_of(text, windows, keys, top=top)
            running[number] = _Scoring({request.key: [] for request in mine}, len(mine))
            text_of.update({request.key: number for request in mine})
            yield from mine

    for event in engine.generate(requests()):
        number = text_of[event.key]
        scoring = running[number]
        if isinstance(event, PromptScored):
            scoring.found[event.key] += event.logprobs
        elif isinstance(event, Finish):
            scoring.error = scoring.error or event.error
            scoring.n_running -= 1
            del text_of[event.key]
            if not scoring.n_running:
                yield number, running.pop(number).result()


def requests_of(text: Text, windows: Windows, keys: Iterator[int], *, top: int = 0) -> list[Request]:
    """What the engine is asked to score a text, in the order of its tokens."""
    sampling = Sampling(max_tokens=0, prompt_logprobs=True, top_logprobs=top)
    n_ids = len(text.ids)
    if n_ids <= windows.size:
        spans: Iterable[tuple[int, int, int]] = [(0, n_ids, text.first)]
    else:
        spans = [span for span in windows.over(n_ids) if span[1] > text.first]
    return [
        Request(next(keys), tuple(text.ids[begin:end]), sampling, 0, max(start, text.first) - begin)
        for begin, end, start in spans
    ]


def score_tokens(
    engine: Generator, ids: Sequence[int], windows: Windows, *, first: int = 1, top: int = 0
) -> list[TokenLogprob]:
    """Log-probabilities of the tokens ids[first:]; LlamaError where the model makes NaN."""
    ((_, scores),) = score_texts(engine, [Text(ids, first)], windows, top=top)
    if isinstance(scores, LlamaError):
        raise scores
    return scores
