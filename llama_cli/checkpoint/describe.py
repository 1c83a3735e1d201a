"""What a model is, from its headers alone: configuration, parameters, tokenizer, memory. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal

from ..backends.offers import ABLE, INT4_CAPABILITY, Machine, Offer, choose_offer, expected_machine
from ..errors import LlamaError
from ..memory import Gpu, can_split
from ..model.args import ModelArgs
from ..model.weights import Role, weights_of
from ..options import DtypeName, Kernels, Quantization
from ..tokenizer import Tokenizer, TokenizerError, names_of
from ..tokenizer.chat import TEMPLATES, TemplateName, family_template, make_template, recognise_template
from ..tokenizer.known import known_tokenizer
from .family import family_of
from .headers import Headers
from .installed import model_name
from .params import Configuration
from .plan import plan_model, what_is_wanted
from .tokenizer_file import check_vocabulary, open_tokenizer
from .unsupported import unnested

RANKS = (1, 2, 4, 8)
FORMATS = {
    "llama3": "Llama3",
    "llama3-strip": "Llama3",
    "chatml": "ChatML",
    "llama2": "Llama2",
    "codellama-70b": "CodeLlama70B",
}
Precision = Literal["bf16", "fp32", "int8", "int4"]
PRECISIONS: Mapping[Precision, tuple[DtypeName, Quantization | None]] = {
    "bf16": ("bf16", None),
    "fp32": ("fp32", None),
    "int8": ("auto", "int8"),
    "int4": ("auto", "int4"),
}

PART_OF_ROLE: Mapping[Role, str] = {
    "embedding": "embedding",
    "query_key_value": "attention",
    "attention_output": "attention",
    "gate_up": "feed_forward",
    "down": "feed_forward",
    "norm": "norms",
    "output": "output",
}


def describe_model(headers: Headers, configuration: Configuration) -> dict[str, Any]:
    """Everything about a model that does not depend on this machine; the documented object of `info --json`."""
    args = configuration.args
    name = model_name(headers.folder)
    return {
        "name": name,
        "family": family_of(args, name),
        "folder": str(headers.folder),
        "format": headers.format,
        "shards": len(headers.shards),
        "files": {path.name: identity.size for path, identity in headers.identities.items()},
        "bytes": headers.file_bytes,
        "dtypes": headers.dtypes,
        "quantization": headers.quantization,
        "tied": headers.is_tied,
        "context": args.max_seq_len,
        "tokenizer": describe_tokenizer(headers, args),
        "configuration": _describe_configuration(configuration),
        "parameters": count_parameters(args, tied=headers.is_tied),
        "stored_parameters": headers.n_stored,
        "padding_parameters": _padding(headers, args),
    }


def _padding(headers: Headers, args: ModelArgs) -> int:
    """Values of rows behind the vocabulary's, which are left out."""
    return max(headers.vocab_size - args.vocab_size, 0) * args.dim * (1 if headers.is_tied else 2)


def _describe_configuration(configuration: Configuration) -> dict[str, dict[str, Any]]:
    args = configuration.args
    scaling = args.rope_scaling
    values = {name: getattr(args, name) for name in configuration.sources if name != "rope_scaling"}
    values["rope_scaling"] = None if scaling is None else dataclasses.asdict(scaling)
    return {name: {"value": values[name], "source": source} for name, source in configuration.sources.items()}


def count_parameters(args: ModelArgs, *, tied: bool) -> dict[str, int]:
    """Values in each part of the model, and in all; a shared output matrix is none."""
    parts = {"embedding": 0, "attention": 0, "feed_forward": 0, "norms": 0, "output": 0}
    for spec in weights_of(args).values():
        parts[PART_OF_ROLE[spec.role]] += 0 if spec.role == "output" and tied else prod(spec.shape(args))
    return parts | {"total": sum(parts.values())}


def describe_tokenizer(headers: Headers, args: ModelArgs) -> dict[str, Any]:
    """Kind, size, ends and chat format of the tokenizer, or in `problem` why there is none that fits."""
    described: dict[str, Any] = {"path": None if headers.tokenizer is None else str(headers.tokenizer)}
    described |= dict.fromkeys(("kind", "n_words", "known", "chat_format", "chat_template", "chat_template_from"))
    described |= dict.fromkeys(("stop_tokens", "problem", "spare_ids", "trained_spare_ids", "warning"))
    try:
        tokenizer = open_tokenizer(headers.tokenizer, headers.folder)
        spare = check_vocabulary(args.vocab_size, tokenizer, headers.tokenizer, headers.folder, headers.spare_rows)
    except LlamaError as error:
        return described | {"problem": error.message}
    assert headers.tokenizer is not None, "it has been opened"
    template, source = named_template(headers, tokenizer)
    names = names_of(tokenizer)
    ends = {names.get(number, repr(tokenizer.decode([number]))): number for number in sorted(tokenizer.stop_tokens)}
    return described | {
        "kind": tokenizer.kind,
        "n_words": tokenizer.vocab_size,
        "known": known_tokenizer(headers.tokenizer),
        "chat_format": FORMATS.get(template),
        "chat_template": template,
        "chat_template_from": source,
        "stop_tokens": ends,
        "spare_ids": spare.count,
        "trained_spare_ids": spare.trained,
        "warning": spare.warning,
    }


def named_template(headers: Headers, tokenizer: Tokenizer) -> tuple[TemplateName, str]:
    """The template that the files name, else the family's, which a base model does not use; and who says so."""
    said = unnested(headers.params).get("chat_template")
    named = recognise_template(said) if isinstance(said, str) and said not in TEMPLATES else said
    if named in TEMPLATES:
        try:
            return make_template(named, tokenizer).name, "params.json" if named == said else "the folder's own template"
        except TokenizerError:
            pass
    return family_template(tokenizer), "the family, unless the weights or the name say otherwise"


def plan_table(
    headers: Headers, args: ModelArgs, *, context: int, batch_size: int, memory: int, gpus: Sequence[Gpu]
) -> list[dict[str, Any]]:
    """The memory plan in every precision on 1 to 8 ranks, as `load` makes it; bytes are those of one rank on a CPU.

    On a CPU all ranks share `memory`, of GPUs each rank has one. `largest_context` is what fits the better place,
    at most what the model was trained for; 0 where not even the weights fit.
    """
    machine = expected_machine(min((gpu.capability for gpu in gpus), default=INT4_CAPABILITY))
    free = sorted((gpu.free for gpu in gpus), reverse=True)
    rows = []
    for precision in PRECISIONS:
        on_cpu, on_gpu = (offer_of(headers, precision, machine, device) for device in ("cpu", "cuda"))
        shown = on_cpu or offer_of(headers, precision, ABLE, "cpu")
        assert shown is not None, "that machine can run all there is"
        for n_ranks in (n for n in RANKS if can_split(args, n)):
            plan = plan_model(headers, args, shown, n_slots=batch_size, n_ranks=n_ranks)
            of_gpu = None if on_gpu is None else plan_model(headers, args, on_gpu, n_slots=batch_size, n_ranks=n_ranks)
            gpu = free[n_ranks - 1] if n_ranks <= len(free) else 0
            fitting = [plan.largest_context(memory // n_ranks)] if on_cpu else []
            fitting += [of_gpu.largest_context(gpu)] if of_gpu else []
            rows.append(
                {
                    "precision": precision,
                    "ranks": n_ranks,
                    "weight_bytes": plan.weights,
                    "cache_bytes": plan.per_token * plan.n_slots * context,
                    "peak_bytes": plan.total(context),
                    "fits_cpu": on_cpu is not None and n_ranks * plan.total(context) <= memory,
                    "fits_gpu": (of_gpu is not None and of_gpu.total(context) <= gpu) if gpus else None,
                    "largest_context": max(0, min(max(fitting, default=0), args.max_seq_len)),
                }
            )
    return rows


def offer_of(headers: Headers, precision: Precision, machine: Machine, device: str) -> Offer | None:
    """How `load` would run a model in a precision; None where it could not.

    Weights that `convert` has quantized are full ones where --kernels plain asks for it.
    """
    dtype, quantize = PRECISIONS[precision]
    kernels: Kernels = "plain" if headers.quantization and quantize is None else "auto"
    wanted = what_is_wanted(headers, machine, device, dtype=dtype, quantize=quantize, kernels=kernels)
    return choose_offer(wanted, machine)
