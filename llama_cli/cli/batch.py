"""`llama-cli batch`: thousands of prompts from a file, resumable, never a row lost."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ..engine.request import Sampling
from ..jobs.lines import Format
from ..jobs.results import OutputFormat
from .options import AS_MANY_AS_FIT, BatchModelOptions, MessageOptions, with_options
from .panels import ROWS_PANEL
from .rows import RowOptions, RowsSeen, file_of_rows, open_rows


@with_options("output", "model", "max_tokens")
def batch(
    input_file: Annotated[
        str, typer.Argument(metavar="INPUT", help="JSONL or text, also .gz; - reads standard input.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL to write, or to go on with; - prints it.")],
    input_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="What the input is; auto: text, if its first row is no JSON object.",
            rich_help_panel=ROWS_PANEL,
        ),
    ] = "auto",
    output_format: Annotated[
        OutputFormat,
        typer.Option("--output-format", help="Shape of the rows that are written.", rich_help_panel=ROWS_PANEL),
    ] = "openai",
    rows: RowOptions,
    model: BatchModelOptions = AS_MANY_AS_FIT,
    sampling: Sampling,
    messages: MessageOptions,
) -> None:
    """Run every row of a file and append the answers to another.

    Rows are OpenAI's batch requests, {"prompt": ...} or {"messages": [...]} with any sampling field, or lines of
    text. The same command again goes on where it stopped.

    Examples:
      llama-cli batch prompts.jsonl -o answers.jsonl -m Llama3.2-1B
      llama-cli batch prompts.jsonl -o answers.jsonl -m Llama3.2-1B --retry-errors
      llama-cli batch prompts.jsonl -o part1.jsonl --shard 1/2
    """
    messages.apply()
    path = file_of_rows(output)
    settings = rows.settings(path, input_format)
    messages.tell_of_toy(model.model)
    rows.check_output(path)
    if path is None:
        messages.note("rows go to standard output: this run cannot be resumed")
    with ExitStack() as stack:
        source = open_rows(stack, input_file, path)

        from ..jobs.batch import BatchTask
        from ..jobs.run import JobRun

        task = BatchTask(sampling, output_format)
        code = JobRun(task, settings, source, model, RowsSeen(messages)).run()
    if code:
        raise typer.Exit(code)
