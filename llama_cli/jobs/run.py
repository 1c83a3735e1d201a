"""One run of rows: what is left of the input to the model, lines to the output. `batch` and `score` run so.

Imports torch.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import compress
from typing import Any, Generic

from .. import __version__
from ..errors import SOME_ROWS_FAILED, OutputRefused
from ..files.quoting import plural
from ..llm import LLM
from ..loader import load_model
from ..options import LoadOptions
from ..parallel.team import ranks_of_a_group
from .finished import Finished, Standing
from .identity import keep_identity, settle_identity
from .ledger import Ledger
from .left import Known, RowsLeft, Taken
from .lines import Lines
from .order import InOrder
from .printed_rows import PrintedRows
from .processing import Manner, Processing
from .rows import BadRow
from .settings import RunSettings
from .source import Source
from .starts import Starts
from .stopping import Stopping
from .survey import Surveyed, name_ids, names_of, survey
from .task import Counts, LoadedTask, RowT, Settled, Task
from .watcher import Watcher

WAYS_ON = (
    "give the input as it was or another output with -o, or --rerun-changed to answer these rows anew,"
    " or --force-resume to keep the old answers"
)

GO_ON = "stopped: run the same command again to go on"

Output = PrintedRows | Ledger


class JobRun(Generic[RowT]):
    """One run of a task over the rows of a source."""

    def __init__(
        self, task: Task[RowT], settings: RunSettings, source: Source, options: LoadOptions, watcher: Watcher
    ) -> None:
        self.task = task
        self.settings = settings
        self.source = source
        self.options = options  # of the model, which is loaded once input and output are known to be good
        self.watcher = watcher
        self.lines = Lines(source, settings.input_format, settings.shard)
        self.stopping = Stopping()

    def run(self) -> int:
        """The exit code. A second Ctrl-C, which ends it at once, is told how to go on as the first one is."""
        try:
            return self._run()
        except KeyboardInterrupt:
            if self.settings.output is not None:
                self.watcher.note(GO_ON)
            raise

    def _run(self) -> int:
        path = self.settings.output
        with ExitStack() as stack:
            if self.settings.strict:
                self.source.keep(stack)
            asked = self._survey() if self.source.can_rewind else None
            output: Output = PrintedRows(self.watcher.print_row) if path is None else Ledger(path)
            stack.enter_context(output)
            stack.enter_context(self.stopping)
            if output.torn is not None:
                self.watcher.note(f"a torn last row was moved to {output.torn}")
            finished = output.finished()
            if asked is None and (len(finished) or Starts.are_left(path)):
                self.watcher.note(f"reading all of {self.source.name}, to see what is done")
                self.source.keep(stack)
                asked = self._survey()
            known = None if asked is None else Known(asked, self._compare(asked, finished, output))
            session = load_model(self.options)
            identity = self._settle(session, finished, None if asked is None else len(asked.ids))
            task = self.task.load(session, identity)
            # An error of the program and the death of the process leave its file behind.
            with Starts(path) as starts:
                is_alone = ranks_of_a_group(self.options) * self.options.dp == 1
                manner = Manner(self.settings.row_timeout, goes_on=is_alone)
                processing = Processing(session, task, starts, manner, self.stopping, self.watcher)
                code = self._process(processing, RowsLeft(self.task, self.source, self.lines, known), output)
                if path is not None and not keep_identity(path, identity):
                    self.watcher.note(
                        f"what says who wrote {path} was removed or changed meanwhile: it is written anew"
                    )
                return code

    def _survey(self) -> Surveyed:
        parse = self.task.parse if self.settings.strict else None
        return survey(self.lines, parse, unique_ids=self.task.unique_ids)

    def _compare(self, asked: Surveyed, finished: Finished, output: Output) -> Standing:
        """What is done. OutputRefused names rows that the output answers as they were before."""
        settings = self.settings
        if settings.force_resume and len(finished):
            self.watcher.note("rows are matched by their ids alone, whatever they asked for")
        found = finished.compare(asked, retry_errors=settings.retry_errors, by_id=settings.force_resume)
        if len(finished) and found.gone.all() and not settings.force_resume:
            raise OutputRefused(
                f"{settings.output} answers another input: none of its rows is in {self.source.name}",
                "give another output with -o, or --force-resume to add to it",
            )
        if found.changed.any():
            n_changed, names = int(found.changed.sum()), names_of(self.lines, found.changed)
            if not settings.rerun_changed:
                was = f"{settings.output} has answers to what they asked for before"
                raise OutputRefused(f"changed rows ({n_changed:,}): {names}; {was}", WAYS_ON)
            self.watcher.note(f"changed rows run anew ({n_changed:,}): {names}")
        if found.gone.any():
            n_gone = int(found.gone.sum())
            names = name_ids((row.custom_id for row in compress(output.rows(), found.gone)), n_gone)
            self.watcher.note(f"rows of {settings.output} that are not in the input any more ({n_gone:,}): {names}")
        return found

    def _settle(self, session: LLM, finished: Finished, n_rows: int | None) -> dict[str, Any]:
        """Fix who this run is; a resumed one takes over the seed and the time it was begun with."""
        part, whole = self.settings.shard
        identity: dict[str, Any] = {
            "version": __version__,
            "model": session.info.name,
            "fingerprint": session.info.fingerprint,
            "rope_scale_factor": self.options.rope_scale_factor,
            **self.task.identity(session),
            "shard": f"{part + 1}/{whole}",
            "created": int(time.time()),
            "input": self.source.describe(),
            "rows": n_rows,
            "run_seed": self.task.seed,
        }
        has_rows = len(finished) > 0
        if identity["run_seed"] is None and not has_rows:
            identity["run_seed"] = secrets.randbits(32)
        if self.settings.output is None:
            return identity
        return settle_identity(
            self.settings.output,
            identity,
            has_rows=has_rows,
            has_unknown=finished.has_unknown,
            force=self.settings.force_resume,
        )

    def _process(self, processing: Processing[RowT], left: RowsLeft[RowT], output: Output) -> int:
        began = time.monotonic()
        counts, size = processing.counts, processing.task.group_size
        with self.watcher.progress(None if left.known is None else len(left.known.asked.ids)) as progress:
            for _ in range(left.n_before):
                progress.advance()

            def write(settled: Settled) -> None:
                output.append(settled.line)
                counts.add(settled)
                progress.advance(failed=settled.code is not None)
                progress.show(counts.tokens)

            early = self._run_suspects(processing, left)
            order = InOrder(write, ordered=self.settings.ordered)
            for group in left.groups(size):
                if self.stopping.requested:
                    break
                if size is not None:  # what a group finds in the cache is of its own
                    processing.session.engine.forget()
                processing.run(self._unsettled(group, order, early, is_whole=size is not None), order)
        processing.session.ensure_unchanged()
        left.ensure_unchanged()
        if left.known is not None and left.known.standing.is_untidy and not self.stopping.requested:
            output.compact(left.known.asked)
        return self._close(processing.task, counts, left, time.monotonic() - began)

    def _unsettled(
        self, group: Iterator[Taken[RowT]], order: InOrder[Settled], early: dict[str, Settled], *, is_whole: bool
    ) -> Iterator[Taken[RowT]]:
        """A group without the rows that ran early, which take their places in the order here.

        A signal ends it; but a group that is a whole has begun with its first row, and goes on where rows are kept.
        """
        for taken in group:
            if str(taken.row.custom_id) in early:
                order.put(order.ticket(), early.pop(str(taken.row.custom_id)))
                continue
            if self.stopping.requested and not (is_whole and self.settings.output is not None):
                return
            yield taken

    def _run_suspects(self, processing: Processing[RowT], left: RowsLeft[RowT]) -> dict[str, Settled]:
        """Rows that ran when the run before died, one at a time, by their ids."""
        settled: dict[str, Settled] = {}
        if left.known is None or not processing.starts.n_suspects:
            return settled
        for row in left.alone():
            custom_id = str(row.custom_id)
            if self.stopping.requested:
                break
            if isinstance(row, BadRow) or not processing.starts.is_suspect(row.custom_id):
                continue
            if processing.starts.is_given_up(row.custom_id):
                message = "the process died or failed whenever this row ran"
                settled[custom_id] = processing.fail(BadRow.of(row, "crashed", message))
                continue
            found: list[Settled] = []
            # A row of a group has its result from beside its neighbours: here it is seen that it kills nobody.
            keeps = Taken(row, "all" if processing.task.group_size is None else "failures")
            processing.run_alone(keeps, found.append)
            if found:  # none where a signal came first
                settled[custom_id] = found[0]
        return settled

    def _close(self, task: LoadedTask[RowT], counts: Counts, left: RowsLeft[RowT], seconds: float) -> int:
        """Tell how it went and how to go on; the exit code."""
        for line in self._report(task.summary(counts, seconds), counts, left):
            self.watcher.note(line)
        if self.stopping.requested:
            return self.stopping.exit_code
        return SOME_ROWS_FAILED if counts.failed + left.errors_before.total() else 0

    def _report(self, summary: str, counts: Counts, left: RowsLeft[RowT]) -> Iterator[str]:
        n_rows = counts.ok + counts.failed
        line = f"{n_rows} {plural(n_rows, 'row')}: {counts.ok} ok, {_format_errors(counts.errors)}"
        if left.n_before:
            line += f", {left.n_before} done before"
        yield f"{line}, {summary}"
        before = left.errors_before
        if before:
            yield f"of the rows done before, {_format_errors(before)}"
        if self.settings.output is None:
            return
        if self.stopping.requested:
            yield GO_ON
        elif counts.failed or before:
            yield "mend the input where it is wrong; the same command with --retry-errors runs these rows again"


def _format_errors(codes: Counter[str]) -> str:
    """`3 errors (2 timeout, 1 invalid_json)`."""
    counted = ", ".join(f"{n} {code}" for code, n in sorted(codes.items(), key=lambda each: (-each[1], each[0])))
    n_all = codes.total()
    return f"{n_all} {plural(n_all, 'error')}" + (f" ({counted})" if counted else "")
