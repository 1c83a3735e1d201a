"""The object in which params.json and config.json say how RoPE is stretched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ModelRejected
from ..model.args import NO_CONTEXT, RopeScaling
from .params_fields import short

Kind = Literal["default", "linear", "llama3"]

KIND_KEYS = ("rope_type", "type")  # the newer and the older spelling of the same
OWN_ROPE = "give a checkpoint with Llama's own RoPE"


class _Linear(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    factor: float = Field(ge=1, le=1024)


class _Llama3(_Linear):
    low_freq_factor: float = Field(default=1.0, gt=0, le=1024)
    high_freq_factor: float = Field(default=4.0, gt=0, le=1024)
    original_max_position_embeddings: int = Field(default=8192, ge=2, le=2**31)


class _Default(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


FIELDS: dict[str, type[BaseModel]] = {"default": _Default, "linear": _Linear, "llama3": _Llama3}


def read_rope_scaling(settings: object, where: str, *, untyped: Kind) -> RopeScaling | None:
    """What such an object asks for; None for RoPE as it is. ModelRejected names what this program does not compute.

    `where` is the file and the key, for messages; `untyped` is what an object without a type means.
    """
    if not isinstance(settings, Mapping):
        raise ModelRejected(f"{where} must be an object, is {short(settings)}", OWN_ROPE)
    given = {key: value for key, value in settings.items() if value is not None}
    kinds = [given.pop(key) for key in KIND_KEYS if key in given] or [untyped]
    kind = kinds[0]
    if any(other != kind for other in kinds):
        raise ModelRejected(f"{where} is of two types: {short(kind)} and {short(kinds[1])}", "take one of them out")
    if not isinstance(kind, str) or kind not in FIELDS:
        *others, last = map(repr, FIELDS)
        raise ModelRejected(
            f"{where} is of type {short(kind)}; only {', '.join(others)} and {last} are supported", OWN_ROPE
        )
    unknown = sorted(given.keys() - FIELDS[kind].model_fields.keys())
    if unknown:
        raise ModelRejected(f"{where} of type {kind!r} has {short(unknown[0])}, which is not supported", OWN_ROPE)
    try:
        fields = FIELDS[kind].model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ModelRejected(f"{where}.{first['loc'][0]}: {first['msg']}, is {short(given)}", OWN_ROPE) from None
    return _scaling(fields, where)


def _scaling(fields: BaseModel, where: str) -> RopeScaling | None:
    if isinstance(fields, _Llama3):
        low, high = fields.low_freq_factor, fields.high_freq_factor
        if high < low:
            raise ModelRejected(f"{where}: high_freq_factor {high:g} is below low_freq_factor {low:g}", OWN_ROPE)
        return RopeScaling(fields.factor, low, high, fields.original_max_position_embeddings)
    if isinstance(fields, _Linear):
        return RopeScaling(fields.factor, original_context=NO_CONTEXT)
    return None


def rope_scaling_settings(scaling: RopeScaling) -> dict[str, Any]:
    """The object that says it, as Hugging Face spells it."""
    if scaling.is_linear:
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }
