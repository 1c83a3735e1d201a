"""`llama-cli score`: how likely a text is, and which of several continuations is likeliest."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SOME_ROWS_FAILED, UsageError
from ..jobs.source import open_source
from .options import OUTPUT_PANEL, MessageOptions, ModelOptions, OneJsonObject, UseStdin, with_options
from .prompts import read_prompt
from .terminal import Terminal


@with_options
def score(
    text: Annotated[str | None, typer.Argument(help="The text to score; - reads standard input.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from a file.")] = None,
    prompt_ids: Annotated[str | None, typer.Option("--prompt-ids", help="The text as ids: 1,2,3.")] = None,
    stdin: UseStdin = True,
    choices: Annotated[
        list[str] | None, typer.Option("--choices", help="A continuation of the text; rank several of them.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", help='A JSONL of {"text"} or {"prompt", "choices"}; - reads standard input.'),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", min=1, max=4096, help="Of --rows. Default: by memory.")
    ] = None,
    window: Annotated[int | None, typer.Option("--window", min=2, help="Tokens scored together. Default: all.")] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="From one window to the next. Default: half a window.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", min=2, help="Score the first tokens only.")
    ] = None,
    as_json: OneJsonObject = False,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Add every token's log-probability.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Tell how likely a text is.

    Log-probability, perplexity, bits per token and byte. Long texts are scored in windows; every token counts once.
    """
    messages.apply()
    if logprobs and not (as_json or rows):
        raise UsageError("--logprobs needs --json", "add --json")
    if rows is not None and any(given is not None for given in (text, file, prompt_ids, choices or None)):
        raise UsageError("--rows has its texts and choices in the file", "leave the others out")
    if choices and max_tokens is not None:
        raise UsageError("--max-tokens cuts texts, not continuations", "leave it out, or --choices")
    content = "" if rows is not None else read_prompt(text, file, prompt_ids, stdin=stdin, note=messages.note)
    if isinstance(content, str):
        messages.doubt(content)
    if model.model is None:
        messages.note("no --model given: running the bundled toy, a small model that writes like Shakespeare")

    from ..jobs.scoring import Windows
    from .run import load_model
    from .scorer import Scorer

    with ExitStack() as stack:
        source = None if rows is None else open_source(stack, rows)
        session = load_model(model, batch_size=1 if rows is None else batch_size)
        size = min(window or session.max_seq_len, session.max_seq_len)
        scorer = Scorer(session, Windows(size, min(stride or max(size // 2, 1), size - 1 or 1)), logprobs=logprobs)
        if source is not None:
            from .score_rows import score_rows

            failed = score_rows(scorer, source, max_tokens, messages)
            if failed:
                raise typer.Exit(SOME_ROWS_FAILED)
            return
        described = scorer.describe(content, max_tokens, tuple(choices or ()))
        session.ensure_unchanged()
        if described.get("tie"):
            messages.note("several choices are equally likely: the first of them is marked as the best")
        terminal = Terminal()
        terminal.write_json(described) if as_json else terminal.write(_format(described))


def _format(described: dict[str, Any]) -> str:
    if "choices" in described:
        ranked = sorted(described["choices"], key=lambda choice: float(choice["nats"]))
        return "".join(f"{choice['nats']:.4f} nats  {choice['text']!r}\n" for choice in ranked)
    return (
        f"{described['tokens']} tokens, {described['bytes']} bytes\n"
        f"{described['nats_per_token']:.4f} nats per token, {described['bits_per_token']:.4f} bits per token,"
        f" {described['bits_per_byte']:.4f} bits per byte\n"
        f"perplexity {described['perplexity']:.4f}\n"
        f"windows of {described['window']} tokens, one every {described['stride']}\n"
    )
