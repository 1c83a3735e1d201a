"""`llama-cli merge`: the part files of many machines become one output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SOME_ROWS_FAILED, OutputRefused
from ..files.quoting import plural
from ..jobs.output_names import refuse_other_names
from .options import MessageOptions, with_options

if TYPE_CHECKING:
    from ..jobs.shards import Findings

SHOWN = 5


@with_options()
def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Outputs of `batch --shard I/N`.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it is there.")] = False,
    messages: MessageOptions,
) -> None:
    """Join the outputs of a sharded batch in the order of its input.

    Gaps and rows that are there twice are reported; one row is kept for each, a success rather than an error. Shards
    that are missing or not done are named where the parts have the .run.json beside them that batch writes.

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
    counts = {"row": merged.n_rows, "error": merged.n_errors, "duplicate": merged.n_duplicates}
    messages.note(f"{', '.join(f'{n} {plural(n, noun)}' for noun, n in counts.items())} left out")
    if merged.missing:
        gaps = [f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in merged.missing[:SHOWN]]
        n_more = len(merged.missing) - SHOWN
        more = f" and {n_more} {plural(n_more, 'gap')} more" if n_more > 0 else ""
        messages.note(f"rows are missing: {', '.join(gaps)}{more}")
    for line in _findings(merged.findings):
        messages.note(line)
    if not merged.is_whole:
        raise typer.Exit(SOME_ROWS_FAILED)


def _findings(found: Findings) -> Iterator[str]:
    """What the parts lack, each line with what to do about it."""
    for part, n_left in found.unfinished[:SHOWN]:
        yield f"{part.path} lacks {n_left:,} of the {part.n_rows:,} rows of shard {part.shard}: run its command again"
    if more := found.unfinished[SHOWN:]:
        yield f"{len(more):,} more parts are not done"
    if found.absent:
        names, first = _listed(found.absent), found.absent[0]
        yield f"shards are missing: {names}; run --shard {first} with an -o of its own, and merge that too"
    for paths, what in ((found.other_input, "input"), (found.other_model, "model")):
        if paths:
            yield f"not all were begun with one {what}: {_listed(paths)}, unlike those before; see if they belong here"
    if found.unknown:
        yield (
            f"whether the last rows are there is not known of {_listed(found.unknown)}:"
            " no .run.json of this version is beside it; copy it along"
        )


def _listed(things: Sequence[object]) -> str:
    more = f" and {len(things) - SHOWN:,} more" if len(things) > SHOWN else ""
    return ", ".join(str(thing) for thing in things[:SHOWN]) + more
