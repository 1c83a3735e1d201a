"""params.json as strangers write it: a valid model or a refusal that names the field."""

import json
import random

import pytest
from checkpoint.folders import PARAMS, checked, refusal, write_meta, write_params

from llama_cli.checkpoint.json_file import MAX_BYTES, MAX_DEPTH, read_object
from llama_cli.errors import ModelRejected
from llama_cli.model.args import read_params


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    return write_meta(tmp_path_factory.mktemp("model"))


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
    "quantised": (changed(quantization_args={"group_size": 32}), "quantization_args"),
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


@pytest.mark.parametrize("case", TEXTS)
def test_bad_json_is_refused(case, folder, capfd):
    text, message = TEXTS[case]
    (folder / "params.json").write_bytes(text)
    assert message in refusal(folder).message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("case", FIELDS)
def test_bad_field_is_named(case, folder):
    text, message = FIELDS[case]
    (folder / "params.json").write_bytes(text)
    assert message in refusal(folder, needs_hint=False).message


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + changed(),
        changed(vocab_size=-1),
        without("vocab_size"),
        changed(n_kv_heads=None),
        changed(max_batch_size=32),
        changed(lora_args=None),
        json.dumps({"model": PARAMS}).encode(),
        json.dumps(PARAMS, indent=4).replace("\n", "\r\n").encode(),
        raw("unknown", "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)),
    ],
    ids=["BOM", "vocab -1", "no vocab", "no kv heads", "batch size", "null", "nested", "CRLF", "as deep as allowed"],
)
def test_harmless_variants_are_read(text, folder, caplog):
    (folder / "params.json").write_bytes(text)
    checked(folder)


def random_value(chance: random.Random, depth: int = 0) -> object:
    """Any JSON, and what Python writes as if it were."""
    choices = [
        None, True, False, -1, 0, 1, 7, 2**31, 2**63, -(2**70), 0.5, -0.0, 1e308, float("nan"), float("inf"),
        "", "8", "\x1b[2J\n", "\ud800", "x" * 500, [], {},
    ]  # fmt: skip
    if depth < 2 and chance.random() < 0.2:
        return [random_value(chance, depth + 1), {"dim": random_value(chance, depth + 1)}]
    return chance.choice(choices)


KEYS = [*PARAMS, "norm_eps", "rope_theta", "rope_scaling", "use_scaled_rope", "ffn_dim_multiplier", "head_dim", "model"]


def fuzz(path, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    for _ in range(rounds):
        values = PARAMS | {chance.choice(KEYS): random_value(chance) for _ in range(chance.randint(1, 3))}
        data = bytearray(json.dumps(values).encode())
        if chance.random() < 0.5:
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        said = "-"
        try:
            read_params(read_object(path), vocab_size=48)
        except ModelRejected as error:
            said = error.message
        assert said.isprintable(), said


def test_random_params_are_refused_or_read(tmp_path):
    fuzz(tmp_path / "params.json", 0, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_random_params_are_refused_or_read(seed, tmp_path):
    fuzz(tmp_path / "params.json", seed, 10_000)


def test_params_are_read_before_the_weights_are_compared(folder):
    write_params(folder, PARAMS | {"dim": "x"})
    assert "dim" in refusal(folder, needs_hint=False).message
