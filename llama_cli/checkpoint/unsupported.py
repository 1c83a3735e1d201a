"""Refuses, by what its settings say, a kind of model whose arithmetic is another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelRejected, NotComputed
from . import keys
from .params_fields import Params, short
from .schemes import INT4_SCHEME, QUANTIZATION_KEYS, own_scheme, scheme_of

VISION_PREFIX = "vision_"

# What Llama 3.2's vision models were made from, unchanged, by their width.
TEXT_TWINS = {4096: "Llama3.1-8B", 8192: "Llama3.1-70B"}


def refuse_unsupported(raw: Mapping[str, Any], source: str, *, of_shards: bool = False) -> None:
    """ModelRejected for a kind of model whose arithmetic is another one.

    `of_shards` says that the weights are in .pth files, which this program's own schemes never are.
    """
    whole, raw = raw, unnested(raw)
    if of_shards and own_scheme(raw):
        raise ModelRejected(
            f"{source} speaks of weights quantized to {own_scheme(raw)}, which lie in consolidated.safetensors;"
            " here are .pth files",
            "it belongs to another folder: use the params.json of these weights",
        )
    if own_scheme(raw) and raw["quantization_args"].keys() != {"scheme"}:
        raise ModelRejected(
            f"{source}: quantization_args of llama-cli's own schemes has scheme alone", "convert the model again"
        )
    read = QUANTIZATION_KEYS if scheme_of(raw) == INT4_SCHEME else QUANTIZATION_KEYS[:1] if own_scheme(raw) else ()
    read = (*read, *(key for key in Params.model_fields if key not in QUANTIZATION_KEYS))
    found = keys.refused(raw, read) + ([] if raw is whole else keys.refused(whole, read))
    names = ", ".join(short(key)[1:-1] for key in found)
    if found and keys.is_llama_4(raw):
        raise NotComputed(
            f"{source}: a Llama 4 model ({names}), which llama-cli does not compute yet",
            "use a text model of Llama 2 or 3",
        )
    if any(key.startswith(VISION_PREFIX) for key in found):
        dim = raw.get("dim")
        twin = TEXT_TWINS.get(dim) if isinstance(dim, int) else None
        raise NotComputed(
            f"{source}: a vision model ({names}): between its text layers lie others that look at pictures,"
            " which llama-cli does not compute",
            f"its text layers are those of {twin}: use that" if twin else "use a text model",
        )
    if found:
        raise NotComputed(
            f"{source}: {names}: this kind of checkpoint is not supported",
            "use the bf16 text checkpoint of the same model; a key that changes nothing can be taken out of the file",
        )


def unnested(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Some files have everything under `model`."""
    nested = raw.get("model")
    return nested if isinstance(nested, Mapping) else raw
