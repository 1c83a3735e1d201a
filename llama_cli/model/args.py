"""params.json -> ModelArgs: the shape of a model, checked, with every derived size."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ModelRejected, NotComputed, UsageError
from . import keys, llama1
from .rope_scaling import RopeScaling, read_rope_scaling

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]

# Of these some values are computed: Meta's int4 format and this program's own.
QUANTIZATION_KEYS = ("quantization_args", "lora_args")

# The one scheme of quantisation that Meta's files name, those of Llama 3.2 1B and 3B; trained for so many tokens.
INT4_SCHEME = "int4_weight_int8_dynamic_activation"
INT4_CONTEXT = 8192

Quantization = Literal["int8", "int4"]

# What params.json names in folders with rounded weights of this program's; another program refuses them.
OWN_SCHEMES: Mapping[str, Quantization] = {"llama_cli_int8": "int8", "llama_cli_int4": "int4"}

VISION_PREFIX = "vision_"

# What Llama 3.2's vision models were made from, unchanged, by their width.
TEXT_TWINS = {4096: "Llama3.1-8B", 8192: "Llama3.1-70B"}

# (dim, n_layers, n_heads, n_kv_heads) of Llama 3.2 1B and 3B: trained with a RoPE scale factor of 32,
# which their params.json does not say (meta-llama/llama-models issues 166 and 241).
FACTOR_32_SHAPES = {(2048, 16, 32, 8), (3072, 28, 24, 8)}


@dataclass(frozen=True)
class ModelArgs:
    """The shape of a model. Field names are Meta's; the defaults are Llama 3 8B's."""

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int = 8
    vocab_size: int = 128256
    multiple_of: int = 1024
    ffn_dim_multiplier: float | None = 1.3
    hidden_dim: int | None = None  # overrides the FFN formula
    head_dim_override: int | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    max_seq_len: int = 8192  # the context the family was trained for

    def __post_init__(self) -> None:
        if self.head_dim_override is None and self.dim % self.n_heads:
            raise ModelRejected(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ModelRejected(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise ModelRejected(f"head size {self.head_dim} is odd; RoPE turns pairs")

    @property
    def head_dim(self) -> int:
        return self.head_dim_override or self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Meta's rule: 2/3 of 4·dim, times the multiplier, rounded up to a multiple of `multiple_of`."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return self.multiple_of * math.ceil(hidden / self.multiple_of)

    def weight_shapes(self) -> dict[str, Shape]:
        """Every tensor of the model by Meta's name, in file order, with its whole (unsharded) shape."""
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes: dict[str, Shape] = {"tok_embeddings.weight": (self.vocab_size, self.dim)}
        for layer in range(self.n_layers):
            prefix = f"layers.{layer}."
            shapes[prefix + "attention.wq.weight"] = (q_dim, self.dim)
            shapes[prefix + "attention.wk.weight"] = (kv_dim, self.dim)
            shapes[prefix + "attention.wv.weight"] = (kv_dim, self.dim)
            shapes[prefix + "attention.wo.weight"] = (self.dim, q_dim)
            shapes[prefix + "feed_forward.w1.weight"] = (self.ffn_dim, self.dim)
            shapes[prefix + "feed_forward.w2.weight"] = (self.dim, self.ffn_dim)
            shapes[prefix + "feed_forward.w3.weight"] = (self.ffn_dim, self.dim)
            shapes[prefix + "attention_norm.weight"] = (self.dim,)
            shapes[prefix + "ffn_norm.weight"] = (self.dim,)
        shapes["norm.weight"] = (self.dim,)
        shapes["output.weight"] = (self.vocab_size, self.dim)
        return shapes

    def n_params(self, *, tied: bool = False) -> int:
        """Number of parameters; `tied` counts the embedding and the output matrix once."""
        total = sum(math.prod(shape) for shape in self.weight_shapes().values())
        return total - self.vocab_size * self.dim if tied else total


class _Params(BaseModel):
    """params.json as written. Strict: a float is no int, a bool is no number."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    dim: int = Field(ge=1, le=2**17)
    n_layers: int = Field(ge=1, le=1024)
    n_heads: int = Field(ge=1, le=1024)
    n_kv_heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    vocab_size: Annotated[int, Field(ge=-1, le=2**21)] = -1
    multiple_of: int = Field(default=256, ge=1, le=2**20)
    ffn_dim_multiplier: Annotated[float, Field(gt=0, le=64)] | None = None
    hidden_dim: Annotated[int, Field(ge=1, le=2**20)] | None = None
    intermediate_size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    head_dim: Annotated[int, Field(ge=1, le=2**13)] | None = None
    norm_eps: float = Field(default=1e-5, gt=0, le=1)
    rope_theta: Annotated[float, Field(ge=1, le=1e12)] | None = None
    rope_freq_base: Annotated[float, Field(ge=1, le=1e12)] | None = None
    use_scaled_rope: bool | None = None
    rope_scaling_factor: Annotated[float, Field(ge=1, le=1024)] | None = None
    rope_high_freq_factor: Annotated[float, Field(gt=0, le=1024)] | None = None
    rope_scaling: Any = None
    max_seq_len: Annotated[int, Field(ge=1, le=2**24)] | None = None
    quantization_args: Any = None
    lora_args: Any = None


def _checked(raw: Mapping[str, Any], source: str) -> _Params:
    try:
        return _Params.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "constrained-float") or "the object"
        value = "" if first["type"] == "missing" else f", is {_short(first['input'])}"
        raise ModelRejected(f"{source}: {where}: {first['msg']}{value}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def refuse_unsupported(raw: Mapping[str, Any], source: str, *, of_shards: bool = False) -> None:
    """ModelRejected for a kind of model whose arithmetic is another one.

    `of_shards` says that the weights are in .pth files, which this program's own schemes never are.
    """
    whole, raw = raw, unnested(raw)
    if of_shards and own_scheme(raw):
        raise ModelRejected(
            f"{source} speaks of weights rounded to {own_scheme(raw)}, which lie in consolidated.safetensors;"
            " here are .pth files",
            "it belongs to another folder: use the params.json of these weights",
        )
    if own_scheme(raw) and raw["quantization_args"].keys() != {"scheme"}:
        raise ModelRejected(
            f"{source}: quantization_args of llama-cli's own schemes has scheme alone", "convert the model again"
        )
    read = QUANTIZATION_KEYS if _is_int4(raw) else QUANTIZATION_KEYS[:1] if own_scheme(raw) else ()
    read = (*read, *(key for key in _Params.model_fields if key not in QUANTIZATION_KEYS))
    found = keys.refused(raw, read) + ([] if raw is whole else keys.refused(whole, read))
    names = ", ".join(_short(key)[1:-1] for key in found)
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


def _is_int4(raw: Mapping[str, Any]) -> bool:
    return _scheme(raw) == INT4_SCHEME


def own_scheme(raw: Mapping[str, Any]) -> Quantization | None:
    """How this program rounded the weights of a folder; None for one of other weights."""
    return OWN_SCHEMES.get(_scheme(unnested(raw)) or "")


def _scheme(raw: Mapping[str, Any]) -> str | None:
    settings = raw.get("quantization_args")
    scheme = settings.get("scheme") if isinstance(settings, Mapping) else None
    return scheme if isinstance(scheme, str) else None


def _rope_scaling(params: _Params, flag: float | None, source: str) -> tuple[RopeScaling | None, str]:
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


def _refuse_other_scaling(params: _Params, scaling: RopeScaling | None, source: str) -> None:
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
                f"{source}: {key} is {_short(said)}, but {other} is {_short(getattr(params, other))}",
                f"take {key} or {other} out of {source}: ask where the model comes from",
            )


def _agreed(params: _Params, first: str, second: str, source: str) -> Any:
    """The value that two names of one setting give; None if it is not there."""
    values = [value for value in (getattr(params, first), getattr(params, second)) if value is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise ModelRejected(
            f"{source}: {first} is {values[0]}, {second} is {values[1]}: these are two names of one setting",
            "take the wrong one out",
        )
    return values[0] if values else None


def _rope_theta(params: _Params, llama2: bool, source: str) -> tuple[float, str]:
    given: float | None = _agreed(params, "rope_theta", "rope_freq_base", source)
    if given is not None:
        return given, source
    if llama2:
        return 10000.0, "default with a SentencePiece tokenizer"
    return 500000.0, "default of Llama 3"


def _context_length(
    params: _Params, rope_theta: float, scaling: RopeScaling | None, is_first: bool, source: str
) -> tuple[int, str]:
    """What the family was trained for; Meta's params.json does not say it, so the RoPE settings tell."""
    if params.max_seq_len is not None:
        return params.max_seq_len, source
    if _is_int4({"quantization_args": params.quantization_args}):
        return INT4_CONTEXT, "Meta's int4 checkpoints"
    if scaling is not None and not scaling.is_linear:
        return 131072, "scaled RoPE: Llama 3.1 and later"
    families = {500000.0: (8192, "Llama 3"), 1000000.0: (16384, "Code Llama")}
    length, family = families.get(rope_theta, (4096, "Llama 2"))
    why = f"rope_theta: {family}"
    if is_first:
        length, why = llama1.CONTEXT, "LLaMA 1: its shape and norm_eps"
    return (length, why) if scaling is None else (int(length * scaling.factor), f"{why}, times the RoPE factor")


def _is_llama_1(params: _Params, name: str) -> bool:
    shape = (params.dim, params.n_layers, params.n_heads)
    return llama1.is_llama_1(shape, params.n_kv_heads or params.n_heads, params.norm_eps, name)


def _ffn_source(params: _Params, source: str) -> str:
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
    params = _checked(raw, source)
    unknown = keys.unknown(raw, _Params.model_fields)
    if unknown:
        logger.warning("%s: ignoring unknown keys: %s", source, ", ".join(_short(key)[1:-1] for key in unknown))
    vocab = params.vocab_size if params.vocab_size > 0 else vocab_size
    if vocab is None:
        raise ModelRejected(f"{source}: vocab_size must be 1 or more, or -1, is {params.vocab_size}")
    theta, theta_source = _rope_theta(params, llama2, source)
    scaling, scaling_source = _rope_scaling(params, rope_scale_factor, source)
    is_first = llama2 and theta_source != source and _is_llama_1(params, name)
    context, context_source = _context_length(params, theta, scaling, is_first, source)
    try:
        args = ModelArgs(
            dim=params.dim,
            n_layers=params.n_layers,
            n_heads=params.n_heads,
            n_kv_heads=params.n_kv_heads or params.n_heads,
            vocab_size=vocab,
            multiple_of=params.multiple_of,
            ffn_dim_multiplier=params.ffn_dim_multiplier,
            hidden_dim=_agreed(params, "hidden_dim", "intermediate_size", source),
            head_dim_override=params.head_dim,
            norm_eps=params.norm_eps,
            rope_theta=theta,
            rope_scaling=scaling,
            max_seq_len=context,
        )
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
