"""Carries out `llama-cli score --rows`: a line of figures for every line of input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..engine.request import TokenLogprob
from ..errors import InputRejected, LlamaError
from ..jobs.order import InOrder
from ..jobs.results import error_code
from ..jobs.rows import BadRow
from ..jobs.scoring import Text
from ..jobs.source import Source
from ..jobs.texts import TextRow, read_text_rows
from .options import MessageOptions
from .printed_rows import PrintedRows
from .progress import RowProgress
from .scorer import Scorer
from .terminal import to_json_line


@dataclass
class _Running:
    """A row whose texts are being scored."""

    row: TextRow
    ticket: int
    texts: list[Text]
    scores: dict[int, list[TokenLogprob] | LlamaError] = field(default_factory=dict)


def score_rows(scorer: Scorer, source: Source, max_tokens: int | None, messages: MessageOptions) -> int:
    """Print the figures of every row in the order of the input; returns how many rows failed."""
    return _Rows(scorer, max_tokens).run(source, messages)


class _Rows:
    def __init__(self, scorer: Scorer, max_tokens: int | None) -> None:
        self.scorer = scorer
        self.max_tokens = max_tokens
        self.order = InOrder(PrintedRows().append, ordered=True)
        self.n_failed = self.n_done = self.n_tokens = 0
        self.nats = 0.0
        self._row_of: dict[int, _Running] = {}  # by the number of the text

    def run(self, source: Source, messages: MessageOptions) -> int:
        with RowProgress(None, quiet=messages.quiet) as progress:
            for number, scores in self.scorer.run(self._texts(source)):
                running = self._row_of.pop(number)
                running.scores[number] = scores
                if len(running.scores) == len(running.texts):
                    self._finish(running)
                    progress.advance()
                    progress.show(self.n_tokens)
        self.scorer.session.ensure_unchanged()
        source.ensure_unchanged()
        mean = self.nats / max(self.n_tokens, 1)
        messages.note(
            f"{self.n_done + self.n_failed} rows: {self.n_done} ok, {self.n_failed} errors, {self.n_tokens} tokens,"
            f" {mean:.4f} nats per token, {mean / math.log(2):.4f} bits per token"
        )
        return self.n_failed

    def _texts(self, source: Source) -> Iterator[Text]:
        n_texts = 0
        for row in read_text_rows(source):
            ticket = self.order.ticket()
            if isinstance(row, TextRow):
                try:
                    texts = self.scorer.texts(row.content, self.max_tokens, row.choices)
                except InputRejected as error:
                    row = BadRow.of(row, error_code(error), error.message)
            if isinstance(row, BadRow):
                self._fail(ticket, row)
                continue
            running = _Running(row, ticket, texts)
            for text in texts:
                self._row_of[n_texts] = running
                n_texts += 1
                yield text

    def _finish(self, running: _Running) -> None:
        row, scores = running.row, []
        for number in sorted(running.scores):
            one = running.scores[number]
            if isinstance(one, LlamaError):
                self._fail(running.ticket, BadRow.of(row, error_code(one), one.message))
                return
            scores.append(one)
        self.n_done += 1
        self.n_tokens += sum(map(len, scores))
        self.nats -= math.fsum(each.logprob for of_text in scores for each in of_text)
        described = (
            self.scorer.describe_choices(row.choices, scores)
            if row.choices
            else self.scorer.describe_text(running.texts[0], scores[0])
        )
        self.order.put(running.ticket, to_json_line({"id": row.custom_id, "index": row.index} | described))

    def _fail(self, ticket: int, row: BadRow) -> None:
        self.n_failed += 1
        error = {"code": row.code, "message": row.message}
        self.order.put(ticket, to_json_line({"id": row.custom_id, "index": row.index, "error": error}))
