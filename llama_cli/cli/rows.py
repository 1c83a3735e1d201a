"""What `batch` and `score --rows` have in common on the command line: flags, and what is seen of a run."""

from __future__ import annotations

import dataclasses
import traceback
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..jobs.lines import Format
from ..jobs.output_names import refuse_other_names
from ..jobs.settings import RunSettings
from ..jobs.source import Source, open_source
from .options import MessageOptions
from .panels import ROWS_PANEL
from .progress import RowProgress
from .terminal import Terminal, write_stderr_text


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """How the rows of a file run."""

    unordered: Annotated[
        bool,
        typer.Option(
            "--unordered",
            help="Write rows as they finish. Default: in the order of the input.",
            rich_help_panel=ROWS_PANEL,
        ),
    ] = False
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Run the rows again that failed before.", rich_help_panel=ROWS_PANEL)
    ] = False
    rerun_changed: Annotated[
        bool,
        typer.Option(
            "--rerun-changed",
            help="Run the rows anew that have changed since the output answered them.",
            rich_help_panel=ROWS_PANEL,
        ),
    ] = False
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse an input that has a bad row.", rich_help_panel=ROWS_PANEL)
    ] = False
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Only every N-th row, from the I-th.", rich_help_panel=ROWS_PANEL),
    ] = None
    row_timeout: Annotated[
        float | None,
        typer.Option(
            "--row-timeout",
            metavar="SECONDS",
            min=0.001,
            help="Give a row up after so many seconds. Default: never.",
            rich_help_panel=ROWS_PANEL,
        ),
    ] = None
    force_resume: Annotated[
        bool,
        typer.Option(
            "--force-resume", help="Go on although settings or rows are not as before.", rich_help_panel=ROWS_PANEL
        ),
    ] = False

    def given(self) -> list[str]:
        """The flags that say otherwise than their defaults."""
        fields = dataclasses.fields(self)
        return [_flag(each.name) for each in fields if getattr(self, each.name) != each.default]

    def check_output(self, output: Path | None) -> None:
        """UsageError if the output cannot be what the flags go on with."""
        if output is not None:
            refuse_other_names(output)
            return
        for flag in ("--retry-errors", "--rerun-changed", "--force-resume"):
            if flag in self.given():
                raise UsageError(
                    f"{flag} goes on with an output, and rows go to standard output", "give a file with -o"
                )

    def settings(self, output: Path | None, input_format: Format) -> RunSettings:
        """The same as the runner takes it."""
        return RunSettings(
            output=output,
            input_format=input_format,
            ordered=not self.unordered,
            retry_errors=self.retry_errors,
            rerun_changed=self.rerun_changed,
            strict=self.strict,
            shard=parse_shard(self.shard),
            force_resume=self.force_resume,
            row_timeout=self.row_timeout,
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/8` as (1, 8): the rows 1, 9, 17, ... counted from 0."""
    if text is None:
        return 0, 1
    part, _, whole = text.partition("/")
    if part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole) <= 10**6:
        return int(part) - 1, int(whole)
    raise UsageError(f"--shard {text!r} is not I/N with I from 1 to N", "--shard 1/4")


def file_of_rows(output: Path | None) -> Path | None:
    """Where rows are kept; None where they are printed."""
    return None if output is None or str(output) == "-" else output


def open_rows(stack: ExitStack, name: str, output: Path | None) -> Source:
    """The input; UsageError if it is the output too. `stack` closes it."""
    source = open_source(stack, name)
    if output is not None and source.is_at(output):
        raise UsageError(f"{output} is the input itself", "give another output with -o")
    return source


class RowsSeen:
    """A run of rows as a person sees it: notes and progress on standard error, printed rows on standard output."""

    def __init__(self, messages: MessageOptions) -> None:
        self._messages = messages
        self._terminal = Terminal()

    def note(self, text: str) -> None:
        self._messages.note(text)

    def trace(self, error: Exception) -> None:
        """With --debug where it came from."""
        if self._messages.debug:
            write_stderr_text("".join(traceback.format_exception(error)))

    def print_row(self, row: bytes) -> None:
        self._terminal.write(row.decode("ascii"))

    def progress(self, n_rows: int | None) -> AbstractContextManager[RowProgress]:
        return RowProgress(n_rows, quiet=self._messages.quiet)
