"""Scores what people give: texts, ids, and continuations to rank, as objects ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..engine.request import TokenLogprob
from ..errors import InputRejected, LlamaError
from ..scoring import Score, Text, Windows, score_texts
from ..session import Session
from .run import describe_scores


class Scorer:
    """A session and how to cut its long texts."""

    def __init__(self, session: Session, windows: Windows, *, logprobs: bool) -> None:
        self.session = session
        self.windows = windows
        self.logprobs = logprobs  # whether every token's is wanted

    def texts(self, content: str | Sequence[int], max_tokens: int | None, choices: Sequence[str]) -> list[Text]:
        """What to score for one text, or for each of its continuations; InputRejected if there is nothing."""
        ids = (
            self.session.tokenize(content)
            if isinstance(content, str)
            else self.session.engine.limits.check_prompt(content)
        )
        ids = list(ids)[:max_tokens]
        if not choices:
            if len(ids) < 2:
                raise InputRejected("a text of one token has nothing to score", "give a longer text")
            return [Text(ids)]
        endings = [self.session.tokenize(choice, bos=False) for choice in choices]
        if not all(endings):
            raise InputRejected("a choice is empty", "give every --choices a text")
        if not ids:
            raise InputRejected("continuations need a text before them", "give a prompt")
        return [Text([*ids, *ending], len(ids)) for ending in endings]

    def run(self, texts: Iterable[Text]) -> Iterator[tuple[int, list[TokenLogprob] | LlamaError]]:
        """(number, scores or why not) of each text, as they are done."""
        return score_texts(self.session.engine, texts, self.windows)

    def describe_text(self, scores: list[TokenLogprob]) -> dict[str, Any]:
        """The figures of one text."""
        result = Score(scores, sum(len(self.session.tokenizer.token_bytes(each.token_id)) for each in scores))
        described = {
            "tokens": len(result.logprobs),
            "bytes": result.n_bytes,
            "nats": result.nats,
            "nats_per_token": result.nats_per_token,
            "bits_per_token": result.bits_per_token,
            "bits_per_byte": result.bits_per_byte,
            "perplexity": result.perplexity,
            "window": self.windows.size,
            "stride": self.windows.stride,
        }
        return described | ({"logprobs": describe_scores(self.session, scores)} if self.logprobs else {})

    def describe_choices(self, choices: Sequence[str], scores: Sequence[list[TokenLogprob]]) -> dict[str, Any]:
        """The figures of continuations; the likeliest is marked."""
        results = [Score(each, len(choice.encode())) for choice, each in zip(choices, scores, strict=True)]
        best = min(range(len(results)), key=lambda number: results[number].nats)
        described = [
            {"text": choice, "nats": each.nats, "nats_per_token": each.nats_per_token, "best": number == best}
            for number, (choice, each) in enumerate(zip(choices, results, strict=True))
        ]
        if self.logprobs:
            for one, of_choice in zip(described, scores, strict=True):
                one["logprobs"] = describe_scores(self.session, of_choice)
        return {"choices": described}

    def describe(self, content: str | Sequence[int], max_tokens: int | None, choices: Sequence[str]) -> dict[str, Any]:
        """One text, or its continuations; LlamaError where that fails."""
        found = dict(self.run(self.texts(content, max_tokens, choices)))
        scores = []
        for number in sorted(found):
            one = found[number]
            if isinstance(one, LlamaError):
                raise one
            scores.append(one)
        return self.describe_choices(choices, scores) if choices else self.describe_text(scores[0])
