"""Which keys of settings are harmless, which are refused by name."""

import pytest

from llama_cli.checkpoint.keys import COMPUTED
from llama_cli.checkpoint.params import read_params
from llama_cli.errors import ModelRejected

PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 512}

CHANGING = {
    "use_qk_norm": True,
    "qk_norm_eps": 1e-6,
    "nope_layer_interval": 4,
    "no_rope_layers": [3],
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "attn_scale": 0.1,
    "sliding_window": 4096,
    "moe": {"num_experts": 8},
    "num_experts_per_tok": 2,
    "n_experts": 8,
    "attention_bias": True,
    "qkv_bias": True,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcap": 30.0,
    "query_pre_attn_scalar": 256,
    "hidden_act": "gelu",
    "activation": "relu2",
    "act_fn": "geglu",
    "norm_type": "layernorm",
    "post_attn_norm": True,
    "useParallelResidual": True,
    "residual_multiplier": 0.22,
    "embedding_multiplier": 12.0,
    "rotary_pct": 0.25,
    "partial_rotary_factor": 0.5,
    "alibi": True,
    "use_rope": False,
    "causal": False,
    "rope_interleaved": False,
    "kv_lora_rank": 512,
    "n_kv_heads_per_layer": [4, 2],
    "layer_types": ["full", "local"],
    "ffn_dims": [128, 256],
    "window_size": 128,
    "mup_scale": 2.0,
    "yarn": {"factor": 4},
    "first_k_dense_replace": 1,
    "quantization_config": {"bits": 4},
    "vision_chunk_size": 448,
    "embed_scale": 8.0,
    "low_freq_factor": 1.0,
    "old_context_len": 8192,
    "beta_fast": 32,
    "use_sliding": True,
    "bidirectional": True,
    "n_sinks": 4,
}
HARMLESS = {
    "version": "3.1",
    "model_name": "mine",
    "torch_dtype": "bfloat16",
    "max_batch_size": 4,
    "attention_dropout": 0.0,
    "dropout": 0.1,
    "_comment": "sliding windows were tried",
    "bos_id": 1,
    "transformers_version": "5.0",
    "chat_template": "chatml",
    "use_cache": True,
    "hidden_act": "silu",
    "norm_type": "RMSNorm",
    "rotary_pct": 1.0,
    "causal": True,
    "pretraining_tp": 1,
}


@pytest.mark.parametrize("key", CHANGING)
def test_a_key_that_changes_the_arithmetic_is_refused_by_name(key):
    """Ignored with a warning, such a model gave other answers than its own and exit code 0."""
    with pytest.raises(ModelRejected, match=key) as caught:
        read_params({**PARAMS, key: CHANGING[key]})
    assert caught.value.exit_code == 3
    assert caught.value.hint


@pytest.mark.parametrize("key", sorted(CHANGING.keys() - COMPUTED.keys()))
@pytest.mark.parametrize("off", [None, False, 0, [], {}, ""])
def test_switched_off_it_is_fine(key, off):
    assert read_params({**PARAMS, key: off}) == read_params(PARAMS)


@pytest.mark.parametrize("key", COMPUTED)
def test_null_says_nothing(key):
    assert read_params({**PARAMS, key: None}) == read_params(PARAMS)


@pytest.mark.parametrize("key", HARMLESS)
def test_harmless_keys_pass_without_a_word(key, caplog):
    assert read_params({**PARAMS, key: HARMLESS[key]}) == read_params(PARAMS)
    assert not caplog.records


def test_what_nobody_knows_is_warned_about(caplog):
    read_params({**PARAMS, "licence": "MIT", "made_by": {"who": "me"}})
    assert [record.getMessage() for record in caplog.records] == [
        "params.json: ignoring unknown keys: licence, made_by"
    ]


@pytest.mark.parametrize(
    "keys",
    [
        {"moe_args": {"num_experts": 16}, "use_qk_norm": True},
        {"moe_args": None, "attention_chunk_size": None, "vision_args": {"dim": 1408}},
        {"nope_layer_interval": 4, "attention_chunk_size": 8192},
    ],
)
def test_llama_4_is_named(keys):
    with pytest.raises(ModelRejected, match="a Llama 4 model"):
        read_params({**PARAMS, **keys})


def test_both_levels_of_a_nested_file_are_looked_at():
    with pytest.raises(ModelRejected, match="sliding_window"):
        read_params({"model": PARAMS, "sliding_window": 4096})
    assert read_params({"model": PARAMS, "step": 7}) == read_params(PARAMS)
