"""`llama-cli info`: what a model is and what it needs, from its headers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..memory import format_bytes, free_memory, gpus_here, usable_memory
from .options import (
    MessageOptions,
    ModelArgument,
    OneJsonObject,
    PlannedModel,
    with_options,
)
from .panels import MODEL_PANEL
from .terminal import Terminal, format_table


@with_options()
def info(
    name: ModelArgument = None,
    *,
    model: PlannedModel,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", "-b", min=1, max=4096, help="Plan for so many sequences.", rich_help_panel=MODEL_PANEL
        ),
    ] = 1,
    as_json: OneJsonObject = False,
    messages: MessageOptions,
) -> None:
    """Describe a model and the memory it takes.

    Configuration, parameters, tokenizer, and a plan for every precision. Only headers are read, so it takes no time
    and no memory whatever the size of the model.

    Examples:
      llama-cli info Llama3.2-1B
      llama-cli info ~/.llama/checkpoints/Llama3.1-70B -c 8192 -b 16
    """
    messages.apply()
    asked = chosen_model(name, model.model)

    from ..checkpoint.describe import describe_model, plan_table
    from ..checkpoint.headers import read_headers

    headers = read_headers(asked, tokenizer=model.tokenizer)
    configuration = headers.configuration(rope_scale_factor=model.rope_scale_factor)
    described = describe_model(headers, configuration)
    context = model.max_seq_len or configuration.args.max_seq_len
    memory, gpus = free_memory(), gpus_here()
    rows = plan_table(
        headers,
        configuration.args,
        context=context,
        batch_size=batch_size,
        memory=usable_memory(),
        gpus=gpus,
    )
    described["memory"] = {
        "context": context, "batch_size": batch_size, "free_bytes": memory,
        "free_gpu_bytes": [gpu.free for gpu in gpus], "plans": rows,
    }  # fmt: skip
    terminal = Terminal()
    terminal.write_json(described) if as_json else terminal.write(_format(described))


def chosen_model(name: str | None, model: str | Path | None) -> str | Path:
    """The model given in one of the two ways, or the toy. A name goes before -m's environment variable."""
    from ..checkpoint.folders import TOY

    given = model if name is None else name
    return TOY if given is None else given


def _format(described: dict[str, Any]) -> str:
    blocks = [
        format_table(("model", described["name"]), _facts(described)),
        format_table(("configuration", "value", "from"), _configuration(described["configuration"])),
        format_table(("parameters", f"{described['parameters']['total']:,}"), _parameters(described)),
        _format_memory(described["memory"]),
    ]
    return "\n".join(blocks)


def _facts(described: dict[str, Any]) -> list[tuple[str, str]]:
    from ..checkpoint.family import format_count

    tokenizer = described["tokenizer"]
    family = described["family"] or "not a shape of Meta's"
    count = format_count(described["parameters"]["total"])
    n_files = len(described["files"])
    files = f"{n_files} of {described['format']}, {format_bytes(described['bytes'])}"
    if described["shards"] > 1:
        files = f"{described['shards']} shards, {format_bytes(described['bytes'])}"
    shown = tokenizer["problem"]
    if shown is None:
        known = f", {tokenizer['known']}" if tokenizer["known"] else ""
        shown = f"{tokenizer['kind']}, {tokenizer['n_words']:,} tokens{known}: {tokenizer['path']}"
    ends = ", ".join(f"{name} ({number})" for name, number in (tokenizer["stop_tokens"] or {}).items())
    quantized = described["quantization"]
    runs = [
        (
            "quantized",
            f"to {quantized} by llama-cli convert; runs so on an x86 CPU and on NVIDIA GPUs, as full weights elsewhere",
        )
    ]
    return [
        ("family", f"{family}, {count}"),
        ("folder", described["folder"]),
        ("files", files),
        ("stored as", ", ".join(f"{dtype} {format_bytes(size)}" for dtype, size in described["dtypes"].items())),
        *(runs if quantized else []),
        ("output matrix", "the embedding (tied)" if described["tied"] else "of its own"),
        ("tokenizer", shown),
        *([("warning", tokenizer["warning"])] if tokenizer["warning"] else []),
        ("chat format", _chat_format(tokenizer)),
        ("ends at", ends or "nothing"),
        ("context", f"{described['context']:,} tokens"),
    ]


def _chat_format(tokenizer: dict[str, Any]) -> str:
    name, template, source = (tokenizer[key] for key in ("chat_format", "chat_template", "chat_template_from"))
    return "none" if name is None else f"{name}, template {template}, from {source}"


def _configuration(configuration: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(name, _format_value(each["value"]), each["source"]) for name, each in configuration.items()]


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        from ..model.args import NO_CONTEXT

        if value["original_context"] == NO_CONTEXT:
            return f"factor {value['factor']:g} for every frequency (linear)"
        return f"factor {value['factor']:g} beyond {value['original_context']} tokens"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _parameters(described: dict[str, Any]) -> list[tuple[str, str]]:
    counts = described["parameters"]
    rows = [(part.replace("_", "-"), f"{count:,}") for part, count in counts.items() if part != "total"]
    padding = described["padding_parameters"]
    if padding:
        rows.append(("padding", f"{padding:,}, left out"))
    if described["stored_parameters"] - padding != counts["total"]:
        rows.append(
            ("in the files", f"{described['stored_parameters']:,}: not what was expected; try llama-cli verify")
        )
    return rows


def _format_memory(memory: dict[str, Any]) -> str:
    has_gpus = bool(memory["free_gpu_bytes"])
    titles = ["memory", "ranks", "weights", "cache", "peak", "fits", *["GPU"] * has_gpus, "largest context"]
    rows = [
        [
            plan["precision"],
            str(plan["ranks"]),
            format_bytes(plan["weight_bytes"]),
            format_bytes(plan["cache_bytes"]),
            format_bytes(plan["peak_bytes"]),
            "yes" if plan["fits_cpu"] else "no",
            *[("yes" if plan["fits_gpu"] else "no")] * has_gpus,
            f"{plan['largest_context']:,}" if plan["largest_context"] else "none",
        ]
        for plan in memory["plans"]
    ]
    gpus = "".join(f", GPU {number}: {format_bytes(free)}" for number, free in enumerate(memory["free_gpu_bytes"]))
    sequences = "sequence" if memory["batch_size"] == 1 else "sequences"
    return format_table(titles, rows) + (
        f"for each rank, {memory['batch_size']} {sequences} of {memory['context']:,} tokens;"
        f" free now: {format_bytes(memory['free_bytes'])}{gpus}\n"
    )
