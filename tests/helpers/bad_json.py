"""Bad params.json files: {name: (content, part of the message)}."""

import json

from helpers.folders import PARAMS

from llama_cli.files.json_file import MAX_BYTES


def changed(**values: object) -> bytes:
    return json.dumps(PARAMS | values).encode()


def raw(key: str, value: str) -> bytes:
    """A value that json.dumps would not write."""
    return (json.dumps(PARAMS)[:-1] + f', "{key}": {value}' + "}").encode()


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in PARAMS.items() if name != key}).encode()


FIELDS = {
    "missing dim": (without("dim"), "dim"),
    "missing layers": (without("n_layers"), "n_layers"),
    "float": (changed(dim=32.5), "dim"),
    "whole float": (changed(dim=32.0), "dim"),
    "bool": (changed(n_layers=True), "n_layers"),
    "text": (changed(n_heads="8"), "n_heads"),
    "list": (changed(n_heads=[8]), "n_heads"),
    "null": (changed(dim=None), "dim"),
    "negative": (changed(n_layers=-1), "n_layers"),
    "zero": (changed(n_layers=0), "n_layers"),
    "huge": (changed(dim=2**40), "dim"),
    "wraps": (changed(dim=2**42 + 1), "dim"),
    "negative vocabulary": (changed(vocab_size=-2), "vocab_size"),
    "no epsilon": (changed(norm_eps=0), "norm_eps"),
    "infinite theta": (raw("rope_theta", "1e999"), "1e999"),
    "head does not divide": (changed(n_heads=7, n_kv_heads=7), "n_heads"),
    "kv head does not divide": (changed(n_kv_heads=3), "n_kv_heads"),
    "odd head": (changed(head_dim=3), "odd"),
    "quantized": (changed(quantization_args={"group_size": 32}), "quantization_args"),
    "lora": (changed(lora_args={"rank": 16}), "lora_args"),
    "vision": (changed(vision_chunk_size=448), "vision_chunk_size"),
    "experts": (changed(moe_args={"num_experts": 16}), "moe_args"),
}
TEXTS = {
    "empty": (b"", "empty"),
    "zeros": (b"\0" * 100, "full of zeros"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "web page": (b"<html>", "web page"),
    "cut": (changed()[:-5], "at line 1"),
    "trailing": (changed() + b"}", "Extra data"),
    "comment": (b"{ // dim\n}", "at line 1"),
    "array": (b"[1, 2]", "must be an object"),
    "number": (b"7", "must be an object"),
    "null": (b"null", "must be an object"),
    "NaN": (raw("norm_eps", "NaN"), "NaN is not a number"),
    "Infinity": (raw("norm_eps", "Infinity"), "Infinity is not a number"),
    "minus Infinity": (raw("rope_theta", "-Infinity"), "-Infinity is not a number"),
    "duplicate key": (raw("dim", "64"), "the key 'dim' is there twice"),
    "duplicate deep key": (raw("x", '{"\\u001b[2J": 1, "\\u001b[2J": 2}'), r"'\x1b[2J' is there twice"),
    "lone surrogate twice": (raw("x", '{"\\ud800": 1, "\\ud800": 2}'), r"'\ud800' is there twice"),
    "5000 digits": (raw("dim_", "9" * 5000), "5,000 digits"),
    "deep": (raw("x", "[" * 100 + "]" * 100), "nested too deeply"),
    "very deep": (raw("x", "[" * 100_000 + "]" * 100_000), "nested too deeply"),
    "deep objects": (raw("x", '{"a":' * 5000 + "1" + "}" * 5000), "nested too deeply"),
    "UTF-16": (json.dumps(PARAMS).encode("utf-16"), "is not UTF-8"),
    "Latin-1": ('{"é": 1}'.encode("latin-1"), "byte 2 is not UTF-8"),
    "large": (b" " * (MAX_BYTES + 1), "1,048,577 bytes"),
}
