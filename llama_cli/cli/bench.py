"""`llama-cli bench`: how fast this machine runs a model."""

from __future__ import annotations

import platform
import statistics
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import MessageOptions, ModelOptions, with_options
from .terminal import Terminal

if TYPE_CHECKING:
    from ..engine.request import Request
    from ..session import Session


@with_options
def bench(
    *,
    batch: Annotated[
        bool, typer.Option("--batch", help="Many rows: together, in fixed groups, and one at a time.")
    ] = False,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often to measure one row.")] = 5,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, max=4096, help="Rows at a time.")] = 16,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="How many requests.")] = 64,
    alone: Annotated[int, typer.Option("--alone", min=1, help="How many of them to run one at a time.")] = 8,
    prompt_lengths: Annotated[
        str | None, typer.Option("--prompt-lengths", help="Shortest and longest. Default: 128-128; --batch 16-512.")
    ] = None,
    new_tokens: Annotated[
        str | None, typer.Option("--new-tokens", help="Shortest and longest answer. Default: 64-64; --batch 64-128.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the line for programs only.")] = False,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Measure tokens per second on random prompts; the last line is JSON with every figure and the machine."""
    messages.apply()
    lengths = _parse_range("--prompt-lengths", prompt_lengths or ("16-512" if batch else "128-128"))
    answers = _parse_range("--new-tokens", new_tokens or ("64-128" if batch else "64-64"))

    from ..benchmark import mixed_requests
    from .run import load_model

    session = load_model(model, batch_size=batch_size if batch else 1)
    requests = mixed_requests(prompts if batch else rounds, session.engine.n_words, lengths, answers)
    _check_lengths(session, requests)
    figures = _measure_batch(session, requests, alone) if batch else _measure_row(session, requests)
    terminal = Terminal()
    if not as_json:
        terminal.write(_format_batch(figures) if batch else _format_row(figures))
    terminal.write_json(figures | _machine(session))


def _measure_row(session: Session, requests: list[Request]) -> dict[str, Any]:
    """One row at a time: prompt and answer by themselves, medians of the rounds."""
    from ..benchmark import run_row

    run_row(session.engine, requests[0])  # warm up: the first step of a process is slow
    rows = [run_row(session.engine, request) for request in requests]
    prefill = [row.prefill_tokens_per_second for row in rows]
    decode = [row.decode_tokens_per_second for row in rows]
    bandwidth = statistics.median(decode) * session.info.weight_bytes / 1e9
    return {
        "rounds": len(rows),
        "prefill_tokens_per_second": statistics.median(prefill),
        "prefill_range": [min(prefill), max(prefill)],
        "decode_tokens_per_second": statistics.median(decode),
        "decode_range": [min(decode), max(decode)],
        "weight_gigabytes_per_second": bandwidth,
    }


def _measure_batch(session: Session, requests: list[Request], alone: int) -> dict[str, Any]:
    """The three ways, one after the other on the same engine; what is cached from one is of no use to the next."""
    from ..benchmark import run_in_groups, run_one_by_one, run_together

    engine, batch_size = session.engine, session.engine.runner.n_slots
    run_together(engine, requests[:1])  # warm up: the first step of a process is slow
    engine.scheduler.forget()
    continuous = run_together(engine, requests).tokens_per_second
    engine.scheduler.forget()
    groups = run_in_groups(engine, requests, batch_size).tokens_per_second
    engine.scheduler.forget()
    single = run_one_by_one(engine, requests[:alone]).tokens_per_second
    return {
        "batch_size": batch_size,
        "prompts": len(requests),
        "prompts_alone": min(alone, len(requests)),
        "continuous_tokens_per_second": continuous,
        "groups_tokens_per_second": groups,
        "one_at_a_time_tokens_per_second": single,
        "continuous_over_groups": continuous / groups,
        "continuous_over_one_at_a_time": continuous / single,
    }


def _machine(session: Session) -> dict[str, Any]:
    import torch

    return {
        "model": session.info.name,
        "dtype": session.info.dtype,
        "device": session.info.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }


def _check_lengths(session: Session, requests: list[Request]) -> None:
    longest = max(len(request.prompt) + request.sampling.max_tokens for request in requests)
    if longest > session.max_seq_len:
        raise UsageError(
            f"the longest prompt and answer have {longest} tokens; the context holds {session.max_seq_len}",
            "give shorter --prompt-lengths and --new-tokens, or a larger --max-seq-len",
        )


def _parse_range(flag: str, text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high):
        return int(low), int(high)
    raise UsageError(f"{flag} {text!r} is not LOW-HIGH", f"{flag} 16-512")


def _format_batch(figures: dict[str, Any]) -> str:
    return (
        f"{figures['prompts']} prompts, {figures['batch_size']} at a time\n"
        f"  continuous     {figures['continuous_tokens_per_second']:10.1f} tokens/s\n"
        f"  fixed groups   {figures['groups_tokens_per_second']:10.1f} tokens/s"
        f"   continuous is {figures['continuous_over_groups']:.2f}x\n"
        f"  one at a time  {figures['one_at_a_time_tokens_per_second']:10.1f} tokens/s"
        f"   continuous is {figures['continuous_over_one_at_a_time']:.2f}x\n"
    )


def _format_row(figures: dict[str, Any]) -> str:
    low, high = figures["decode_range"]
    return (
        f"one row, medians of {figures['rounds']} rounds\n"
        f"  prompt {figures['prefill_tokens_per_second']:10.1f} tokens/s\n"
        f"  answer {figures['decode_tokens_per_second']:10.1f} tokens/s ({low:.1f} to {high:.1f}),"
        f" weights read at {figures['weight_gigabytes_per_second']:.1f} GB/s\n"
    )
