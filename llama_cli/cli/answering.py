"""Takes the rows of a batch through the engine: each comes out as a line, whatever happens to it. Imports torch."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any

from ..chat.conversation import Branch
from ..chat.shapes import describe_prompt_scores, describe_scores
from ..chat.transcript import branch_of, origin_of
from ..engine.request import Request
from ..errors import DoesNotFit, InputRejected, LlamaError
from ..jobs.fields import ErrorCode
from ..jobs.order import InOrder
from ..jobs.results import Answer, RowWriter, error_code
from ..jobs.rows import BadRow, Job, Row, seed_of
from ..jobs.starts import Starts
from ..llm import Chunk, Completion, Session
from ..tokenizer.chat import Message
from ..tokenizer.tool_calls import find_calls
from .options import MessageOptions
from .progress import RowProgress
from .stopping import GRACE_SECONDS, Stopping
from .terminal import ReaderGone, write_stderr_text

# So many rows that end in errors of the program one after the other are not to blame themselves.
MOST_INTERNAL_ERRORS = 32
MOST_SHOWN = 300  # characters of such an error


@dataclasses.dataclass
class Running:
    """A row that is in the engine."""

    job: Job
    request: Request
    completions: list[Completion]
    n_finished: int = 0
    failed: bool = False
    began: float = dataclasses.field(default_factory=time.monotonic)

    @classmethod
    def of(cls, job: Job, request: Request) -> Running:
        return cls(job, request, Completion.of(request))


@dataclasses.dataclass
class Counts:
    """How the run goes."""

    ok: int = 0
    tokens: int = 0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)  # rows by the code of their error

    @property
    def failed(self) -> int:
        return self.errors.total()


@dataclasses.dataclass(frozen=True)
class Manner:
    """How rows are answered."""

    run_seed: int
    row_timeout: float | None  # seconds
    goes_on: bool  # after an error of the program; ranks that share a model would not be in step any more


class Answering:
    """One session, and the rows that it answers."""

    def __init__(
        self,
        session: Session,
        writer: RowWriter,
        starts: Starts,
        manner: Manner,
        stopping: Stopping,
        messages: MessageOptions,
    ) -> None:
        self.session = session
        self.writer = writer
        self.starts = starts
        self.manner = manner
        self.stopping = stopping
        self.messages = messages
        self.counts = Counts()
        self._progress: RowProgress | None = None
        self._running: dict[int, Running] = {}
        self._n_broken = 0  # rows in a row that ended in an error of the program
        self._all_taken = False
        self._stop_is_told = False

    def show_on(self, progress: RowProgress) -> None:
        """Where to tell of every row that is settled."""
        self._progress = progress

    def run(self, rows: Iterable[Row], order: InOrder) -> None:
        """Answer rows, each at its place in an order."""
        requests = self._requests(rows, order)
        while True:
            try:
                self._drain(requests, order)
                return
            except Exception as error:
                if not self._can_go_on(error) or (getgeneratorstate(requests) == GEN_CLOSED and not self._all_taken):
                    raise
                self._run_alone(error, order)

    def run_alone(self, row: Row, write: Callable[[bytes], None]) -> None:
        """Answer one row with no other beside it."""
        self.run([row], InOrder(write, ordered=False))

    def _can_go_on(self, error: Exception) -> bool:
        """Whether it may have come from one row, so that the others can run."""
        is_expected = isinstance(error, LlamaError | ReaderGone) and not isinstance(error, DoesNotFit)
        return self.manner.goes_on and bool(self._running) and not is_expected

    def _run_alone(self, error: Exception, order: InOrder) -> None:
        """What ran when something broke runs again, one row at a time: one that breaks it alone is given up."""
        left, self._running = self._running, {}
        for key, running in left.items():
            self.session.engine.forget()  # a step that broke may not have filled what it promised
            if running.failed:
                self.starts.end(running.job.custom_id)
                continue
            self._running[key] = dataclasses.replace(Running.of(running.job, running.request), began=running.began)
            try:
                if len(left) > 1:
                    self._drain([running.request], order)
                else:
                    self._break(key, error, order)
            except Exception as again:
                if not self._can_go_on(again):
                    raise
                self._break(key, again, order)
            if self.stopping.out_of_time:
                return

    def _break(self, key: int, error: Exception, order: InOrder) -> None:
        """Give a row up that something in this program breaks on."""
        running = self._running[key]
        self._n_broken += 1
        if self._n_broken > MOST_INTERNAL_ERRORS:
            raise error
        order.put(key, self.fail(self._broken(running.job, error)))
        self.starts.end(running.job.custom_id)
        del self._running[key]

    def _broken(self, job: Job, error: Exception) -> BadRow:
        if self.messages.debug:
            write_stderr_text("".join(traceback.format_exception(error)))
        if isinstance(error, DoesNotFit | MemoryError):
            return BadRow.of(job, "out_of_memory", str(error) or "memory ran out")
        self.messages.note(f"an error of this program at row {job.custom_id}: {type(error).__name__}: {error}")
        return BadRow.of(job, "internal_error", f"{type(error).__name__}: {error}"[:MOST_SHOWN])

    def _requests(self, rows: Iterable[Row], order: InOrder) -> Generator[Request, None, None]:
        """Rows as the engine takes them; bad ones are settled on the way."""
        self._all_taken = False
        for row in rows:
            if self.stopping.requested:
                break
            ticket = order.ticket()
            request = self._request(ticket, row) if isinstance(row, Job) else row
            if isinstance(request, BadRow):
                order.put(ticket, self.fail(request))
            else:
                yield request
        self._all_taken = True

    def _request(self, key: int, job: Job) -> Request | BadRow:
        try:
            ids = self._encode(job)
        except InputRejected as error:
            return BadRow.of(job, error_code(error), error.message)
        except LlamaError:
            raise
        except Exception as error:
            return self._broken(job, error)
        seed = seed_of(self.manner.run_seed, job.custom_id) if job.seed is None else job.seed
        request = Request(key, ids, job.sampling, seed)
        self._running[key] = Running.of(job, request)
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

    def _drain(self, requests: Iterable[Request], order: InOrder) -> None:
        with closing(self.session.run(requests)) as chunks:  # what breaks here must leave none of them in the engine
            self._take(chunks, order)

    def _take(self, chunks: Iterable[Chunk], order: InOrder) -> None:
        for chunk in chunks:
            running = self._running[chunk.prompt]
            running.completions[chunk.sample].add(chunk)
            self.counts.tokens += len(chunk.token_ids)
            if chunk.error is not None:
                self._give_up(chunk.prompt, error_code(chunk.error), str(chunk.error), order)
            if chunk.finish_reason is not None:
                running.n_finished += 1
                if running.n_finished == len(running.completions):
                    line = None if running.failed else self._finish(running)
                    self.starts.end(running.job.custom_id)
                    del self._running[chunk.prompt]
                    if line is not None:
                        order.put(chunk.prompt, line)
            if self.manner.row_timeout is not None:
                self._end_late_rows(self.manner.row_timeout, order)
            if self.stopping.requested and not self._stop_is_told:
                self._stop_is_told = True
                self.messages.note(
                    f"stopping: rows that run have {GRACE_SECONDS:g} s to finish; Ctrl-C once more stops at once"
                )
            if self.stopping.out_of_time:
                break

    def _give_up(self, key: int, code: ErrorCode, message: str, order: InOrder) -> None:
        """Settle a running row as failed, once; its samples may still be coming to their ends."""
        running = self._running[key]
        if not running.failed:
            running.failed = True
            order.put(key, self.fail(BadRow.of(running.job, code, message)))

    def _end_late_rows(self, most_seconds: float, order: InOrder) -> None:
        now = time.monotonic()
        for key, running in self._running.items():
            if now - max(running.began, self.stopping.awake_since) > most_seconds and not running.failed:
                self._give_up(key, "timeout", f"the row took longer than {most_seconds:g} s", order)
                for sample in range(len(running.completions)):
                    self.session.cancel(key, sample)

    def _finish(self, running: Running) -> bytes:
        sampling = running.job.sampling
        answers = [self._answer(running.job, completion) for completion in running.completions]
        scored: list[Any] | None = None
        if sampling.prompt_logprobs:
            scored = describe_prompt_scores(self.session, running.completions[0].prompt_logprobs)
        line = self.writer.answer(running.job, answers, len(running.request.prompt), scored)
        self._n_broken = 0
        self.counts.ok += 1
        self._advance()
        return line

    def _answer(self, job: Job, completion: Completion) -> Answer:
        reason, said = completion.finish_reason, None
        form = self.session.template.format
        if job.is_chat and form is not None and reason == "stop":
            system = Branch(job.content).system  # type: ignore[arg-type]
            offer = None if system is None else system.content
            said = find_calls(completion.text, completion.token_ids, form.python_tag, offer)
            reason = "tool_calls" if said.calls else reason
        wants_logprobs = job.sampling.logprobs or job.sampling.top_logprobs > 0
        scores = describe_scores(self.session, completion.logprobs) if wants_logprobs else None
        return Answer(completion.text, reason, len(completion.token_ids), scores, said)

    def fail(self, row: BadRow) -> bytes:
        """The line of a row that cannot run, counted."""
        self.counts.errors[row.code] += 1
        self._advance(failed=True)
        return self.writer.error(row)

    def _advance(self, *, failed: bool = False) -> None:
        if self._progress is not None:
            self._progress.advance(failed=failed)
