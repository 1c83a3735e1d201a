"""How settings say that weights are quantized: Meta's scheme, and this program's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..options import Quantization

# Of these some values are computed: Meta's int4 format and this program's own.
QUANTIZATION_KEYS = ("quantization_args", "lora_args")

# The one scheme of quantization that Meta's files name, those of Llama 3.2 1B and 3B.
INT4_SCHEME = "int4_weight_int8_dynamic_activation"

# What params.json names in folders with quantized weights of this program's; another program refuses them.
OWN_SCHEMES: Mapping[str, Quantization] = {"llama_cli_int8": "int8", "llama_cli_int4": "int4"}


def scheme_of(settings: Mapping[str, Any]) -> str | None:
    """The scheme that settings name; None for plain weights."""
    args = settings.get("quantization_args")
    scheme = args.get("scheme") if isinstance(args, Mapping) else None
    return scheme if isinstance(scheme, str) else None


def own_scheme(settings: Mapping[str, Any]) -> Quantization | None:
    """How this program quantized the weights of a folder; None for one of other weights."""
    return OWN_SCHEMES.get(scheme_of(settings) or "")
