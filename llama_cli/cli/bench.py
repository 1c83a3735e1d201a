"""`llama-cli bench`: how fast this machine runs a model."""

from __future__ import annotations

import platform
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import MessageOptions, ModelOptions, with_options
from .terminal import Terminal

if TYPE_CHECKING:
    from ..engine.request import Request
    from ..llm import LLM


@with_options("model", "batch", "as_json")
def bench(
    *,
    batch: Annotated[
        bool, typer.Option("--batch", help="Many rows: together, in fixed groups, and one at a time.")
    ] = False,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often to measure each; medians are shown.")] = 3,
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths",
            metavar="N,N,...",
            help="Lengths of prompt in tokens, each measured with one row. Default: 128,512.",
        ),
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", metavar="N,N,...", help="Rows at a time, each measured at the first length.")
    ] = "1,4,16",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=2, help="Tokens of each answer.")] = 32,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, max=4096, help="With --batch: rows at a time.")
    ] = 16,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="With --batch: how many requests.")] = 64,
    alone: Annotated[
        int, typer.Option("--alone", min=1, help="With --batch: how many of them to run one at a time.")
    ] = 8,
    prompt_range: Annotated[
        str, typer.Option("--prompt-range", metavar="N-N", help="With --batch: shortest and longest prompt, in tokens.")
    ] = "16-512",
    answer_range: Annotated[
        str, typer.Option("--answer-range", metavar="N-N", help="With --batch: shortest and longest answer, in tokens.")
    ] = "64-128",
    as_json: Annotated[bool, typer.Option("--json", help="Print the line for programs only.")] = False,
    model: ModelOptions,
    messages: MessageOptions,
) -> None:
    """Measure how fast this machine runs a model.

    Prompts are random. The last line is JSON with every figure and the machine.

    Examples:
      llama-cli bench -m Llama3.2-1B
      llama-cli bench -m Llama3.2-1B --quantize int8 --lengths 1024
      llama-cli bench -m Llama3.2-1B --batch -b 8
    """
    messages.apply()
    terminal = Terminal()
    if batch:
        wanted = _parse_range("--prompt-range", prompt_range), _parse_range("--answer-range", answer_range)

        from ..engine.measure import mixed_requests
        from ..loader import load_model

        session = load_model(replace(model, batch_size=batch_size))
        requests = mixed_requests(prompts, session.engine.limits.tokenizer_size, *wanted)
        longest = max(len(request.prompt) + request.sampling.max_tokens for request in requests)
        _check_length(session, longest, "--prompt-range and --answer-range")
        figures = _measure_batch(session, requests, batch_size, alone)
    else:
        sizes = [128, 512] if lengths is None else _parse_list("--lengths", lengths)
        n_rows = _parse_list("--rows", rows)

        from ..loader import load_model

        session = load_model(replace(model, batch_size=max(n_rows)))
        if lengths is None:
            sizes = [size for size in sizes if size + new_tokens <= session.max_seq_len] or [1]
        _check_length(session, max(sizes) + new_tokens, "--lengths and --new-tokens")
        figures = _measure_speeds(session, sizes, n_rows, new_tokens, rounds)
    if not as_json:
        terminal.write(_format_batch(figures) if batch else _format_speeds(figures))
        terminal.write(f"  {session.info}\n")
    terminal.write_json(figures | _machine(session))


def _measure_speeds(session: LLM, lengths: list[int], rows: list[int], new_tokens: int, rounds: int) -> dict[str, Any]:
    """One row at every length, then more rows at the first; the machine's own bandwidth in the same run."""
    from ..engine.measure import read_bandwidth, run_rows

    engine = session.engine
    cases = [(1, length) for length in lengths] + [(n, lengths[0]) for n in rows if n > 1]
    run_rows(engine, 1, lengths[0], 2)  # warm up: the first step of a process is slow
    measured: list[dict[str, Any]] = []
    for n_rows, length in cases:
        speeds = [run_rows(engine, n_rows, length, new_tokens) for _ in range(rounds)]
        prefill, decode = [speed.prefill for speed in speeds], [speed.decode for speed in speeds]
        measured.append(
            {
                "rows": n_rows,
                "prompt_tokens": length,
                "prefill_tokens_per_second": statistics.median(prefill),
                "prefill_range": [min(prefill), max(prefill)],
                "decode_tokens_per_second": statistics.median(decode),
                "decode_range": [min(decode), max(decode)],
            }
        )
    bandwidth = measured[0]["decode_tokens_per_second"] * session.info.weight_bytes / 1e9
    read = read_bandwidth() / 1e9 if session.info.device == "cpu" else None
    return {
        "rounds": rounds,
        "new_tokens": new_tokens,
        "measured": measured,
        "weight_gigabytes_per_second": bandwidth,
        "read_gigabytes_per_second": read,
        "share_of_read_bandwidth": read and bandwidth / read,
    }


def _measure_batch(session: LLM, requests: list[Request], batch_size: int, alone: int) -> dict[str, Any]:
    """The three ways, one after the other on the same engine; what is cached from one is of no use to the next."""
    from ..engine.measure import run_in_groups, run_one_by_one, run_together

    engine = session.engine
    run_together(engine, requests[:1])  # warm up: the first step of a process is slow
    engine.forget()
    continuous = run_together(engine, requests).tokens_per_second
    engine.forget()
    groups = run_in_groups(engine, requests, batch_size).tokens_per_second
    engine.forget()
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


def _machine(session: LLM) -> dict[str, Any]:
    import torch

    return {
        "model": session.info.name,
        "dtype": session.info.dtype,
        "kernels": session.info.kernels,
        "device": session.info.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }


def _check_length(session: LLM, longest: int, flags: str) -> None:
    if longest > session.max_seq_len:
        raise UsageError(
            f"the longest prompt and answer have {longest} tokens; the context holds {session.max_seq_len}",
            f"give smaller {flags}, or a larger --max-seq-len",
        )


def _parse_range(flag: str, text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high):
        return int(low), int(high)
    raise UsageError(f"{flag} {text!r} is not LOW-HIGH", f"{flag} 16-512")


def _parse_list(flag: str, text: str) -> list[int]:
    parts = text.split(",")
    if all(part.isdecimal() and 1 <= int(part) <= 10**6 for part in parts):
        return [int(part) for part in parts]
    raise UsageError(f"{flag} {text!r} is no list of numbers", f"{flag} 1,4,16")


def _format_batch(figures: dict[str, Any]) -> str:
    return (
        f"{figures['prompts']} prompts, {figures['batch_size']} at a time\n"
        f"  continuous     {figures['continuous_tokens_per_second']:10.1f} tokens/s\n"
        f"  fixed groups   {figures['groups_tokens_per_second']:10.1f} tokens/s"
        f"   continuous is {figures['continuous_over_groups']:.2f}x\n"
        f"  one at a time  {figures['one_at_a_time_tokens_per_second']:10.1f} tokens/s"
        f"   continuous is {figures['continuous_over_one_at_a_time']:.2f}x\n"
    )


def _format_speeds(figures: dict[str, Any]) -> str:
    lines = [
        f"tokens/s, medians of {figures['rounds']} rounds",
        "  rows  prompt of   prompt     answer  (lowest to highest)",
    ]
    for one in figures["measured"]:
        low, high = one["decode_range"]
        lines.append(
            f"  {one['rows']:4}  {one['prompt_tokens']:9}  {one['prefill_tokens_per_second']:8.1f}"
            f"  {one['decode_tokens_per_second']:8.1f}  ({low:.1f} to {high:.1f})"
        )
    last = f"  weights are read at {figures['weight_gigabytes_per_second']:.1f} GB/s with one row"
    if figures["share_of_read_bandwidth"]:
        share, read = figures["share_of_read_bandwidth"], figures["read_gigabytes_per_second"]
        last += f", {share:.0%} of the {read:.1f} GB/s at which this machine reads memory"
    return "\n".join([*lines, last]) + "\n"
