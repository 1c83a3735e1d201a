"""`llama-cli score`: how likely a text is, and which of several continuations is likeliest."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..files.quoting import plural
from ..options import LoadOptions
from .options import AsIds, FromFile, MessageOptions, ModelOptions, OneJsonObject, UseStdin, with_options
from .panels import OUTPUT_PANEL, ROWS_PANEL
from .prompts import read_prompt
from .rows import RowOptions, RowsSeen, file_of_rows, open_rows
from .terminal import Terminal


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """How texts are scored, one or all of a file."""

    window: Annotated[
        int | None,
        typer.Option("--window", min=2, help="Tokens scored together. Default: as many as the context holds."),
    ] = None
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="Tokens from one window to the next. Default: half a window.")
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", min=2, help="Score so many tokens of the beginning. Default: all."),
    ] = None
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Add every token's log-probability.", rich_help_panel=OUTPUT_PANEL)
    ] = False


@with_options("model", "choices", "rows")
def score(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text to score; - reads standard input.")
    ] = None,
    *,
    file: FromFile = None,
    prompt_ids: AsIds = None,
    stdin: UseStdin = True,
    choices: Annotated[
        list[str] | None, typer.Option("--choices", help="A continuation of the text; rank several of them.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows", metavar="FILE", help='A JSONL of {"text"} or {"prompt", "choices"}; - reads standard input.'
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Of --rows: the JSONL to write, or to go on with. Default: print it.",
            rich_help_panel=ROWS_PANEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            min=1,
            max=4096,
            help="Of --rows: rows at a time. Default: as many as fit into memory, at most 16.",
            rich_help_panel=ROWS_PANEL,
        ),
    ] = None,
    as_json: OneJsonObject = False,
    options: ScoreOptions,
    row_options: RowOptions,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Tell how likely a text is.

    Log-probability, perplexity, bits per token and byte. Long texts are scored in windows; every token counts once.
    Rows of a file go on where they stopped, if the same command with -o FILE runs again.

    Examples:
      llama-cli score "The capital of France is Paris."
      llama-cli score "The sky is" --choices " blue" --choices " green"
      llama-cli score --rows questions.jsonl -o scores.jsonl
    """
    messages.apply()
    if options.logprobs and not (as_json or rows):
        raise UsageError("--logprobs needs --json", "add --json")
    if rows is not None:
        if any(given is not None for given in (text, file, prompt_ids, choices or None)):
            raise UsageError("--rows has its texts and choices in the file", "leave the others out")
        _score_rows(rows, output, options, row_options, dataclasses.replace(model, batch_size=batch_size), messages)
        return
    given = [flag for flag, value in {"--output": output, "--batch-size": batch_size}.items() if value is not None]
    for flag in given + row_options.given():
        raise UsageError(f"{flag} is about rows, and there are none", "--rows names a file of them")
    if choices and options.max_tokens is not None:
        raise UsageError("--max-tokens cuts texts, not continuations", "leave it out, or --choices")
    content = read_prompt(text, file, prompt_ids, stdin=stdin, note=messages.note)
    if isinstance(content, str):
        messages.doubt(content)
    messages.tell_of_toy(model.model)

    from ..jobs.scorer import Scorer
    from ..jobs.scoring import Windows
    from ..loader import load_model

    session = load_model(model)
    windows = Windows.of(options.window, options.stride, session.max_seq_len)
    scorer = Scorer(session, windows, logprobs=options.logprobs)
    described = scorer.describe(content, options.max_tokens, tuple(choices or ()))
    session.ensure_unchanged()
    if described.get("tie"):
        messages.note("several choices are equally likely: the first of them is marked as the best")
    terminal = Terminal()
    terminal.write_json(described) if as_json else terminal.write(_format(described))


def _score_rows(
    name: str,
    output: Path | None,
    options: ScoreOptions,
    row_options: RowOptions,
    model: LoadOptions,
    messages: MessageOptions,
) -> None:
    """Score a file of rows."""
    path = file_of_rows(output)
    settings = row_options.settings(path, "prompts")
    row_options.check_output(path)
    messages.tell_of_toy(model.model)
    with ExitStack() as stack:
        source = open_rows(stack, name, path)

        from ..jobs.run import JobRun
        from ..jobs.score import ScoreTask

        task = ScoreTask(
            options.window, options.stride, options.max_tokens, logprobs=options.logprobs, is_kept=path is not None
        )
        code = JobRun(task, settings, source, model, RowsSeen(messages)).run()
    if code:
        raise typer.Exit(code)


def _format(described: dict[str, Any]) -> str:
    if "choices" in described:
        ranked = sorted(described["choices"], key=lambda choice: float(choice["nats"]))
        return "".join(f"{choice['nats']:.4f} nats  {choice['text']!r}\n" for choice in ranked)
    return (
        f"{described['tokens']} {plural(described['tokens'], 'token')},"
        f" {described['bytes']} {plural(described['bytes'], 'byte')}\n"
        f"{described['nats_per_token']:.4f} nats per token, {described['bits_per_token']:.4f} bits per token,"
        f" {described['bits_per_byte']:.4f} bits per byte\n"
        f"perplexity {described['perplexity']:.4f}\n"
        f"windows of {described['window']} tokens, one every {described['stride']}\n"
    )
