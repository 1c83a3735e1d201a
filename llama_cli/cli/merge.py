"""`llama-cli merge`: the part files of many machines become one output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SOME_ROWS_FAILED, OutputRefused
from ..jobs.output_names import refuse_other_names
from .options import MessageOptions, with_options

SHOWN_GAPS = 5


@with_options()
def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Outputs of `batch --shard I/N`.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    messages: MessageOptions,
) -> None:
    """Join the outputs of a sharded batch in the order of its input.

    Gaps and rows that are there twice are reported; one row is kept for each, a success rather than an error. What
    is missing at the end cannot be known.

    Examples:
      llama-cli merge part1.jsonl part2.jsonl -o answers.jsonl
      llama-cli merge part*.jsonl -o answers.jsonl --force
    """
    messages.apply()
    if output.exists() and not force:
        raise OutputRefused(f"{output} exists already", "give another -o, or --force to replace it")

    refuse_other_names(output)
    from ..jobs.merge import merge_parts

    merged = merge_parts(parts, output)
    messages.note(f"{merged.n_rows} rows, {merged.n_errors} errors, {merged.n_duplicates} duplicates left out")
    if merged.missing:
        gaps = [f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in merged.missing[:SHOWN_GAPS]]
        more = f" and {len(merged.missing) - SHOWN_GAPS} gaps more" if len(merged.missing) > SHOWN_GAPS else ""
        messages.note(f"rows are missing: {', '.join(gaps)}{more}")
    if merged.n_errors or merged.missing:
        raise typer.Exit(SOME_ROWS_FAILED)
