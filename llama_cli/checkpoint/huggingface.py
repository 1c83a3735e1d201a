"""Hugging Face's LlamaForCausalLM folders, put back into Meta's names, layout and params.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelRejected
from .safetensors_file import SafetensorsFiles

OUTER_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")

# config.json's key -> params.json's.
CONFIG_KEYS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "vocab_size": "vocab_size",
    "intermediate_size": "hidden_dim",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_seq_len",
}

# Values that this program computes; anything else would come out wrong without a word.
REQUIRED_VALUES = {
    "model_type": ("llama",),
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "quantization_config": (None,),
}


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json in the words of params.json; both styles of RoPE settings are understood."""
    for key, allowed in REQUIRED_VALUES.items():
        if config.get(key) not in allowed:
            raise ModelRejected(f"config.json: {key} is {str(config.get(key))[:60]!r}; only Llama's own is supported")
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if key not in config:
            raise ModelRejected(f"config.json: {key} is missing")
    params = {ours: config[theirs] for theirs, ours in CONFIG_KEYS.items() if config.get(theirs) is not None}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ModelRejected(f"config.json: rope_scaling must be an object, is {str(rope)[:60]!r}")
    params["rope_theta"] = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "llama3":
        params["rope_scaling"] = {
            key: value for key, value in rope.items() if key not in ("rope_type", "type", "rope_theta")
        }
    elif kind != "default":
        raise ModelRejected(f"config.json: rope_type {str(kind)[:40]!r} is not supported")
    return params


def meta_name(name: str) -> str:
    """Meta's name of a tensor; names of no counterpart stay, to be reported as unexpected."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    match = LAYER.fullmatch(name)
    if match and match[2] in LAYER_NAMES:
        return f"layers.{match[1]}.{LAYER_NAMES[match[2]]}.weight"
    return name


class HuggingFaceWeights:
    """A set of safetensors files, seen in Meta's vocabulary."""

    def __init__(self, files: SafetensorsFiles, head_dim: int) -> None:
        self._files = files
        self._head_dim = head_dim
        ignored = re.compile(r".*rotary_emb\.inv_freq")
        self._theirs = {meta_name(name): name for name in files.names() if not ignored.fullmatch(name)}

    def names(self) -> list[str]:
        return list(self._theirs)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files.shape(self._theirs[name])

    def dtype(self, name: str) -> torch.dtype:
        return self._files.dtype(self._theirs[name])

    def tensor(self, name: str) -> Tensor:
        tensor = self._files.tensor(self._theirs[name])
        if name.endswith(("attention.wq.weight", "attention.wk.weight")):
            return interleave_pairs(tensor, self._head_dim)
        return tensor


def interleave_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Undo Hugging Face's order of rows: theirs turns halves of a head, Meta's neighbours."""
    rows, dim = weight.shape
    return weight.view(rows // head_dim, 2, head_dim // 2, dim).transpose(1, 2).reshape(rows, dim)
