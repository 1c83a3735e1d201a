"""`llama-cli batch`: thousands of prompts from a file, resumable, never a row lost."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ..engine.request import Sampling
from ..errors import UsageError
from ..jobs.lines import Format
from ..jobs.output_names import refuse_other_names
from ..jobs.results import OutputFormat
from ..jobs.source import open_source
from .options import BatchSize, MessageOptions, ModelOptions, TemplateOption, with_options


@with_options
def batch(
    input_file: Annotated[
        str, typer.Argument(metavar="INPUT", help="JSONL or text, also .gz; - reads standard input.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL to write, or to go on with; - prints it.")],
    input_format: Annotated[Format, typer.Option("--format", help="Of the input.")] = "auto",
    output_format: Annotated[OutputFormat, typer.Option("--output-format", help="Of the rows.")] = "openai",
    batch_size: BatchSize = None,
    unordered: Annotated[bool, typer.Option("--unordered", help="Write rows as they finish.")] = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Run rows again that failed.")] = False,
    rerun_changed: Annotated[
        bool, typer.Option("--rerun-changed", help="Run rows anew that are not what the output has answered.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse an input with any bad row.")] = False,
    shard: Annotated[str | None, typer.Option("--shard", help="I/N: only every N-th row, from the I-th.")] = None,
    dp: Annotated[
        int, typer.Option("--dp", min=1, max=1024, help="Groups of processes, each with a whole model; rows go to any.")
    ] = 1,
    row_timeout: Annotated[
        float | None, typer.Option("--row-timeout", min=0.001, help="Give a row up after so many seconds.")
    ] = None,
    force_resume: Annotated[bool, typer.Option("--force-resume", help="Go on though settings or rows differ.")] = False,
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
    to_file = None if str(output) == "-" else output
    if to_file is None:
        for name, asked in {
            "--retry-errors": retry_errors, "--rerun-changed": rerun_changed, "--force-resume": force_resume,
        }.items():  # fmt: skip
            if asked:
                raise UsageError(
                    f"{name} goes on with an output, and rows go to standard output", "give a file with -o"
                )
        messages.note("rows go to standard output: this run cannot be resumed")
    else:
        refuse_other_names(output)
    with ExitStack() as stack:
        source = open_source(stack, input_file)
        if to_file and source.is_at(output):
            raise UsageError(f"{output} is the input itself", "give another output with -o")

        from .batch_run import BatchRun, BatchSettings

        settings = BatchSettings(
            input_format=input_format,
            output_format=output_format,
            output=to_file,
            ordered=not unordered,
            retry_errors=retry_errors,
            rerun_changed=rerun_changed,
            strict=strict,
            shard=shards,
            force_resume=force_resume,
            row_timeout=row_timeout,
            chat_template=chat_template,
        )
        run = BatchRun(settings, source, model, sampling, batch_size, messages, dp)
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
