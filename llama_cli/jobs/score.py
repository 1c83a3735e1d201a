"""What `llama-cli score --rows` does with a row: a text, or each of its continuations, is scored. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..answers.completion import Chunk, Completion
from ..engine.request import Request
from ..files.quoting import plural
from ..llm import LLM
from .lines import Format, Line
from .results import json_line
from .rows import BadRow, RowKey
from .scorer import Scorer
from .scoring import Text, Windows, finite, requests_of
from .task import Counts
from .texts import TextRow, parse_text_row

# The last digits of a score hang on which rows are computed beside it: they are one matrix, and kernels go by its size.
# So the same rows always run together. A step computes some 512 tokens, 8 rows or more: little is lost at the ends.
ROWS_TOGETHER = 64


@dataclass(frozen=True)
class ScoreTask:
    """Rows that are scored."""

    window: int | None  # tokens; None is the context
    stride: int | None  # None is half a window
    max_tokens: int | None  # of each text, the first ones
    logprobs: bool  # whether every token's are wanted
    is_kept: bool  # whether the rows go into a file, in which a later run finds them by their ids and hashes

    seed = 0  # nothing is drawn

    @property
    def unique_ids(self) -> bool:
        return self.is_kept

    def parse(self, line: Line, format_: Format, digest: int | None = None) -> TextRow | BadRow:
        return parse_text_row(line, digest)

    def windows(self, session: LLM) -> Windows:
        return Windows.of(self.window, self.stride, session.max_seq_len)

    def identity(self, session: LLM) -> dict[str, Any]:
        """The settings of the run."""
        windows = self.windows(session)
        return {
            "output_format": "scores",
            "window": windows.size,
            "stride": windows.stride,
            "max_tokens": self.max_tokens,
            "logprobs": self.logprobs,
        }

    def load(self, session: LLM, identity: Mapping[str, Any]) -> ScoringRows:
        scorer = Scorer(session, self.windows(session), logprobs=self.logprobs)
        return ScoringRows(scorer, self.max_tokens, is_kept=self.is_kept)


class ScoringRows:
    """A model that scores rows."""

    group_size = ROWS_TOGETHER

    def __init__(self, scorer: Scorer, max_tokens: int | None, *, is_kept: bool) -> None:
        self.scorer = scorer
        self.max_tokens = max_tokens
        self.is_kept = is_kept
        self._nats = 0.0
        self._n_tokens = 0  # of the rows that are good

    def requests(self, row: TextRow, keys: Iterator[int]) -> list[Request]:
        """One for each window of a text; one for each continuation."""
        texts = self.scorer.texts(row.content, self.max_tokens, row.choices)
        return [request for text in texts for request in requests_of(text, self.scorer.windows, keys)]

    def answer(self, row: TextRow, completions: Sequence[Completion]) -> bytes:
        """The line of its figures."""
        scores = [finite(completion.prompt_logprobs) for completion in completions]
        if row.choices:
            described = self.scorer.describe_choices(row.choices, scores)
        else:
            scores = [[score for of_window in scores for score in of_window]]
            first = completions[0].prompt_token_ids[0]
            text = Text([first, *(score.token_id for score in scores[0])])
            described = self.scorer.describe_text(text, scores[0])
        self._n_tokens += sum(map(len, scores))
        self._nats -= math.fsum(score.logprob for of_text in scores for score in of_text)
        return json_line(self._key(row) | described)

    def fail(self, row: BadRow) -> bytes:
        return json_line(self._key(row) | {"error": {"code": row.code, "message": row.message}})

    def _key(self, row: RowKey) -> dict[str, Any]:
        """How a row begins. By its hash a later run sees whether the row of the input is still the same."""
        key: dict[str, Any] = {"id": row.custom_id, "index": row.index}
        return key | ({"row_hash": f"{row.digest:016x}"} if self.is_kept else {})

    def n_tokens(self, chunk: Chunk) -> int:
        """Those that are scored."""
        return len(chunk.prompt_logprobs)

    def summary(self, counts: Counts, seconds: float) -> str:
        """`12 tokens, 3.4000 nats per token, 4.9051 bits per token`, of the rows of this run that are good."""
        mean = self._nats / max(self._n_tokens, 1)
        tokens = f"{self._n_tokens} {plural(self._n_tokens, 'token')}"
        return f"{tokens}, {mean:.4f} nats per token, {mean / math.log(2):.4f} bits per token"
