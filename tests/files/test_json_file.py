"""params.json as strangers write it: a valid model or a refusal that names the field."""

import json
import random

import pytest
from helpers.bad_json import FIELDS, TEXTS, changed, raw, without
from helpers.folders import PARAMS, checked, refusal, write_meta, write_params

from llama_cli.checkpoint.params import read_params
from llama_cli.errors import ModelRejected
from llama_cli.files.json_file import MAX_DEPTH, read_object


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    return write_meta(tmp_path_factory.mktemp("model"))


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
