"""What a model is, from its headers alone: configuration, parameters, tokenizer, memory. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from ..errors import LlamaError
from ..memory import PRECISIONS, Stored, can_split, plan_memory
from ..model.args import ModelArgs
from ..model.weights import EMBEDDING, Role, weights_of
from ..tokenizer import Tokenizer, TokenizerError, names_of
from ..tokenizer.chat import TEMPLATES, TemplateName, family_template, make_template, recognise_template
from ..tokenizer.known import known_tokenizer
from .family import family_of
from .header import item_size
from .headers import Headers
from .installed import model_name
from .params import Configuration
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
DTYPES = {2: "bfloat16", 4: "float32"}  # that models run in, by the bytes of a value


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
        words = open_tokenizer(headers.tokenizer, headers.folder)
        spare = check_vocabulary(args.vocab_size, words, headers.tokenizer, headers.folder, headers.spare_rows)
    except LlamaError as error:
        return described | {"problem": error.message}
    assert headers.tokenizer is not None, "it has been opened"
    template, source = named_template(headers, words)
    names = names_of(words)
    ends = {names.get(number, repr(words.decode([number]))): number for number in sorted(words.stop_tokens)}
    return described | {
        "kind": words.kind,
        "n_words": words.n_words,
        "known": known_tokenizer(headers.tokenizer),
        "chat_format": FORMATS.get(template),
        "chat_template": template,
        "chat_template_from": source,
        "stop_tokens": ends,
        "spare_ids": spare.count,
        "trained_spare_ids": spare.trained,
        "warning": spare.warning,
    }


def named_template(headers: Headers, words: Tokenizer) -> tuple[TemplateName, str]:
    """The template that the files name, else the family's, which a base model does not use; and who says so."""
    said = unnested(headers.params).get("chat_template")
    named = recognise_template(said) if isinstance(said, str) and said not in TEMPLATES else said
    if named in TEMPLATES:
        try:
            return make_template(named, words).name, "params.json" if named == said else "the folder's own template"
        except TokenizerError:
            pass
    return family_template(words), "the family, if this is no base model"


def plan_table(
    headers: Headers, args: ModelArgs, *, context: int, batch_size: int, memory: int, gpus: Sequence[int]
) -> list[dict[str, Any]]:
    """The memory plan in every precision on 1 to 8 ranks; bytes are those of one rank.

    On a CPU all ranks share `memory`, of GPUs each rank has one. `largest_context` is what fits the better place,
    at most what the model was trained for; 0 where not even the weights fit.
    """
    tied = headers.is_tied
    stored_as = headers.shards[0][EMBEDDING].dtype
    rows = []
    for name, precision in PRECISIONS.items():
        for n_ranks in (n for n in RANKS if can_split(args, n)):
            is_copied = stored_as != DTYPES[precision.itemsize] or len(headers.shards) > 1
            # A CPU's fast layers are copies, so that a shared output matrix becomes a matrix of its own.
            on_cpu, on_gpu = (
                plan_memory(
                    args,
                    n_slots=batch_size,
                    itemsize=precision.itemsize,
                    linear_bytes=precision.linear_bytes,
                    tied=shared,
                    n_ranks=n_ranks,
                    stored=stored,
                )
                for shared, stored in ((False, _stored(headers, name, is_copied=is_copied)), (tied, None))
            )
            runs_on_gpu = precision.linear_bytes == precision.itemsize  # quantised layers are a CPU's
            gpu = sorted(gpus, reverse=True)[n_ranks - 1] if runs_on_gpu and n_ranks <= len(gpus) else 0
            largest = max(on_cpu.largest_context(memory // n_ranks), on_gpu.largest_context(gpu))
            rows.append(
                {
                    "precision": name,
                    "ranks": n_ranks,
                    "weight_bytes": on_cpu.weights,
                    "cache_bytes": on_cpu.per_token * on_cpu.n_slots * context,
                    "peak_bytes": on_cpu.total(context),
                    "fits_cpu": n_ranks * on_cpu.total(context) <= memory,
                    "fits_gpu": on_gpu.total(context) <= gpu if gpus else None,
                    "largest_context": max(0, min(largest, args.max_seq_len)),
                }
            )
    return rows


def _stored(headers: Headers, precision: str, *, is_copied: bool) -> Stored:
    saved = headers.quantization
    if saved is None:
        return Stored(item_size(headers.shards[0][EMBEDDING].dtype), is_copied, headers.is_tied)
    return Stored(PRECISIONS[saved].linear_bytes, is_copied, False, "kept" if precision == saved else "undone")
