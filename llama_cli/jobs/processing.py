"""Takes rows through the engine: each comes out as a line, whatever happens to it. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from inspect import GEN_CLOSED, getgeneratorstate
from itertools import count
from typing import Generic

from ..answers.completion import Chunk, Completion, empty_completions
from ..engine.request import Request
from ..errors import DoesNotFit, InputRejected, LlamaError, NumericalError, ReaderGone
from ..llm import LLM
from .fields import ErrorCode
from .left import Taken
from .order import InOrder
from .results import error_code
from .rows import BadRow
from .starts import Starts
from .stopping import GRACE_SECONDS, Stopping
from .task import Counts, LoadedTask, RowT, Settled
from .watcher import Watcher

# So many rows that end in errors of the program one after the other are not to blame themselves.
MOST_INTERNAL_ERRORS = 32
MOST_SHOWN = 300  # characters of such an error


@dataclass(eq=False)
class RunningRow(Generic[RowT]):
    """A row that is in the engine."""

    taken: Taken[RowT]
    row: RowT
    ticket: int  # its place in the order
    requests: list[Request]
    completions: dict[tuple[int, int], Completion] = field(init=False)  # by request and sample
    n_left: int = field(init=False)  # of them
    failed: bool = False
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what has come of it."""
        self.completions = empty_completions(self.requests)
        self.n_left = len(self.completions)


@dataclass(frozen=True)
class Manner:
    """How rows are run."""

    row_timeout: float | None  # seconds
    goes_on: bool  # after an error of the program; ranks that share a model would not be in step any more


class Processing(Generic[RowT]):
    """One session, and the rows that it runs."""

    def __init__(
        self,
        session: LLM,
        task: LoadedTask[RowT],
        starts: Starts,
        manner: Manner,
        stopping: Stopping,
        watcher: Watcher,
    ) -> None:
        self.session = session
        self.task = task
        self.starts = starts
        self.manner = manner
        self.stopping = stopping
        self.watcher = watcher
        self.counts = Counts()
        self._keys = count()
        self._running: dict[int, RunningRow[RowT]] = {}  # by the key of each of its requests
        self._n_broken = 0  # rows in a row that ended in an error of the program
        self._all_taken = False
        self._stop_is_told = False

    def run(self, rows: Iterable[Taken[RowT]], order: InOrder[Settled]) -> None:
        """Run rows, each at its place in an order."""
        requests = self._requests(rows, order)
        while True:
            try:
                self._drain(requests, order)
                return
            except Exception as error:
                if not self._can_go_on(error) or (getgeneratorstate(requests) == GEN_CLOSED and not self._all_taken):
                    raise
                self._run_alone(error, order)

    def run_alone(self, taken: Taken[RowT], write: Callable[[Settled], object]) -> None:
        """Run one row with no other beside it."""
        self.run([taken], InOrder(write, ordered=False))

    def _can_go_on(self, error: Exception) -> bool:
        """Whether it may have come from one row, so that the others can run."""
        is_expected = isinstance(error, LlamaError | ReaderGone) and not isinstance(error, DoesNotFit)
        return self.manner.goes_on and bool(self._running) and not is_expected

    def _run_alone(self, error: Exception, order: InOrder[Settled]) -> None:
        """What ran when something broke runs again, one row at a time: one that breaks it alone is given up."""
        left = list(dict.fromkeys(self._running.values()))
        self._running = {}
        for running in left:
            self.session.engine.forget()  # a step that broke may not have filled what it promised
            if running.failed:
                self.starts.end(running.row.custom_id)
                continue
            running.begin_anew()
            self._enter(running)
            try:
                if len(left) > 1:
                    self._drain(running.requests, order)
                else:
                    self._break(running, error, order)
            except Exception as again:
                if not self._can_go_on(again):
                    raise
                self._break(running, again, order)
            if self.stopping.out_of_time:
                return

    def _break(self, running: RunningRow[RowT], error: Exception, order: InOrder[Settled]) -> None:
        """Give up a row on which this program itself has failed."""
        self._n_broken += 1
        if self._n_broken > MOST_INTERNAL_ERRORS:
            raise error
        self._settle_failed(running, self._broken(running.row, error), order)
        self._leave(running)

    def _broken(self, row: RowT, error: Exception) -> BadRow:
        self.watcher.trace(error)
        if isinstance(error, DoesNotFit | MemoryError):
            return BadRow.of(row, "out_of_memory", str(error) or "memory ran out")
        self.watcher.note(f"an error of this program at row {row.custom_id}: {type(error).__name__}: {error}")
        return BadRow.of(row, "internal_error", f"{type(error).__name__}: {error}"[:MOST_SHOWN])

    def _requests(self, rows: Iterable[Taken[RowT]], order: InOrder[Settled]) -> Generator[Request, None, None]:
        """Rows as the engine takes them; bad ones are settled on the way."""
        self._all_taken = False
        for taken in rows:
            ticket = order.ticket() if taken.keeps == "all" else 0
            running = taken.row if isinstance(taken.row, BadRow) else self._start(taken, taken.row, ticket)
            if isinstance(running, BadRow):
                if taken.keeps != "nothing":
                    order.put(ticket, self.fail(running))
                continue
            for request in running.requests:
                if request.key not in self._running:  # the row ran alone meanwhile
                    break
                if running.failed:  # before this one has begun
                    self._end_samples(running, request.sampling.n)
                else:
                    yield request
        self._all_taken = True

    def _start(self, taken: Taken[RowT], row: RowT, ticket: int) -> RunningRow[RowT] | BadRow:
        try:
            requests = self.task.requests(row, self._keys)
        except (InputRejected, DoesNotFit, NumericalError) as error:
            return BadRow.of(row, error_code(error), error.message)
        except LlamaError:
            raise
        except Exception as error:
            return self._broken(row, error)
        running = RunningRow(taken, row, ticket, requests)
        self._enter(running)
        self.starts.begin(row.custom_id)
        return running

    def _enter(self, running: RunningRow[RowT]) -> None:
        self._running.update(dict.fromkeys((request.key for request in running.requests), running))

    def _leave(self, running: RunningRow[RowT]) -> None:
        self.starts.end(running.row.custom_id)
        for request in running.requests:
            del self._running[request.key]

    def _drain(self, requests: Iterable[Request], order: InOrder[Settled]) -> None:
        with closing(self.session.run(requests)) as chunks:  # what breaks here must leave none of them in the engine
            self._take(chunks, order)

    def _take(self, chunks: Iterable[Chunk], order: InOrder[Settled]) -> None:
        for chunk in chunks:
            running = self._running[chunk.prompt]
            running.completions[chunk.prompt, chunk.sample].add(chunk)
            if running.taken.keeps == "all":
                self.counts.tokens += self.task.n_tokens(chunk)
            if chunk.error is not None:
                self._give_up(running, error_code(chunk.error), str(chunk.error), order)
            if chunk.finish_reason is not None:
                line = self._finish(running, order) if running.n_left == 1 and not running.failed else None
                self._end_samples(running, 1)
                if line is not None:
                    order.put(running.ticket, Settled(line))
            if self.manner.row_timeout is not None:
                self._end_late_rows(self.manner.row_timeout, order)
            if self.stopping.requested and not self._stop_is_told:
                self._stop_is_told = True
                self.watcher.note(
                    f"stopping: rows that run have {GRACE_SECONDS:g} s to finish; Ctrl-C once more stops at once"
                )
            if self.stopping.out_of_time:
                break

    def _end_samples(self, running: RunningRow[RowT], n_samples: int) -> None:
        running.n_left -= n_samples
        if not running.n_left:
            self._leave(running)

    def _give_up(self, running: RunningRow[RowT], code: ErrorCode, message: str, order: InOrder[Settled]) -> None:
        """Settle a running row as failed, once; its samples may still be coming to their ends."""
        if not running.failed:
            running.failed = True
            self._settle_failed(running, BadRow.of(running.row, code, message), order)

    def _settle_failed(self, running: RunningRow[RowT], row: BadRow, order: InOrder[Settled]) -> None:
        if running.taken.keeps != "nothing":
            order.put(running.ticket, self.fail(row))

    def _end_late_rows(self, most_seconds: float, order: InOrder[Settled]) -> None:
        now = time.monotonic()
        for running in dict.fromkeys(self._running.values()):
            if now - max(running.began, self.stopping.awake_since) > most_seconds and not running.failed:
                self._give_up(running, "timeout", f"the row took longer than {most_seconds:g} s", order)
                for key, sample in running.completions:
                    self.session.cancel(key, sample)

    def _finish(self, running: RunningRow[RowT], order: InOrder[Settled]) -> bytes | None:
        """The line of a row all of whose samples are there; None where it is not wanted, or is no result."""
        try:
            line = self.task.answer(running.row, list(running.completions.values()))
        except (InputRejected, NumericalError) as error:
            self._give_up(running, error_code(error), error.message, order)
            return None
        self._n_broken = 0
        return line if running.taken.keeps == "all" else None

    def fail(self, row: BadRow) -> Settled:
        """What becomes of a row that cannot run."""
        return Settled(self.task.fail(row), row.code)
