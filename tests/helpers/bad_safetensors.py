"""Bad .safetensors files, indexes and config.json: {name: (content, part of the message)}."""

import struct

from helpers.folders import raw_safetensors

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


BAD_CONFIGS = {
    "other model": ({"model_type": "mistral"}, "model_type is 'mistral'"),
    "no model type": ({"model_type": None}, "model_type is 'None'"),
    "architecture": ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    "architecture is text": ({"architectures": "x"}, "architecture is 'x'"),
    "escape": ({"architectures": ["\x1b[2J"]}, "architecture is"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "attention bias": ({"attention_bias": True}, "attention_bias is 'True'"),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias is 'True'"),
    "half rotary": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is '0.5'"),
    "quantized": ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
    "no size": ({"hidden_size": None}, "hidden_size must be given"),
    "no vocabulary": ({"vocab_size": None}, "vocab_size must be given"),
    "linear rope of more": ({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 1}}, "'alpha'"),
    "longrope": ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "type 'longrope'"),
    "two types": ({"rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 2.0}}, "of two types"),
    "two scalings": ({"rope_scaling": None, "rope_parameters": {"rope_theta": 7e5}}, "contradict each other"),
    "half a head turns": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is '0.5'"),
    "sliding window": ({"sliding_window": 64}, "sliding_window"),
    "layers of kinds": ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
    "granite": ({"residual_multiplier": 0.22}, "residual_multiplier"),
    "soft cap": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "qk norm": ({"use_qk_norm": True}, "use_qk_norm"),
    "llama 4": ({"architectures": ["Llama4ForConditionalGeneration"]}, "a Llama 4 model"),
    "vision": ({"architectures": ["MllamaForConditionalGeneration"]}, "a Llama 3.2 Vision model"),
    "dynamic rope": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "type 'dynamic'"),
    "yarn": ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "type 'yarn'"),
    "odd rope type": ({"rope_scaling": {"rope_type": ["llama3"]}}, "only 'default', 'linear' and 'llama3'"),
    "rope is text": ({"rope_scaling": "llama3"}, "must be an object"),
    "rope is false": ({"rope_parameters": False}, "must be an object"),
    "rope of layers": ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
    "more rope": ({"rope_scaling": LLAMA3 | {"attention_factor": 2.0}}, "attention_factor"),
    "factor without type": ({"rope_scaling": {"factor": 2.0}}, "has 'factor'"),
}


# Changes of a good config.json.
BAD_VALUES: list[dict] = [
    {"hidden_size": "32"},
    {"hidden_size": 32.0},
    {"num_hidden_layers": -1},
    {"num_attention_heads": 0},
    {"num_attention_heads": True},
    {"num_key_value_heads": 3},
    {"head_dim": 0},
    {"head_dim": 3},
    {"head_dim": 8},
    {"intermediate_size": 2**60},
    {"rms_norm_eps": "x"},
    {"rope_theta": 0},
    {"rope_theta": [1]},
    {"rope_scaling": {"rope_type": "llama3"}},
    {"max_position_embeddings": 0},
    {"vocab_size": 47},
]


def entry(dtype: str = "BF16", shape: object = (1,), offsets: object = (0, 2)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_FILES = {
    "empty": (b"", "is empty"),
    "one byte": (b"{", "JSON"),
    "zeros": (b"\0" * 99, "full of zeros"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
    "web page": (b"<!DOCTYPE html><html>", "web page"),
    "GGUF": (b"GGUF" + b"\3" * 99, "GGUF"),
    "torch": (b"PK\x03\x04" + b"\3" * 99, "torch checkpoint"),
    "huge header": (struct.pack("<Q", 1 << 40) + b"{" + b" " * 99, "a header of 1,099,511,627,776 bytes"),
    "negative header": (struct.pack("<q", -1) + b"{" + b" " * 99, "a header of"),
    "cut header": (struct.pack("<Q", 4096) + b"{" + b" " * 99, "is cut short"),
    "no object": (raw_safetensors(b"{]"), "header is damaged"),
    "not UTF-8": (raw_safetensors(b'{"\xff": 1}'), "header"),
    "deep": (raw_safetensors(b'{"a":' + b"[" * 99999), "header"),
    "no tensors": (raw_safetensors({}), "lists 0 tensors"),
    "name twice": (raw_safetensors(b'{"a": 1, "a": 2}'), "'a' is there twice"),
    "escape twice": (raw_safetensors(b'{"\\u001b": 1, "\\u001b": 2}'), r"'\x1b' is there twice"),
    "entry is a number": (raw_safetensors({"a": 1}), "'a' is of dtype 'None'"),
    "dtype is a list": (raw_safetensors({"a": entry() | {"dtype": []}}, b"xx"), "of dtype"),
    "float64": (raw_safetensors({"a": entry("F64", (1,), (0, 8))}, b"x" * 8), "of dtype 'F64'"),
    "int8": (raw_safetensors({"a": entry("I8", (1,), (0, 1))}, b"x"), "of dtype 'I8'"),
    "float8": (raw_safetensors({"a": entry("F8_E4M3", (1,), (0, 1))}, b"x"), "of dtype 'F8_E4M3'"),
    "no shape": (raw_safetensors({"a": {"dtype": "BF16", "data_offsets": [0, 2]}}, b"xx"), "damaged"),
    "negative shape": (raw_safetensors({"a": entry(shape=(-1,))}, b"xx"), "damaged"),
    "float shape": (raw_safetensors({"a": entry(shape=(1.0,))}, b"xx"), "damaged"),
    "wraps": (raw_safetensors({"a": entry(shape=(2**63, 2))}, b"xx"), "damaged"),
    "wrong size": (raw_safetensors({"a": entry(shape=(2,))}, b"xx"), "damaged"),
    "beyond the end": (raw_safetensors({"a": entry(shape=(9,), offsets=(0, 18))}, b"xx"), "cut short"),
    "overlap": (raw_safetensors({"a": entry(), "b": entry()}, b"xx"), "damaged"),
    "hole": (raw_safetensors({"a": entry(offsets=(2, 4))}, b"xxxx"), "damaged"),
    "trailing": (raw_safetensors({"a": entry()}, b"xxxx"), "damaged"),
}


FIRST = "model-00001-of-00002.safetensors"
BAD_INDEXES = {
    "no map": ({}, "weight_map must be an object"),
    "map is a list": ({"weight_map": []}, "weight_map must be an object"),
    "number": ({"weight_map": {"a": 7}}, "'7' is no .safetensors file"),
    "parent": ({"weight_map": {"a": "../model.safetensors"}}, "is no .safetensors file of its folder"),
    "absolute": ({"weight_map": {"a": "/etc/passwd"}}, "is no .safetensors file"),
    "other file": ({"weight_map": {"a": "params.json"}}, "is no .safetensors file"),
    "zero byte": ({"weight_map": {"a": "\0.safetensors"}}, r"\x00.safetensors is missing"),
    "long name": ({"weight_map": {"a": "x" * 300 + ".safetensors"}}, "is missing"),
    "absent": ({"weight_map": {"a": FIRST, "b": "c.safetensors"}}, "c.safetensors is missing (1 of 2 files)"),
    "not in its file": ({"weight_map": {"a": FIRST}}, f"'a' is not in {FIRST}"),
}
