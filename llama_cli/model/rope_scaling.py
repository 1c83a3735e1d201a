"""How RoPE is stretched, and the object in which params.json and config.json say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ModelRejected

Kind = Literal["default", "linear", "llama3"]

KIND_KEYS = ("rope_type", "type")  # the newer and the older spelling of the same
OWN_ROPE = "give a checkpoint with Llama's own RoPE"

# An original context that every wave is longer than: Llama 3's rule then divides all of them, which is linear scaling.
NO_CONTEXT = 1


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of low RoPE frequencies; lengths in tokens."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    @property
    def is_linear(self) -> bool:
        """Whether every frequency is divided by the factor."""
        return self.original_context == NO_CONTEXT

    def settings(self) -> dict[str, Any]:
        """The object that says it, as Hugging Face spells it."""
        if self.is_linear:
            return {"rope_type": "linear", "factor": self.factor}
        return {
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_context,
        }


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
        raise ModelRejected(f"{where} must be an object, is {_short(settings)}", OWN_ROPE)
    given = {key: value for key, value in settings.items() if value is not None}
    kinds = [given.pop(key) for key in KIND_KEYS if key in given] or [untyped]
    kind = kinds[0]
    if any(other != kind for other in kinds):
        raise ModelRejected(f"{where} is of two types: {_short(kind)} and {_short(kinds[1])}", "take one of them out")
    if not isinstance(kind, str) or kind not in FIELDS:
        *others, last = map(repr, FIELDS)
        raise ModelRejected(
            f"{where} is of type {_short(kind)}; only {', '.join(others)} and {last} are supported", OWN_ROPE
        )
    unknown = sorted(given.keys() - FIELDS[kind].model_fields.keys())
    if unknown:
        raise ModelRejected(f"{where} of type {kind!r} has {_short(unknown[0])}, which is not supported", OWN_ROPE)
    try:
        fields = FIELDS[kind].model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ModelRejected(f"{where}.{first['loc'][0]}: {first['msg']}, is {_short(given)}", OWN_ROPE) from None
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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
