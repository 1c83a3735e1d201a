"""What `llama-cli batch` does with a row: a prompt or a dialog is answered. Imports torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..answers.completion import Chunk, Completion
from ..chat.conversation import Branch
from ..chat.shapes import describe_prompt_scores, describe_scores
from ..chat.transcript import branch_of, origin_of
from ..engine.request import Request, Sampling
from ..files.quoting import plural
from ..llm import LLM
from ..tokenizer.chat import Message
from ..tokenizer.tool_calls import find_calls
from .fields import Defaults
from .identity import describe_sampling
from .lines import Format, Line
from .results import Answer, OutputFormat, RowWriter
from .rows import BadRow, BatchRow, Row, parse_row, seed_of
from .task import Counts


class BatchTask:
    """Rows that are answered. `sampling` is for what a row does not say itself."""

    unique_ids = True

    def __init__(self, sampling: Sampling, output_format: OutputFormat) -> None:
        self.defaults = Defaults(sampling)
        self.output_format = output_format
        self.seed = sampling.seed

    def parse(self, line: Line, format_: Format, digest: int | None = None) -> Row:
        return parse_row(line, format_, self.defaults, digest)

    def identity(self, session: LLM) -> dict[str, Any]:
        """The settings of the run. LlamaError if what the flags ask of every row is nothing that the model can do."""
        sampling = self.defaults.sampling
        session.engine.limits.check(Request(0, (0,), sampling, 0))
        return {
            "sampling": describe_sampling(dataclasses.replace(sampling, seed=None)),
            "chat_template": session.template.name,
            "output_format": self.output_format,
        }

    def load(self, session: LLM, identity: Mapping[str, Any]) -> Answering:
        writer = RowWriter(self.output_format, session.info.name, int(identity["created"]))
        return Answering(session, writer, int(identity["run_seed"]))


class Answering:
    """A model that answers rows."""

    group_size = None  # a text is the same whoever runs beside it, in float32

    def __init__(self, session: LLM, writer: RowWriter, run_seed: int) -> None:
        self.session = session
        self.writer = writer
        self.run_seed = run_seed

    def requests(self, row: BatchRow, keys: Iterator[int]) -> list[Request]:
        """One, of as many samples as the row wants."""
        seed = seed_of(self.run_seed, row.custom_id) if row.seed is None else row.seed
        return [Request(next(keys), self._encode(row), row.sampling, seed)]

    def _encode(self, row: BatchRow) -> tuple[int, ...]:
        max_tokens = row.sampling.max_tokens
        if row.is_chat:
            return self.session.encode_dialog(self._sent(row), max_tokens)
        if row.suffix is not None:
            return self.session.encode_infilling(row.content, row.suffix, max_tokens)  # type: ignore[arg-type]
        return self.session.encode(row.content, max_tokens)  # type: ignore[arg-type]

    def _sent(self, row: BatchRow) -> Sequence[Message]:
        """The dialog of a row; that of a chat's session as the chat itself would go on with it."""
        return branch_of(row.content, row.about, origin_of(self.session)).sent  # type: ignore[arg-type]

    def answer(self, row: BatchRow, completions: Sequence[Completion]) -> bytes:
        """The line of its samples."""
        first = completions[0]
        scored: list[Any] | None = None
        if row.sampling.prompt_logprobs:
            scored = describe_prompt_scores(self.session, first.prompt_logprobs)
        answers = [self._answer(row, completion) for completion in completions]
        return self.writer.answer(row, answers, len(first.prompt_token_ids), scored)

    def _answer(self, row: BatchRow, completion: Completion) -> Answer:
        reason, said = completion.finish_reason, None
        form = self.session.template.format
        if row.is_chat and form is not None and reason == "stop":
            system = Branch(row.content).system  # type: ignore[arg-type]
            offer = None if system is None else system.content
            said = find_calls(completion.text, completion.token_ids, form.python_tag, offer)
            reason = "tool_calls" if said.calls else reason
        wants_logprobs = row.sampling.logprobs or row.sampling.top_logprobs > 0
        scores = describe_scores(self.session, completion.logprobs) if wants_logprobs else None
        return Answer(completion.text, reason, len(completion.token_ids), scores, said)

    def fail(self, row: BadRow) -> bytes:
        return self.writer.error(row)

    def n_tokens(self, chunk: Chunk) -> int:
        """Those of answers; what is read of prompts is not counted."""
        return len(chunk.token_ids)

    def summary(self, counts: Counts, seconds: float) -> str:
        """`12 tokens, 3.4 tok/s, 3.5 s`."""
        rate = counts.tokens / seconds if seconds else 0.0
        return f"{counts.tokens} {plural(counts.tokens, 'token')}, {rate:.1f} tok/s, {seconds:.1f} s"
