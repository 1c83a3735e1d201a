"""Scores what people give: texts, ids, and continuations to rank, as objects ready for JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..chat.shapes import describe_scores
from ..engine.request import TokenLogprob
from ..engine.scheduler import common_prefix
from ..errors import InputRejected, LlamaError
from ..llm import LLM
from .scoring import Score, Text, Windows, score_texts

logger = logging.getLogger(__name__)


class Scorer:
    """A session and how to cut its long texts."""

    def __init__(self, session: LLM, windows: Windows, *, logprobs: bool) -> None:
        self.session = session
        self.windows = windows
        self.logprobs = logprobs  # whether every token's is wanted
        self._told_of_cut = False

    def texts(self, content: str | Sequence[int], max_tokens: int | None, choices: Sequence[str]) -> list[Text]:
        """What to score for one text, or for each of its continuations; InputRejected if there is nothing."""
        if choices:
            if max_tokens is not None:
                raise InputRejected("--max-tokens cuts texts, not continuations", "leave it out")
            return self._continuations(content, choices)
        ids = (
            self.session.tokenize(content)
            if isinstance(content, str)
            else self.session.engine.limits.check_prompt(content)
        )
        ids = list(ids)[:max_tokens]
        if len(ids) < 2:
            raise InputRejected("a text of one token has nothing to score", "give a longer text")
        return [Text(ids)]

    def _continuations(self, content: str | Sequence[int], choices: Sequence[str]) -> list[Text]:
        """Each choice appended to the text and encoded with it, since the ids of a word depend on its neighbours.

        All are scored from the same id on, so that they can be compared: from where the text's own ids end, or,
        where a choice goes on inside a word, from the first id that this changes. Ids of white space at the end of the
        text belong to the choices, as in lm-evaluation-harness: it often becomes one id with the word behind it.
        """
        if not all(choices):
            raise InputRejected("a choice is empty", "give every --choices a text")
        if isinstance(content, str):
            own, bare = self.session.tokenize(content), self.session.tokenize(content.rstrip())
            wholes = [self.session.tokenize(content + choice) for choice in choices]
        else:
            own = bare = list(self.session.engine.limits.check_prompt(content))
            wholes = [[*own, *self.session.tokenize_more(choice)] for choice in choices]
        if not own:
            raise InputRejected("continuations need a text before them", "give a prompt")
        of_own, of_bare = (min(common_prefix(ids, whole) for whole in wholes) for ids in (own, bare))
        first = max(of_bare, min(of_own, len(bare)), 1)
        for choice, whole in zip(choices, wholes, strict=True):
            if len(whole) <= first:
                raise InputRejected(f"the choice {choice!r} adds no token to the text", "give another one")
        begin = self._begin_for(wholes, first)
        return [Text(whole[begin:], first - begin) for whole in wholes]

    def _begin_for(self, wholes: Sequence[Sequence[int]], first: int) -> int:
        """How many ids at the beginning are left out of all choices, so that the longest one fits into a window.

        All are scored behind the same part of the text. With windows of their own, short choices would see more of it
        than long ones, which changes their ranks. InputRejected if the longest choice fits behind none of it.
        """
        longest, size = max(map(len, wholes)), self.windows.size
        begin = max(longest - size, 0)
        if begin >= first:
            raise InputRejected(
                f"a choice has {longest - first:,} tokens; with one before it {size:,} fit", "give a larger --window"
            )
        if begin and not self._told_of_cut:
            self._told_of_cut = True
            logger.warning("%d tokens at the beginning are left out: text and choices hold more than %d", begin, size)
        return begin

    def run(self, texts: Iterable[Text]) -> Iterator[tuple[int, list[TokenLogprob] | LlamaError]]:
        """(number, scores or why not) of each text, as they are done."""
        return score_texts(self.session.engine, texts, self.windows)

    def describe_text(self, text: Text, scores: list[TokenLogprob]) -> dict[str, Any]:
        """The figures of one text."""
        result = Score(scores, self._n_bytes(text))
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

    def _n_bytes(self, text: Text) -> int:
        """The bytes of what is scored, without the space that a tokenizer puts before a text."""
        tokenizer = self.session.tokenizer
        raws = [tokenizer.token_bytes(token_id) for token_id in text.ids[text.first :]]
        has_space = tokenizer.puts_space and text.ids[0] == tokenizer.bos_id and raws[0].startswith(b" ")
        return sum(map(len, raws)) - has_space

    def describe_choices(self, choices: Sequence[str], scores: Sequence[list[TokenLogprob]]) -> dict[str, Any]:
        """The figures of continuations; the likeliest is marked, the first of them where several are."""
        results = [Score(each, len(choice.encode())) for choice, each in zip(choices, scores, strict=True)]
        least = min(each.nats for each in results)
        likeliest = [number for number, each in enumerate(results) if each.nats == least]
        described = [
            {
                "text": choice,
                "tokens": len(each.logprobs),
                "bytes": each.n_bytes,
                "nats": each.nats,
                "nats_per_token": each.nats_per_token,
                "nats_per_byte": each.nats_per_byte,
                "best": number == likeliest[0],
            }
            for number, (choice, each) in enumerate(zip(choices, results, strict=True))
        ]
        if self.logprobs:
            for one, of_choice in zip(described, scores, strict=True):
                one["logprobs"] = describe_scores(self.session, of_choice)
        return {"choices": described, "tie": len(likeliest) > 1}

    def describe(self, content: str | Sequence[int], max_tokens: int | None, choices: Sequence[str]) -> dict[str, Any]:
        """One text, or its continuations; LlamaError where that fails."""
        texts = self.texts(content, max_tokens, choices)
        found = dict(self.run(texts))
        scores = []
        for number in sorted(found):
            one = found[number]
            if isinstance(one, LlamaError):
                raise one
            scores.append(one)
        return self.describe_choices(choices, scores) if choices else self.describe_text(texts[0], scores[0])
