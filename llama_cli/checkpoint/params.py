"""params.json -> ModelArgs: every setting checked, what it leaves out filled in, and where each value came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import ModelRejected, UsageError
from ..model.args import ModelArgs, RopeScaling
from . import keys, llama1
from .params_fields import Params, agreed, checked, short
from .rope_settings import read_rope_scaling
from .schemes import INT4_SCHEME, scheme_of
from .unsupported import refuse_unsupported, unnested

logger = logging.getLogger(__name__)

INT4_CONTEXT = 8192  # Meta's int4 checkpoints are trained for so many tokens

# (dim, n_layers, n_heads, n_kv_heads) of Llama 3.2 1B and 3B: trained with a RoPE scale factor of 32,
# which their params.json does not say (meta-llama/llama-models issues 166 and 241).
FACTOR_32_SHAPES = {(2048, 16, 32, 8), (3072, 28, 24, 8)}


def _rope_scaling(params: Params, flag: float | None, source: str) -> tuple[RopeScaling | None, str]:
    """Explicit key > `--rope-scale-factor` > 32 for the shapes of Llama 3.2 1B and 3B > 8; and which it was."""
    if params.rope_scaling is not None:
        scaling = read_rope_scaling(params.rope_scaling, f"{source}: rope_scaling", untyped="llama3")
        _refuse_other_scaling(params, scaling, source)
        return scaling, f"{source}: rope_scaling"
    if not params.use_scaled_rope:
        if flag is not None:
            raise UsageError(f"--rope-scale-factor {flag:g}: this checkpoint does not use scaled RoPE", "leave it out")
        _refuse_other_scaling(params, None, source)
        return None, source if params.use_scaled_rope is False else "default"
    shape = (params.dim, params.n_layers, params.n_heads, params.n_kv_heads)
    factor, why = 8.0, "default of use_scaled_rope"
    if params.rope_scaling_factor is not None:
        factor, why = params.rope_scaling_factor, f"{source}: rope_scaling_factor"
    elif flag is not None:
        factor, why = flag, "--rope-scale-factor"
    elif shape in FACTOR_32_SHAPES:
        factor, why = 32.0, "shape of Llama 3.2 1B and 3B, which were trained so"
    return RopeScaling(factor, high_freq_factor=params.rope_high_freq_factor or 4.0), why


def _refuse_other_scaling(params: Params, scaling: RopeScaling | None, source: str) -> None:
    """ModelRejected where a key says another thing about RoPE than `scaling`."""
    meant = {
        "use_scaled_rope": scaling is not None and not scaling.is_linear,
        "rope_scaling_factor": scaling and scaling.factor,
        "rope_high_freq_factor": scaling and scaling.high_freq_factor,
    }
    for key, value in meant.items():
        said = getattr(params, key)
        if said is not None and said != value:
            other = "rope_scaling" if params.rope_scaling is not None else "use_scaled_rope"
            raise ModelRejected(
                f"{source}: {key} is {short(said)}, but {other} is {short(getattr(params, other))}",
                f"take {key} or {other} out of {source}: ask where the model comes from",
            )


def _rope_theta(params: Params, llama2: bool, source: str) -> tuple[float, str]:
    given: float | None = agreed(params, "rope_theta", "rope_freq_base", source)
    if given is not None:
        return given, source
    if llama2:
        return 10000.0, "default with a SentencePiece tokenizer"
    return 500000.0, "default of Llama 3"


def _context_length(
    params: Params, rope_theta: float, scaling: RopeScaling | None, is_first: bool, source: str
) -> tuple[int, str]:
    """What the family was trained for; Meta's params.json does not say it, so the RoPE settings tell."""
    if params.max_seq_len is not None:
        return params.max_seq_len, source
    if scheme_of({"quantization_args": params.quantization_args}) == INT4_SCHEME:
        return INT4_CONTEXT, "Meta's int4 checkpoints"
    if scaling is not None and not scaling.is_linear:
        return 131072, "scaled RoPE: Llama 3.1 and later"
    families = {500000.0: (8192, "Llama 3"), 1000000.0: (16384, "Code Llama")}
    length, family = families.get(rope_theta, (4096, "Llama 2"))
    why = f"rope_theta: {family}"
    if is_first:
        length, why = llama1.CONTEXT, "LLaMA 1: its shape and norm_eps"
    return (length, why) if scaling is None else (int(length * scaling.factor), f"{why}, times the RoPE factor")


def _is_llama_1(params: Params, name: str) -> bool:
    shape = (params.dim, params.n_layers, params.n_heads)
    return llama1.is_llama_1(shape, params.n_kv_heads or params.n_heads, params.norm_eps, name)


def _ffn_source(params: Params, source: str) -> str:
    if params.hidden_dim or params.intermediate_size:
        return source
    times = "" if params.ffn_dim_multiplier is None else f", times {params.ffn_dim_multiplier:g}"
    return f"8/3 of dim{times}, rounded up to a multiple of {params.multiple_of}"


@dataclass(frozen=True)
class Configuration:
    """A model's shape, and where each of its sizes and settings came from, in words."""

    args: ModelArgs
    sources: Mapping[str, str]


def read_params(
    raw: Mapping[str, Any],
    *,
    source: str = "params.json",
    vocab_size: int | None = None,
    llama2: bool = False,
    rope_scale_factor: float | None = None,
    name: str = "",
) -> ModelArgs:
    """Turn the object of a params.json into ModelArgs; ModelRejected names the first bad field.

    `source` is the file's name, for messages. `vocab_size` is the weights' own, used where the file says -1
    or nothing. `llama2` says that the tokenizer is SentencePiece: such files leave out `rope_theta` and mean
    10000, later ones 500000. `name` is what the folder is called, which tells LLaMA 1 from Llama 2 where nothing
    else does.
    """
    return read_configuration(
        raw, source=source, vocab_size=vocab_size, llama2=llama2, rope_scale_factor=rope_scale_factor, name=name
    ).args


def read_configuration(
    raw: Mapping[str, Any],
    *,
    source: str = "params.json",
    vocab_size: int | None = None,
    llama2: bool = False,
    rope_scale_factor: float | None = None,
    name: str = "",
) -> Configuration:
    """The same as `read_params`, with where each value came from."""
    refuse_unsupported(raw, source)
    raw = unnested(raw)
    params = checked(raw, source)
    unknown = keys.unknown(raw, Params.model_fields)
    if unknown:
        logger.warning("%s: ignoring unknown keys: %s", source, ", ".join(short(key)[1:-1] for key in unknown))
    vocab = params.vocab_size if params.vocab_size > 0 else vocab_size
    if vocab is None:
        raise ModelRejected(f"{source}: vocab_size must be 1 or more, or -1, is {params.vocab_size}")
    theta, theta_source = _rope_theta(params, llama2, source)
    scaling, scaling_source = _rope_scaling(params, rope_scale_factor, source)
    is_first = llama2 and theta_source != source and _is_llama_1(params, name)
    context, context_source = _context_length(params, theta, scaling, is_first, source)
    try:
        derived: dict[str, Any] = {
            "n_kv_heads": params.n_kv_heads or params.n_heads,
            "vocab_size": vocab,
            "hidden_dim": agreed(params, "hidden_dim", "intermediate_size", source),
            "head_dim_override": params.head_dim,
            "rope_theta": theta,
            "rope_scaling": scaling,
            "max_seq_len": context,
        }
        # What the file says under the name of a size or setting is that, if nothing is derived from it.
        said = {field.name: getattr(params, field.name) for field in fields(ModelArgs) if hasattr(params, field.name)}
        args = ModelArgs(**(said | derived))
    except ModelRejected as error:
        raise ModelRejected(f"{source}: {error.message}", error.hint) from None
    sources = {
        "dim": source,
        "n_layers": source,
        "n_heads": source,
        "n_kv_heads": source if params.n_kv_heads else "absent: as many as n_heads",
        "head_dim": source if params.head_dim else "dim / n_heads",
        "ffn_dim": _ffn_source(params, source),
        "vocab_size": source if params.vocab_size > 0 else "rows of tok_embeddings.weight",
        "norm_eps": source if "norm_eps" in params.model_fields_set else "default",
        "rope_theta": theta_source,
        "rope_scaling": scaling_source,
        "max_seq_len": context_source,
    }
    return Configuration(args, sources)
