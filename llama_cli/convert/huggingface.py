"""Meta's names, rows and settings as Hugging Face has them: the way back of checkpoint/huggingface.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checkpoint.huggingface import ARCHITECTURE
from ..checkpoint.rope_settings import rope_scaling_settings
from ..model.args import ModelArgs
from ..model.weights import spec_of


def their_rows(name: str, weight: Tensor, head_dim: int) -> Tensor:
    """Whole heads of wq or wk in Hugging Face's order of rows; other tensors as they are.

    Meta's  0 1 2 3 4 5 6 7      theirs  0 2 4 6 1 3 5 7      (head_dim 8)
    """
    spec = spec_of(name)
    if spec is None or not spec.is_rotated:
        return weight
    rows, columns = weight.shape
    assert rows % head_dim == 0, "whole heads"
    return weight.view(-1, head_dim // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def config_of(args: ModelArgs, dtype: torch.dtype, *, tied: bool, special_ids: dict[str, Any]) -> dict[str, Any]:
    """The object of a config.json; `special_ids` are its bos_token_id and eos_token_id, where known."""
    config = {
        "architectures": [ARCHITECTURE],
        "attention_bias": False,
        "head_dim": args.head_dim,
        "hidden_act": "silu",
        "hidden_size": args.dim,
        "intermediate_size": args.ffn_dim,
        "max_position_embeddings": args.max_seq_len,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": args.n_heads,
        "num_hidden_layers": args.n_layers,
        "num_key_value_heads": args.n_kv_heads,
        "rms_norm_eps": args.norm_eps,
        "rope_scaling": None,
        "rope_theta": args.rope_theta,
        "tie_word_embeddings": tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        # Whose form this is. 4.57 takes large vocabularies of unknown version for ones that it once wrote wrongly.
        "transformers_version": "4.45.0",
        "use_cache": True,
        "vocab_size": args.vocab_size,
    }
    if args.rope_scaling is not None:
        config["rope_scaling"] = rope_scaling_settings(args.rope_scaling)
    return dict(sorted((config | special_ids).items()))
