"""`llama-cli score`: how likely a text is, and which of several continuations is likeliest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputRejected, UsageError
from .options import OUTPUT_PANEL, MessageOptions, ModelOptions, with_options
from .prompts import read_prompt
from .terminal import Terminal

if TYPE_CHECKING:
    from ..scoring import Score
    from ..session import Session


@with_options
def score(
    text: Annotated[str | None, typer.Argument(help="The text to score; - reads standard input.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from a file.")] = None,
    prompt_ids: Annotated[str | None, typer.Option("--prompt-ids", help="The text as ids: 1,2,3.")] = None,
    choices: Annotated[
        list[str] | None, typer.Option("--choices", help="A continuation of the text; rank several of them.")
    ] = None,
    window: Annotated[int | None, typer.Option("--window", min=2, help="Tokens scored together. Default: all.")] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="From one window to the next. Default: half a window.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", "-n", min=2, help="Score the first tokens only.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Add every token's log-probability.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Score a text: log-probability, perplexity, bits per token and byte.

    Long texts are scored in windows; every token counts once.
    """
    messages.apply()
    if logprobs and not as_json:
        raise UsageError("--logprobs needs --json", "add --json")
    content = read_prompt(text, file, prompt_ids)
    if model.model is None:
        messages.note("no --model given: running the bundled toy, a small model that writes like Shakespeare")

    from ..scoring import Score, Windows, score_tokens
    from .run import describe_scores, load_model

    session = load_model(model, batch_size=1)
    size = min(window or session.max_seq_len, session.max_seq_len)
    windows = Windows(size, min(stride or max(size // 2, 1), size - 1 or 1))
    ids = _ids_of(session, content)[:max_tokens]
    terminal = Terminal()
    if choices:
        ranked = {
            choice: Score(
                score_tokens(session.engine, [*ids, *_plain_ids(session, choice)], windows, first=len(ids)),
                len(choice.encode()),
            )
            for choice in choices
        }
        best = min(ranked, key=lambda choice: ranked[choice].nats)
        described: dict[str, Any] = {
            "choices": [
                {"text": choice, "nats": each.nats, "nats_per_token": each.nats_per_token, "best": choice == best}
                for choice, each in ranked.items()
            ]
        }
        if as_json:
            terminal.write_json(described)
        else:
            for choice in sorted(ranked, key=lambda choice: ranked[choice].nats):
                terminal.write(f"{ranked[choice].nats:.4f} nats  {choice!r}\n")
        return
    if len(ids) < 2:
        raise InputRejected("a text of one token has nothing to score", "give a longer text")
    scores = score_tokens(session.engine, ids, windows)
    result = Score(scores, sum(len(session.tokenizer.token_bytes(each.token_id)) for each in scores))
    described = _describe(result, windows.size, windows.stride)
    if logprobs:
        described["logprobs"] = describe_scores(session, scores)
    session.ensure_unchanged()
    terminal.write_json(described) if as_json else terminal.write(_format(described))


def _ids_of(session: Session, content: str | list[int]) -> list[int]:
    if isinstance(content, str):
        return session.tokenize(content)
    return list(content)


def _plain_ids(session: Session, text: str) -> list[int]:
    """A continuation: no begin token in front of it."""
    ids = session.tokenize(text, bos=False)
    if not ids:
        raise InputRejected("a choice is empty", "give every --choices a text")
    return ids


def _describe(result: Score, window: int, stride: int) -> dict[str, Any]:
    return {
        "tokens": len(result.logprobs),
        "bytes": result.n_bytes,
        "nats": result.nats,
        "nats_per_token": result.nats_per_token,
        "bits_per_token": result.bits_per_token,
        "bits_per_byte": result.bits_per_byte,
        "perplexity": result.perplexity,
        "window": window,
        "stride": stride,
    }


def _format(described: dict[str, Any]) -> str:
    return (
        f"{described['tokens']} tokens, {described['bytes']} bytes\n"
        f"{described['nats_per_token']:.4f} nats per token, {described['bits_per_token']:.4f} bits per token,"
        f" {described['bits_per_byte']:.4f} bits per byte\n"
        f"perplexity {described['perplexity']:.4f}\n"
        f"windows of {described['window']} tokens, one every {described['stride']}\n"
    )
