"""params.json -> ModelArgs."""

import json
import logging
from dataclasses import fields

import pytest
from helpers.models import DATA

from llama_cli.checkpoint.params import read_configuration, read_params
from llama_cli.errors import ModelRejected, UsageError
from llama_cli.model.args import ModelArgs, RopeScaling
from llama_cli.model.weights import n_params

LLAMA3_8B = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "ffn_dim_multiplier": 1.3,
    "multiple_of": 1024,
    "norm_eps": 1e-05,
    "rope_theta": 500000.0,
}
FAMILY = json.loads((DATA / "params_family.json").read_text())["models"]


def test_the_defaults_are_llama_3_8b():
    assert ModelArgs() == read_params(LLAMA3_8B)
    assert (ModelArgs().head_dim, ModelArgs().ffn_dim, n_params(ModelArgs())) == (128, 14336, 8030261248)


@pytest.mark.parametrize("case", FAMILY, ids=lambda case: f"{case['model']}-{case['variant']}")
def test_family_sizes(case):
    args = read_params(case["params"])
    assert args.ffn_dim == case["hidden_dim"]
    assert args.head_dim == case["head_dim"]
    assert n_params(args) == case["n_params_stored_untied"]
    assert n_params(args, tied=True) == case["n_params_if_embeddings_tied"]


@pytest.mark.parametrize(
    ("dim", "multiple_of", "multiplier", "ffn_dim"),
    [(4096, 256, None, 11008), (5120, 256, None, 13824), (8192, 4096, 1.3, 28672), (2048, 256, 1.5, 8192)],
)
def test_hidden_size_by_the_two_thirds_rule(dim, multiple_of, multiplier, ffn_dim):
    params = {**LLAMA3_8B, "dim": dim, "multiple_of": multiple_of, "ffn_dim_multiplier": multiplier}
    assert read_params(params).ffn_dim == ffn_dim


@pytest.mark.parametrize("params", [{}, {"n_kv_heads": None}])
def test_absent_and_null_kv_heads_mean_all_heads(params):
    without = {key: value for key, value in LLAMA3_8B.items() if key != "n_kv_heads"}
    assert read_params({**without, **params}).n_kv_heads == 32


@pytest.mark.parametrize("params", [{}, {"vocab_size": -1}])
def test_vocabulary_from_the_weights(params):
    without = {key: value for key, value in LLAMA3_8B.items() if key != "vocab_size"}
    assert read_params({**without, **params}, vocab_size=32016).vocab_size == 32016


def test_rope_theta_left_out_depends_on_the_family():
    without = {key: value for key, value in LLAMA3_8B.items() if key != "rope_theta"}
    assert read_params(without).rope_theta == 500000.0
    assert read_params(without, llama2=True).rope_theta == 10000.0
    assert read_params({**without, "rope_freq_base": 7e5}).rope_theta == 7e5
    assert read_params({**without, "rope_theta": 1000000}).rope_theta == 1e6  # an int is a number too


ONE_B = {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "use_scaled_rope": True}
THREE_B = {**ONE_B, "dim": 3072, "n_layers": 28, "n_heads": 24}


@pytest.mark.parametrize(
    ("params", "flag", "factor"),
    [
        ({**LLAMA3_8B, "use_scaled_rope": True}, None, 8),
        ({**LLAMA3_8B, "use_scaled_rope": True}, 4.0, 4),
        (ONE_B, None, 32),
        (THREE_B, None, 32),
        (ONE_B, 8.0, 8),
        ({**ONE_B, "rope_scaling_factor": 16.0}, 8.0, 16),
        ({**LLAMA3_8B, "rope_scaling": {"factor": 2.0}}, 8.0, 2),
    ],
)
def test_rope_factor_key_then_flag_then_shape(params, flag, factor):
    scaling = read_params(params, rope_scale_factor=flag).rope_scaling
    assert scaling == RopeScaling(factor)


def test_rope_factor_flag_on_an_unscaled_model_is_a_mistake():
    with pytest.raises(UsageError, match="does not use scaled RoPE"):
        read_params(LLAMA3_8B, rope_scale_factor=8.0)


@pytest.mark.parametrize(
    ("params", "context"),
    [
        (LLAMA3_8B, 8192),
        ({**LLAMA3_8B, "use_scaled_rope": True}, 131072),
        ({**LLAMA3_8B, "rope_theta": 10000.0}, 4096),
        ({**LLAMA3_8B, "rope_theta": 1e6}, 16384),
        ({**LLAMA3_8B, "max_seq_len": 512}, 512),
    ],
)
def test_context_length_of_the_family(params, context):
    assert read_params(params).max_seq_len == context


def test_nested_under_model():
    assert read_params({"model": LLAMA3_8B}) == read_params(LLAMA3_8B)


def test_unknown_keys_are_named_once(caplog):
    with caplog.at_level(logging.WARNING):
        read_params({**LLAMA3_8B, "b_new": 1, "a_new": 2})
    assert [record.getMessage() for record in caplog.records] == ["params.json: ignoring unknown keys: a_new, b_new"]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"dim": None}, "dim: Input should be a valid integer, is None"),
        ({"dim": 4096.0}, "dim: Input should be a valid integer"),
        ({"dim": "4096"}, "dim"),
        ({"dim": True}, "dim"),
        ({"dim": 0}, "greater than or equal to 1, is 0"),
        ({"dim": 2**40}, "dim"),
        ({"n_layers": -1}, "n_layers: Input should be greater than or equal to 1, is -1"),
        ({"n_layers": 10**6}, "n_layers"),
        ({"n_heads": 33}, "dim 4096 is not a multiple of n_heads 33"),
        ({"n_kv_heads": 5}, "n_heads 32 is not a multiple of n_kv_heads 5"),
        ({"n_kv_heads": 0}, "n_kv_heads"),
        ({"head_dim": 7}, "head size 7 is odd"),
        ({"vocab_size": 0}, "vocab_size must be 1 or more, or -1, is 0"),
        ({"vocab_size": -2}, "vocab_size"),
        ({"multiple_of": 0}, "multiple_of"),
        ({"ffn_dim_multiplier": float("inf")}, "ffn_dim_multiplier"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_scaling": {"factor": 0.5}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_scaling is of type 'dynamic'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_scaling is of type 'yarn'"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1]}}, "rope_scaling is of type 'longrope'"),
        ({"rope_scaling": {"factor": 2, "beta_fast": 32}}, "'beta_fast'"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "low_freq_factor": 1.0}}, "'low_freq_factor'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"factor": 8, "high_freq_factor": 0.5}}, "below low_freq_factor"),
        (
            {"rope_scaling": {"type": "linear", "factor": 4}, "use_scaled_rope": True},
            "use_scaled_rope is True, but rope",
        ),
        ({"rope_scaling": {"factor": 4}, "use_scaled_rope": False}, "use_scaled_rope is False, but rope_scaling"),
        ({"rope_scaling": {"factor": 4}, "rope_scaling_factor": 8.0}, "rope_scaling_factor is 8.0, but rope_scaling"),
        ({"rope_scaling_factor": 8.0}, "rope_scaling_factor is 8.0, but use_scaled_rope is None"),
        ({"rope_freq_base": 1e6}, "rope_theta is 500000.0, rope_freq_base is 1000000.0"),
        ({"hidden_dim": 64, "intermediate_size": 128}, "hidden_dim is 64, intermediate_size is 128"),
        ({"model": {**LLAMA3_8B}, "sliding_window": 4096}, "sliding_window"),
        ({"attention": {"window": 4096}}, "attention"),
        ({"settings": {"sliding_window": 4096}}, "settings.sliding_window"),
        ({"rope_scaling": []}, "rope_scaling"),
        ({"use_scaled_rope": "yes"}, "use_scaled_rope"),
        ({"quantization_args": {"group_size": 32}}, "quantization_args"),
        ({"lora_args": {"rank": 16}}, "lora_args"),
        ({"vision_chunk_size": 448}, "vision_chunk_size"),
        ({"moe_args": {"n": 1}}, "moe_args"),
    ],
)
def test_bad_values_are_named(change, fragment):
    with pytest.raises(ModelRejected) as caught:
        read_params({**LLAMA3_8B, **change}, source="params.json")
    assert fragment in caught.value.message
    assert caught.value.message.startswith("params.json: ")
    assert "\n" not in caught.value.message


def test_the_source_is_named():
    with pytest.raises(ModelRejected, match=r"^config\.json: dim: Field required"):
        read_params({key: value for key, value in LLAMA3_8B.items() if key != "dim"}, source="config.json")


def test_every_setting_of_the_arithmetic_has_a_source():
    """`info` shows these: a setting that was forgotten there would act unseen."""
    said_by_others = {"multiple_of", "ffn_dim_multiplier", "hidden_dim", "head_dim_override"}  # ffn_dim and head_dim
    sources = read_configuration({"dim": 64, "n_layers": 2, "n_heads": 8, "vocab_size": 512}).sources
    assert sources.keys() == {field.name for field in fields(ModelArgs)} - said_by_others | {"ffn_dim", "head_dim"}
