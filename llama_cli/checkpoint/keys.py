"""Keys of params.json and config.json that this program does not read: which are refused by name, which may be there.

A key that changes the arithmetic is harmless only where its value switches it off. Of keys that nobody knows, those
whose names speak of a part of the arithmetic are refused too: ignored, they would make wrong answers without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Words of which one in a key's name says that it is about the arithmetic, by how they begin.
ARITHMETIC = re.compile(
    ".*(rope|norm|attn|attention|expert|moe|softcap)|act$|activ|alibi|bias|bidirect|cap$|capping|causal|chunk|conv$|convol|cross"
    "|dense|depth|dilat|dim|emb|epsil|eps$|ffn|float8|fp8|gate|gating|geglu|gelu|glu$|groups?$|hadamard|head|hidden|interl"
    "|interm|interv|kv$|latent|layer|logit|lora|mask|mixture|mla$|mlp|mscale|mult(?!il)|mup|nope|ntk|pct|pos$|positional"
    "|proj$|projection|prun|qk|query|quant|residual|recur|rms|rotary|router|routing|scal|shared?$|sharing|silu|sinks?$|sliding|smooth"
    "|softmax|sparse|spinquant|ssm|swa$|swiglu|theta|tied?$|tying|vision|width|window|xpos|yarn"
)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Of RoPE's scaling, by names that say nothing alone: they stand in `rope_scaling`, but some write them beside it.
ROPE_KEYS = frozenset((
    "beta_fast", "beta_slow", "extrapolation_factor", "freq_base", "freq_scale", "high_freq_factor", "linear_factor",
    "long_factor", "low_freq_factor", "old_context_len", "original_context_length", "short_factor",
))  # fmt: skip

# What these must be if they are there; anything else is another model. `use_rope: false` is no harmless false.
SILU = ("silu", "swish", "swiglu")
RMS = ("rmsnorm", "rms_norm", "rms", "llamarmsnorm")
COMPUTED: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("hidden_act", "act_fn", "activation", "activation_function", "hidden_activation"), SILU),
    **dict.fromkeys(("ffn_activation", "mlp_activation", "activation_type", "ffn_type", "mlp_type"), SILU),
    **dict.fromkeys(("norm_type", "norm", "norm_class", "normalization", "layer_norm_type"), RMS),
    **dict.fromkeys(
        ("use_rope", "rope", "causal", "is_causal", "use_causal_mask", "use_rms_norm", "rms_norm"), (True,)
    ),
    **dict.fromkeys(("use_rmsnorm", "use_swiglu", "swiglu", "rope_interleaved", "gated_mlp", "pre_norm"), (True,)),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rotary_percentage", "rope_factor", "rope_scale"), (1,)),
    **dict.fromkeys(("residual_multiplier", "embedding_multiplier", "logits_scaling", "logit_scale"), (1,)),
    **dict.fromkeys(("position_embedding_type", "pos_embed_type", "position_embedding"), ("rope", "rotary")),
}

# Of the tokenizer and the chats: read by checkpoint/tokenizer_marks.py.
TOKENS = frozenset((
    "add_bos_token", "bos_token", "chat_template", "pre_tokenizer", "special_tokens", "stop_token_ids",
))  # fmt: skip

# Of training, of how the files came to be, of other programs' memory, of an answer: nothing of what is computed.
HARMLESS = frozenset((
    "architectures", "attention_dropout", "attn_dropout", "attn_implementation", "auto_map",
    "begin_suppress_tokens", "block_size", "bos_id", "bos_token_id",
    "context_length", "dropout", "dtype", "embd_pdrop", "embedding_dropout", "eos_id", "eos_token",
    "eos_token_id", "ffn_dropout", "flash_attention", "hidden_dropout", "hidden_dropout_prob", "init_std",
    "initializer_range", "is_decoder", "is_llama_config", "layer_init", "license_name", "max_batch_size",
    "max_length", "max_new_tokens", "max_position_embeddings", "max_sequence_length", "model", "model_family",
    "model_name", "model_parallel", "model_parallel_size", "model_type", "n_ctx", "name",
    "num_return_sequences", "output_attentions", "output_hidden_states", "pad_id", "pad_token", "pad_token_id",
    "padding_idx", "param_dtype", "precision", "pretraining_tp", "resid_pdrop", "residual_dropout", "revision",
    "rope_dropout", "seq_len", "temperature", "tensor_parallel", "tensor_parallel_size", "tokenizer_class",
    "torch_dtype", "transformers_version", "use_cache", "use_flash_attention", "use_flash_attn",
    "use_fused_attention", "use_sdpa", "version", "vocab_parallel",
))  # fmt: skip

# Whether the output matrix is the embedding: compared with what lies in the files.
TIED_KEYS = ("tie_word_embeddings", "tie_embeddings", "tied_embeddings", "tie_weights", "share_embeddings",
             "weight_tying", "share_input_output_embed", "tie_embedding", "tied")  # fmt: skip

# Of Meta's llama4 code. Guard 4 has some of them as null.
LLAMA_4_KEYS = ("moe_args", "nope_layer_interval", "attention_chunk_size", "use_qk_norm", "ffn_exp", "vision_args",
                "attn_temperature_tuning")  # fmt: skip


def is_off(value: object) -> bool:
    """Whether a value says that what it belongs to is not there."""
    return value is None or value is False or value in (0, -1, "") or value in ({}, [])


def refused(settings: Mapping[str, Any], read: Iterable[str]) -> list[str]:
    """The keys, but for those `read` elsewhere, by which a model computes what this program does not."""
    found = []
    for key in settings.keys() - set(read) - HARMLESS - TOKENS - set(TIED_KEYS):
        if key.startswith("_"):  # a comment, by custom
            continue
        value = settings[key]
        if _changes_the_arithmetic(key, value):
            found.append(key)
        elif isinstance(value, Mapping):
            found += [f"{key}.{inner}" for inner in refused(value, ())]
    return sorted(found)


def _changes_the_arithmetic(key: str, value: object) -> bool:
    if key in COMPUTED:
        said = value.casefold() if isinstance(value, str) else value
        return said is not None and said not in COMPUTED[key]
    if is_off(value) or key in ROPE_KEYS:
        return not is_off(value)
    return any(ARITHMETIC.match(word.casefold()) for word in WORD.findall(key))


def unknown(settings: Mapping[str, Any], read: Iterable[str]) -> list[str]:
    """The keys that nothing is known of, and whose names say nothing of the arithmetic either."""
    others = settings.keys() - set(read) - HARMLESS - TOKENS - set(TIED_KEYS) - COMPUTED.keys()
    return sorted(key for key in others if not key.startswith("_") and not is_off(settings[key]))


def is_llama_4(settings: Mapping[str, Any]) -> bool:
    """Whether the keys are those of Meta's llama4 code, switched on or not."""
    here = [key for key in LLAMA_4_KEYS if key in settings]
    return len(here) > 1 or not all(is_off(settings.get(key)) for key in ("moe_args", "vision_args"))


def tied(settings: Mapping[str, Any]) -> bool | None:
    """What the settings say about the output matrix; None where they say nothing."""
    return next((settings[key] for key in TIED_KEYS if isinstance(settings.get(key), bool)), None)
