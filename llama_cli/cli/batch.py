"""`llama-cli batch`: thousands of prompts from a file, resumable, never a row lost."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ..engine.request import Sampling
from ..errors import InputRejected, UsageError
from ..jobs.results import OutputFormat
from ..jobs.rows import Format
from .options import MessageOptions, ModelOptions, TemplateOption, with_options

if TYPE_CHECKING:
    pass

SOME_ROWS_FAILED = 6


@with_options
def batch(
    input_file: Annotated[str, typer.Argument(metavar="INPUT", help="JSONL or text; - reads standard input.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL to write, or to go on with.")],
    input_format: Annotated[Format, typer.Option("--format", help="Of the input.")] = "auto",
    output_format: Annotated[OutputFormat, typer.Option("--output-format", help="Of the rows.")] = "openai",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", min=1, max=4096, help="Rows at a time. Default: by memory.")
    ] = None,
    unordered: Annotated[bool, typer.Option("--unordered", help="Write rows as they finish.")] = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Run rows again that failed.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse an input with any bad row.")] = False,
    shard: Annotated[str | None, typer.Option("--shard", help="I/N: only every N-th row, from the I-th.")] = None,
    force_resume: Annotated[bool, typer.Option("--force-resume", help="Go on though settings differ.")] = False,
    chat_template: TemplateOption = "auto",
    model: ModelOptions,
    sampling: Sampling,
    messages: MessageOptions,
) -> None:
    """Run every row of a file and append the answers to another.

    Rows are OpenAI's batch requests, {"prompt": ...} or {"messages": [...]} with any sampling field, or lines of
    text. The same command again goes on where it stopped.
    """
    messages.apply()
    shards = parse_shard(shard)
    if model.model is None:
        messages.note("no --model given: running the bundled toy, a small model that writes like Shakespeare")
    with ExitStack() as stack:
        source = _open_input(stack, input_file)
        if output.exists() and os.path.sameopenfile(source.fileno(), stack.enter_context(output.open("rb")).fileno()):
            raise UsageError(f"{output} is the input itself", "give another output with -o")

        from .batch_run import BatchRun, BatchSettings

        settings = BatchSettings(
            input_format=input_format,
            output_format=output_format,
            output=output,
            ordered=not unordered,
            retry_errors=retry_errors,
            strict=strict,
            shard=shards,
            force_resume=force_resume,
            chat_template=chat_template,
        )
        run = BatchRun(settings, source, model, sampling, batch_size, messages)
        code = run.run()
    if code:
        raise typer.Exit(code)


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/8` as (1, 8): the rows 1, 9, 17, ... counted from 0."""
    if text is None:
        return 0, 1
    part, _, whole = text.partition("/")
    if part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole) <= 10**6:
        return int(part) - 1, int(whole)
    raise UsageError(f"--shard {text!r} is not I/N with I from 1 to N", "--shard 1/4")


def _open_input(stack: ExitStack, name: str) -> BinaryIO:
    if name == "-":
        if sys.stdin is None:
            raise InputRejected("standard input is closed", "give a file")
        return sys.stdin.buffer
    try:
        return stack.enter_context(open(name, "rb"))
    except OSError as error:
        raise InputRejected(
            f"cannot read {name}: {(error.strerror or str(error)).lower()}", "give another file"
        ) from None
