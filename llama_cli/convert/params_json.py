"""ModelArgs as the object of a params.json, in the words of Meta's own files wherever these can say it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..checkpoint.params import read_params
from ..checkpoint.rope_settings import rope_scaling_settings
from ..checkpoint.schemes import OWN_SCHEMES
from ..model.args import ModelArgs, RopeScaling

if TYPE_CHECKING:
    from ..options import Quantization

# What Meta's files use for hidden sizes, 2/3 of 4 dim times the multiplier, rounded up.
MULTIPLIERS = (None, 1.0, 1.2, 1.3, 1.5)
MULTIPLES = (256, 1024, 4096)


def params_of(args: ModelArgs) -> dict[str, Any]:
    """An object that reads back as the same model. Meta's own code knows every key that a model of Meta's needs."""
    params: dict[str, Any] = {
        "dim": args.dim,
        "n_layers": args.n_layers,
        "n_heads": args.n_heads,
        "n_kv_heads": args.n_kv_heads,
        "vocab_size": args.vocab_size,
        **_ffn_rule(args),
        "norm_eps": args.norm_eps,
        "rope_theta": args.rope_theta,
        **_rope_rule(args),
    }
    if args.dim // args.n_heads != args.head_dim or args.dim % args.n_heads:
        params["head_dim"] = args.head_dim
    if read_params(params).max_seq_len != args.max_seq_len:
        params["max_seq_len"] = args.max_seq_len
    assert resolved(read_params(params)) == resolved(args), "nothing is lost"
    return params


def with_context(params: Mapping[str, Any], args: ModelArgs, *, llama2: bool) -> dict[str, Any]:
    """The object with the context of `args`, if what is in it means another one."""
    meant = read_params(params, vocab_size=args.vocab_size, llama2=llama2).max_seq_len
    return dict(params) | ({} if meant == args.max_seq_len else {"max_seq_len": args.max_seq_len})


def with_scheme(params: Mapping[str, Any], quantization: Quantization | None) -> dict[str, Any]:
    """The object of weights that are quantized so."""
    if quantization is None:
        return dict(params)
    scheme = next(scheme for scheme, kind in OWN_SCHEMES.items() if kind == quantization)
    return dict(params) | {"quantization_args": {"scheme": scheme}}


def resolved(args: ModelArgs) -> ModelArgs:
    """The same model with every derived size written out: equal for models that compute the same."""
    return dataclasses.replace(
        args, hidden_dim=args.ffn_dim, multiple_of=1, ffn_dim_multiplier=None, head_dim_override=args.head_dim
    )


def _ffn_rule(args: ModelArgs) -> dict[str, Any]:
    for multiple in MULTIPLES:
        for multiplier in MULTIPLIERS:
            rule = dataclasses.replace(args, hidden_dim=None, multiple_of=multiple, ffn_dim_multiplier=multiplier)
            if rule.ffn_dim == args.ffn_dim:
                return {"multiple_of": multiple} | ({"ffn_dim_multiplier": multiplier} if multiplier else {})
    base = dataclasses.replace(args, hidden_dim=None, multiple_of=1, ffn_dim_multiplier=None).ffn_dim
    return {"multiple_of": 1, "ffn_dim_multiplier": (args.ffn_dim + 0.5) / base}  # cut to a whole number by Meta's rule


def _rope_rule(args: ModelArgs) -> dict[str, Any]:
    scaling = args.rope_scaling
    if scaling is None:
        return {}
    if scaling == RopeScaling(scaling.factor):  # Meta's rule; its files leave the factor out
        implied = read_params({**_sizes(args), "use_scaled_rope": True}).rope_scaling
        factor = {} if implied == scaling else {"rope_scaling_factor": scaling.factor}
        return {"use_scaled_rope": True} | factor
    return {"rope_scaling": rope_scaling_settings(scaling)}


def _sizes(args: ModelArgs) -> dict[str, Any]:
    return {key: getattr(args, key) for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size")}
