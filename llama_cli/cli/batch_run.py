"""Carries out `llama-cli batch`: rows in, the engine, rows out. Imports torch."""

from __future__ import annotations

import dataclasses
import os
import secrets
import stat
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy

from tokenizer.chat import Message
from tokenizer.tool_calls import find_calls

from .. import __version__
from ..chat_template import TemplateChoice
from ..conversation import Branch
from ..engine.request import Request, Sampling
from ..errors import SOME_ROWS_FAILED, InputRejected
from ..jobs.identity import describe_input, describe_sampling, settle_identity
from ..jobs.ledger import Ledger
from ..jobs.order import InOrder
from ..jobs.results import Answer, OutputFormat, RowWriter, error_code
from ..jobs.rows import BadRow, ErrorCode, Format, Job, Lines, Row, hash_of, seed_of
from ..jobs.starts import Starts
from ..session import Chunk, Completion
from ..session_file import branch_of, origin_of
from .options import MessageOptions, ModelOptions
from .printed_rows import PrintedRows
from .run import describe_scores, load_model
from .stopping import Stopping
from .terminal import RowProgress

Hashes = numpy.ndarray[tuple[int], numpy.dtype[numpy.uint64]]


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """What the flags say about the files."""

    input_format: Format
    output_format: OutputFormat
    output: Path | None  # None is standard output
    ordered: bool
    retry_errors: bool
    strict: bool
    shard: tuple[int, int]  # which part of how many
    force_resume: bool
    row_timeout: float | None  # seconds
    chat_template: TemplateChoice


@dataclasses.dataclass
class Running:
    """A row that is in the engine."""

    job: Job
    n_prompt: int
    completions: list[Completion]
    n_finished: int = 0
    failed: bool = False
    began: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass
class Counts:
    """How the run goes."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0  # finished by an earlier run
    tokens: int = 0


class BatchRun:
    """One run of the command."""

    def __init__(
        self,
        settings: BatchSettings,
        source: BinaryIO,
        model: ModelOptions,
        sampling: Sampling,
        batch_size: int | None,
        messages: MessageOptions,
        dp: int,
    ) -> None:
        self.settings = settings
        self.source = source
        self.model = model
        self.sampling = sampling
        self.batch_size = batch_size
        self.messages = messages
        self.dp = dp
        self.counts = Counts()
        self.stopping = Stopping()
        self._running: dict[int, Running] = {}
        self._seekable = stat.S_ISREG(os.fstat(source.fileno()).st_mode)
        self._seen: set[int] = set()  # ids of an input that can be read only once
        self._settled = b""  # for each row of an input that can be read twice, whether it is done

    def run(self) -> int:
        """The exit code."""
        hashes = self._survey() if self._seekable else None
        output = self.settings.output
        with PrintedRows() if output is None else Ledger(output) as self.rows_out, self.stopping:
            if self.rows_out.torn is not None:
                self.messages.note(f"a torn last row was moved to {self.rows_out.torn}")
            template = self.settings.chat_template
            self.session = load_model(self.model, batch_size=self.batch_size, chat_template=template, dp=self.dp)
            self.done, errors_before = self.rows_out.done(retry_errors=self.settings.retry_errors)
            if hashes is not None:
                self._settled = self.done.among(hashes)
            self._settle(output)
            with Starts(output) as self.starts:  # only the death of the process leaves its file behind
                return self._run_rows(None if hashes is None else len(hashes), errors_before)

    def _run_rows(self, total: int | None, errors_before: int) -> int:
        began = time.monotonic()
        with RowProgress(total, quiet=self.messages.quiet) as self.progress:
            early = self._run_suspects() if self._seekable and self.starts.n_suspects else {}
            order = InOrder(self._write, ordered=self.settings.ordered)
            self._drain(self.session.run(self._requests(order, early)), order)
        self.session.ensure_unchanged()
        if self.settings.retry_errors and not self.stopping.requested:
            self.rows_out.compact()
        self._close(time.monotonic() - began)
        if self.stopping.requested:
            return self.stopping.exit_code
        return SOME_ROWS_FAILED if self.counts.failed + errors_before else 0

    def _close(self, seconds: float) -> None:
        counts = self.counts
        rows = counts.ok + counts.failed
        line = f"{rows} rows: {counts.ok} ok, {counts.failed} errors"
        if counts.skipped:
            line += f", {counts.skipped} done before"
        rate = counts.tokens / seconds if seconds else 0.0
        self.messages.note(f"{line}, {counts.tokens} tokens, {rate:.1f} tok/s, {seconds:.1f} s")

    def _settle(self, output: Path | None) -> None:
        """Fix who this run is; a resumed one takes over the seed and the time it was begun with."""
        part, whole = self.settings.shard
        identity: dict[str, Any] = {
            "version": __version__,
            "model": self.session.info.name,
            "fingerprint": self.session.info.fingerprint,
            "sampling": describe_sampling(dataclasses.replace(self.sampling, seed=None)),
            "chat_template": self.session.template.name,
            "output_format": self.settings.output_format,
            "shard": f"{part + 1}/{whole}",
            "created": int(time.time()),
            "input": describe_input(Path(str(self.source.name))) if self._seekable else None,
            "run_seed": self.sampling.seed,
        }
        has_rows = output is not None and output.stat().st_size > 0
        if identity["run_seed"] is None and not has_rows:
            identity["run_seed"] = secrets.randbits(32)
        if output is not None:
            identity = settle_identity(output, identity, has_rows=has_rows, force=self.settings.force_resume)
        self.run_seed = int(identity["run_seed"])
        self.writer = RowWriter(self.settings.output_format, self.session.info.name, int(identity["created"]))

    def _lines(self) -> Lines:
        """The lines of this shard, from the beginning of the input."""
        if self._seekable:
            self.source.seek(0)
        return Lines(self.source, self.settings.input_format, self.settings.shard)

    def _rows(self) -> Iterator[Row | None]:
        """The rows of this shard, None for each that is done."""
        lines = self._lines()
        for number, (index, line) in enumerate(lines):
            if number < len(self._settled):
                done = self._settled[number] == 1
            else:
                done = lines.custom_id(index, line) in self.done
            yield None if done else lines.row(index, line, self.sampling)

    def _survey(self) -> Hashes:
        """Read the whole input once for its ids: none may be there twice. InputRejected names what is in the way."""
        hashes: array[int] = array("Q")
        lines = self._lines()
        for index, line in lines:
            if self.settings.strict:
                custom_id = _require_good(lines.row(index, line, self.sampling)).custom_id
            else:
                custom_id = lines.custom_id(index, line)
            hashes.append(hash_of(custom_id))
        found = numpy.frombuffer(hashes, dtype=numpy.uint64) if hashes else numpy.empty(0, numpy.uint64)
        if len(numpy.unique(found)) < len(found):
            self._refuse_duplicates(found)
        return found

    def _refuse_duplicates(self, hashes: Hashes) -> None:
        values, counts = numpy.unique(hashes, return_counts=True)
        twice = int(values[counts > 1][0])
        lines = self._lines()
        places = [index + 1 for index, line in lines if hash_of(lines.custom_id(index, line)) == twice]
        raise InputRejected(
            f"the same custom_id on lines {', '.join(map(str, places[:5]))}", "give every row an id of its own"
        )

    def _requests(self, order: InOrder, early: dict[str, bytes]) -> Iterator[Request]:
        """The rows that are left to run, as the engine takes them; the others are settled on the way."""
        for row in self._rows():
            if self.stopping.requested:
                return
            if row is None:
                self.counts.skipped += 1
                self.progress.advance()
                continue
            ticket = order.ticket()
            if row.custom_id in early:
                order.put(ticket, early.pop(row.custom_id))
                continue
            row = self._without_duplicates(row)
            request = self._request(ticket, row) if isinstance(row, Job) else row
            if isinstance(request, BadRow):
                order.put(ticket, self._fail(request))
            else:
                yield request

    def _without_duplicates(self, row: Row) -> Row:
        if self._seekable:
            return row
        known = hash_of(row.custom_id)
        if known in self._seen:
            return BadRow(row.index, row.custom_id, "duplicate_custom_id", "an earlier row has this custom_id")
        self._seen.add(known)
        return row

    def _request(self, key: int, job: Job) -> Request | BadRow:
        sampling = job.sampling
        try:
            ids = self._encode(job)
        except InputRejected as error:
            return BadRow(job.index, job.custom_id, error_code(error), error.message)
        own_seed = sampling.seed if sampling.seed != self.sampling.seed else None
        seed = seed_of(self.run_seed, job.custom_id) if own_seed is None else own_seed
        request = Request(key, ids, sampling, seed)
        self._running[key] = Running(job, len(ids), Completion.of(request))
        self.starts.begin(job.custom_id)
        return request

    def _encode(self, job: Job) -> tuple[int, ...]:
        max_tokens = job.sampling.max_tokens
        if job.is_chat:
            return self.session.encode_dialog(self._sent(job), max_tokens)
        if job.suffix is not None:
            return self.session.encode_infilling(job.content, job.suffix, max_tokens)  # type: ignore[arg-type]
        return self.session.encode(job.content, max_tokens)  # type: ignore[arg-type]

    def _sent(self, job: Job) -> Sequence[Message]:
        """The dialog of a row; that of a chat's session as the chat itself would go on with it."""
        return branch_of(job.content, job.about, origin_of(self.session)).sent  # type: ignore[arg-type]

    def _run_suspects(self) -> dict[str, bytes]:
        """Rows that ran when the run before died, one at a time: {custom_id: row}."""
        finished: dict[str, bytes] = {}
        for row in self._rows():
            if self.stopping.requested:
                break
            if not isinstance(row, Job) or not self.starts.is_suspect(row.custom_id):
                continue
            if self.starts.is_given_up(row.custom_id):
                message = "the process died whenever this row ran"
                finished[row.custom_id] = self._fail(BadRow(row.index, row.custom_id, "crashed", message))
                continue
            request = self._request(0, row)
            if isinstance(request, BadRow):
                finished[row.custom_id] = self._fail(request)
                continue
            taken: list[bytes] = []
            order = InOrder(taken.append, ordered=False)
            self._drain(self.session.run([request]), order)
            if taken:  # none where a signal came first
                finished[row.custom_id] = taken[0]
        return finished

    def _drain(self, chunks: Iterator[Chunk], order: InOrder) -> None:
        for chunk in chunks:
            running = self._running[chunk.prompt]
            running.completions[chunk.sample].add(chunk)
            self.counts.tokens += len(chunk.token_ids)
            if chunk.error is not None:
                self._give_up(chunk.prompt, error_code(chunk.error), str(chunk.error), order)
            if chunk.finish_reason is not None:
                running.n_finished += 1
                if running.n_finished == len(running.completions):
                    self.starts.end(running.job.custom_id)
                    self._running.pop(chunk.prompt)
                    if not running.failed:
                        order.put(chunk.prompt, self._finish(running))
            if self.settings.row_timeout is not None:
                self._end_late_rows(self.settings.row_timeout, order)
            if self.stopping.out_of_time:
                break

    def _give_up(self, key: int, code: ErrorCode, message: str, order: InOrder) -> None:
        """Settle a running row as failed, once; its samples may still be coming to their ends."""
        running = self._running[key]
        if not running.failed:
            running.failed = True
            order.put(key, self._fail(BadRow(running.job.index, running.job.custom_id, code, message)))

    def _end_late_rows(self, most_seconds: float, order: InOrder) -> None:
        now = time.monotonic()
        for key, running in self._running.items():
            if now - running.began > most_seconds and not running.failed:
                self._give_up(key, "timeout", f"the row took longer than {most_seconds:g} s", order)
                for sample in range(len(running.completions)):
                    self.session.cancel(key, sample)

    def _finish(self, running: Running) -> bytes:
        self.counts.ok += 1
        self.progress.advance()
        answers = [self._answer(running.job, completion) for completion in running.completions]
        return self.writer.answer(running.job, answers, running.n_prompt)

    def _answer(self, job: Job, completion: Completion) -> Answer:
        reason, said = completion.finish_reason, None
        form = self.session.template.format
        if job.is_chat and form is not None and reason == "stop":
            system = Branch(job.content).system  # type: ignore[arg-type]
            offer = None if system is None else system.content
            said = find_calls(completion.text, completion.token_ids, form.python_tag, offer)
            reason = "tool_calls" if said.calls else reason
        scores = describe_scores(self.session, completion.logprobs) if completion.logprobs else None
        return Answer(completion.text, reason, len(completion.token_ids), scores, said)

    def _fail(self, row: BadRow) -> bytes:
        self.counts.failed += 1
        self.progress.advance(failed=True)
        return self.writer.error(row)

    def _write(self, row: bytes) -> None:
        self.rows_out.append(row)
        self.progress.show(self.counts.tokens)


def _require_good(row: Row) -> Job:
    if isinstance(row, BadRow):
        raise InputRejected(f"line {row.index + 1}: {row.message}", "mend it, or leave out --strict")
    return row
