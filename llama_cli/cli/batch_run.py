"""Carries out `llama-cli batch`: what is left of the input to the model, lines to the output. Imports torch."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import compress
from pathlib import Path
from typing import Any

from .. import __version__
from ..chat.template import TemplateChoice
from ..engine.request import Request, Sampling
from ..errors import SOME_ROWS_FAILED, OutputRefused
from ..jobs.finished import Asked, Finished, Standing
from ..jobs.identity import describe_sampling, settle_identity
from ..jobs.ledger import Ledger
from ..jobs.lines import Format, Lines
from ..jobs.order import InOrder
from ..jobs.results import OutputFormat, RowWriter
from ..jobs.rows import BadRow, Job, Row, hash_of, parse_row
from ..jobs.source import Source, changed_input
from ..jobs.starts import Starts
from ..jobs.survey import Surveyed, name_ids, names_of, survey
from ..llm import Session
from .answering import Answering, Counts, Manner
from .options import MessageOptions, ModelOptions
from .printed_rows import PrintedRows
from .progress import RowProgress
from .run import load_model, ranks_of_a_group
from .stopping import Stopping

WAYS_ON = (
    "give the input as it was or another output with -o, or --rerun-changed to answer these rows anew,"
    " or --force-resume to keep the old answers"
)


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """What the flags say about the files."""

    input_format: Format
    output_format: OutputFormat
    output: Path | None  # None is standard output
    ordered: bool
    retry_errors: bool
    rerun_changed: bool
    strict: bool
    shard: tuple[int, int]  # which part of how many
    force_resume: bool
    row_timeout: float | None  # seconds
    chat_template: TemplateChoice


class BatchRun:
    """One run of the command."""

    def __init__(
        self,
        settings: BatchSettings,
        source: Source,
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
        self.lines = Lines(source, settings.input_format, settings.shard)
        self.stopping = Stopping()
        self._standing: Standing | None = None  # None where the input can be read only once
        self._asked: Surveyed | None = None  # the same
        self._n_before = 0  # rows that earlier runs have finished

    def run(self) -> int:
        """The exit code."""
        output = self.settings.output
        with ExitStack() as stack:
            if self.settings.strict:
                self.source.keep(stack)
            asked = self._survey() if self.source.can_rewind else None
            self.rows_out: PrintedRows | Ledger = PrintedRows() if output is None else Ledger(output)
            stack.enter_context(self.rows_out)
            stack.enter_context(self.stopping)
            if self.rows_out.torn is not None:
                self.messages.note(f"a torn last row was moved to {self.rows_out.torn}")
            finished = self.rows_out.finished()
            if asked is None and (len(finished) or Starts.are_left(output)):
                self.messages.note(f"reading all of {self.source.name}, to see what is done")
                self.source.keep(stack)
                asked = self._survey()
            if asked is not None:
                self._standing = self._compare(asked, finished)
            session = self._load()
            writer, manner = self._settle(session, finished)
            # An error of the program and the death of the process leave its file behind.
            with Starts(output) as starts:
                answering = Answering(session, writer, starts, manner, self.stopping, self.messages)
                return self._answer(answering, asked)

    def _survey(self) -> Surveyed:
        return survey(self.lines, self.sampling, strict=self.settings.strict)

    def _compare(self, asked: Surveyed, finished: Finished) -> Standing:
        """What is done. OutputRefused names rows that the output answers as they were before."""
        settings = self.settings
        if settings.force_resume and len(finished):
            self.messages.note("rows are matched by their ids alone, whatever they asked for")
        self._asked = asked
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
            self.messages.note(f"changed rows run anew ({n_changed:,}): {names}")
        if found.gone.any():
            n_gone = int(found.gone.sum())
            names = name_ids((row.custom_id for row in compress(self.rows_out.rows(), found.gone)), n_gone)
            self.messages.note(f"rows of {settings.output} that are not in the input any more ({n_gone:,}): {names}")
        self._n_before = int(found.done.sum())
        return found

    def _load(self) -> Session:
        template = self.settings.chat_template
        session = load_model(self.model, batch_size=self.batch_size, chat_template=template, dp=self.dp)
        # What the flags ask of every row: none could run.
        session.engine.limits.check(Request(0, (0,), self.sampling, 0))
        return session

    def _settle(self, session: Session, finished: Finished) -> tuple[RowWriter, Manner]:
        """Fix who this run is; a resumed one takes over the seed and the time it was begun with."""
        part, whole = self.settings.shard
        output = self.settings.output
        identity: dict[str, Any] = {
            "version": __version__,
            "model": session.info.name,
            "fingerprint": session.info.fingerprint,
            "rope_scale_factor": self.model.rope_scale_factor,
            "sampling": describe_sampling(dataclasses.replace(self.sampling, seed=None)),
            "chat_template": session.template.name,
            "output_format": self.settings.output_format,
            "shard": f"{part + 1}/{whole}",
            "created": int(time.time()),
            "input": self.source.describe(),
            "run_seed": self.sampling.seed,
        }
        has_rows = len(finished) > 0
        if identity["run_seed"] is None and not has_rows:
            identity["run_seed"] = secrets.randbits(32)
        if output is not None:
            identity = settle_identity(
                output,
                identity,
                has_rows=has_rows,
                has_unknown=finished.has_unknown,
                force=self.settings.force_resume,
            )
        is_alone = ranks_of_a_group(self.model, self.dp) * self.dp == 1
        writer = RowWriter(self.settings.output_format, session.info.name, int(identity["created"]))
        return writer, Manner(int(identity["run_seed"]), self.settings.row_timeout, goes_on=is_alone)

    def _answer(self, answering: Answering, asked: Asked | None) -> int:
        began = time.monotonic()
        with RowProgress(None if asked is None else len(asked.ids), quiet=self.messages.quiet) as progress:
            answering.show_on(progress)
            for _ in range(self._n_before):
                progress.advance()

            def write(row: bytes) -> None:
                self.rows_out.append(row)
                progress.show(answering.counts.tokens)

            early = self._run_suspects(answering)
            order = InOrder(write, ordered=self.settings.ordered)
            answering.run(self._rows_left(order, early), order)
        answering.session.ensure_unchanged()
        self.source.ensure_unchanged()
        is_untidy = self._standing is not None and self._standing.is_untidy
        if asked is not None and is_untidy and not self.stopping.requested:
            self.rows_out.compact(asked)
        return self._close(answering.counts, time.monotonic() - began)

    def _rows(self) -> Iterator[Row]:
        """The rows of this shard that are left to run."""
        if self._standing is None or self._asked is None:
            yield from self._once()
            return
        asked, done = self._asked, self._standing.done
        for line, is_done, digest, mark in zip(self.lines, done, asked.digests, asked.marks, strict=False):
            if is_done:
                continue
            if line.mark != mark:
                raise changed_input(f"{self.source.name} changed at line {line.number} while it was read")
            yield parse_row(line, self.lines.format, self.sampling, int(digest))

    def _once(self) -> Iterator[Row]:
        """The rows of an input that can be read only once; ids that come again have become known by then."""
        seen: set[int] = set()
        for line in self.lines:
            row = parse_row(line, self.lines.format, self.sampling)
            known = hash_of(row.custom_id)
            if known in seen:
                yield BadRow.of(row, "duplicate_custom_id", "an earlier row has this custom_id")
            else:
                seen.add(known)
                yield row

    def _rows_left(self, order: InOrder, early: dict[str, bytes]) -> Iterator[Row]:
        """The same without those that ran early, which take their places in the order here."""
        for row in self._rows():
            if str(row.custom_id) in early:
                order.put(order.ticket(), early.pop(str(row.custom_id)))
                continue
            if self.stopping.requested:
                return
            yield row

    def _run_suspects(self, answering: Answering) -> dict[str, bytes]:
        """Rows that ran when the run before died, one at a time: {custom_id: line}."""
        finished: dict[str, bytes] = {}
        if self._standing is None or not answering.starts.n_suspects:
            return finished
        for row in self._rows():
            custom_id = str(row.custom_id)
            if self.stopping.requested:
                break
            if not isinstance(row, Job) or not answering.starts.is_suspect(row.custom_id):
                continue
            if answering.starts.is_given_up(row.custom_id):
                message = "the process died or failed whenever this row ran"
                finished[custom_id] = answering.fail(BadRow.of(row, "crashed", message))
                continue
            taken: list[bytes] = []
            answering.run_alone(row, taken.append)
            if taken:  # none where a signal came first
                finished[custom_id] = taken[0]
        return finished

    def _close(self, counts: Counts, seconds: float) -> int:
        """Tell how it went and how to go on; the exit code."""
        for line in self._report(counts, seconds):
            self.messages.note(line)
        if self.stopping.requested:
            return self.stopping.exit_code
        return SOME_ROWS_FAILED if counts.failed + self._errors_before.total() else 0

    @property
    def _errors_before(self) -> Counter[str]:
        """Rows that failed in earlier runs and do not run again, by the code of their error."""
        return Counter() if self._standing is None else self._standing.errors

    def _report(self, counts: Counts, seconds: float) -> Iterator[str]:
        line = f"{counts.ok + counts.failed} rows: {counts.ok} ok, {_format_errors(counts.errors)}"
        if self._n_before:
            line += f", {self._n_before} done before"
        rate = counts.tokens / seconds if seconds else 0.0
        yield f"{line}, {counts.tokens} tokens, {rate:.1f} tok/s, {seconds:.1f} s"
        before = self._errors_before
        if before:
            yield f"of the rows done before, {_format_errors(before)}"
        if self.settings.output is None:
            return
        if self.stopping.requested:
            yield "stopped: run the same command again to go on"
        elif counts.failed or before:
            yield "mend the input where it is wrong; the same command with --retry-errors runs these rows again"


def _format_errors(codes: Counter[str]) -> str:
    """`3 errors (2 timeout, 1 invalid_json)`."""
    counted = ", ".join(f"{n} {code}" for code, n in sorted(codes.items(), key=lambda each: (-each[1], each[0])))
    n_all = codes.total()
    return f"{n_all} error{'' if n_all == 1 else 's'}" + (f" ({counted})" if counted else "")
