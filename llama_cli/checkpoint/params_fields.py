"""The fields of params.json that this program reads, and what each may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ModelRejected


class Params(BaseModel):
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


def checked(raw: Mapping[str, Any], source: str) -> Params:
    """The fields of an object; ModelRejected names the first bad one."""
    try:
        return Params.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "constrained-float") or "the object"
        value = "" if first["type"] == "missing" else f", is {short(first['input'])}"
        raise ModelRejected(f"{source}: {where}: {first['msg']}{value}") from None


def short(value: object) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def agreed(params: Params, first: str, second: str, source: str) -> Any:
    """The value that two names of one setting give; None if it is not there."""
    values = [value for value in (getattr(params, first), getattr(params, second)) if value is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise ModelRejected(
            f"{source}: {first} is {values[0]}, {second} is {values[1]}: these are two names of one setting",
            "take the wrong one out",
        )
    return values[0] if values else None
