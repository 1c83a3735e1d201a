"""Headers say what the weights are, without torch and without the weights."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch
from helpers.bad_archives import CASES, payloads
from helpers.folders import (
    SHARD,
    edit_entries,
    random_weights,
    raw_safetensors,
    refusal,
    write_hf,
    write_meta,
    write_params,
    write_safetensors,
)
from helpers.models import DATA
from helpers.sparse import write_sparse_model
from safetensors.torch import save_file

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.headers import read_headers
from llama_cli.checkpoint.params import read_params
from llama_cli.errors import ModelRejected

FOLDERS = sorted({path.parent for path in [*DATA.rglob("consolidated.00.pth"), *DATA.rglob("model.safetensors")]})
FAMILY = json.loads((DATA / "params_family.json").read_text())["models"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_headers_agree_with_torch(folder):
    """Names, shapes and dtypes, and the bytes at every place."""
    headers, checkpoint = read_headers(folder), open_checkpoint(folder)
    assert headers.vocab_size == checkpoint.vocab_size
    assert headers.is_tied == checkpoint.is_tied
    assert headers.tokenizer == checkpoint.tokenizer
    assert dict(headers.params) == dict(checkpoint.params)
    assert dict(headers.identities) == dict(checkpoint.identities)
    for shard, opened in zip(headers.shards, checkpoint.shards, strict=True):
        assert list(shard) == opened.names()
        for name, tensor in shard.items():
            assert tensor.shape == opened.shape(name)
            assert tensor.dtype == str(opened.dtype(name)).removeprefix("torch.")
    files = list(headers.identities)
    for number, shard in enumerate(headers.shards):
        data = files[number].read_bytes()
        for name, tensor in shard.items():
            stored = checkpoint.shards[number].tensor(name).contiguous().view(torch.uint8).flatten()
            assert data[tensor.offset : tensor.offset + tensor.n_bytes] == bytes(stored.tolist()), name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_stored_values_are_counted_once(n_shards, tied, tmp_path):
    weights = random_weights()
    n_values = sum(tensor.numel() for tensor in weights.values())
    if tied:
        n_values -= weights.pop("output.weight").numel()
    headers = read_headers(write_meta(tmp_path, weights, n_shards))
    assert (headers.n_stored, headers.is_tied) == (n_values, tied)


def test_an_output_that_shares_the_embedding_is_tied(tmp_path):
    weights = random_weights()
    weights["output.weight"] = weights["tok_embeddings.weight"]
    assert read_headers(write_meta(tmp_path, weights)).is_tied


def test_matrices_at_the_same_place_of_two_files_are_two(tmp_path):
    """Their headers are equal, and `info` took them for one."""
    write_params(tmp_path)
    weights = {name: tensor for name, tensor in random_weights().items() if name != "output.weight"}
    save_file(weights, tmp_path / "model-1.safetensors")
    raw = (tmp_path / "model-1.safetensors").read_bytes().replace(b"tok_embeddings.weight", b"output.weight")
    raw = (
        raw.replace(b'"output.weight":{', b'"output.weight":        {')
        .replace(b'"layers', b'"others')
        .replace(b'"norm', b'"nurm')
    )
    (tmp_path / "model-2.safetensors").write_bytes(raw)
    files = dict.fromkeys(weights, "model-1.safetensors") | {"output.weight": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    headers = read_headers(tmp_path)
    assert headers.shards[0]["tok_embeddings.weight"] == headers.shards[0]["output.weight"]
    assert not headers.is_tied


@pytest.mark.parametrize("n_files", [1, 3])
def test_safetensors_in_both_vocabularies(n_files, tmp_path):
    write_params(tmp_path / "meta")
    write_safetensors(tmp_path / "meta", random_weights(), "consolidated", n_files)
    write_hf(tmp_path / "theirs", n_files=n_files)
    metas, theirs = read_headers(tmp_path / "meta"), read_headers(tmp_path / "theirs")
    assert (metas.format, theirs.format) == ("safetensors", "huggingface")
    shapes = {name: tensor.shape for name, tensor in metas.shards[0].items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.shards[0].items()}
    assert len(metas.identities) == n_files


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_archive_is_refused_or_described(case, tmp_path):
    """What the gate refuses for its tensors alone may have sound headers; nothing else may happen."""
    folder = write_meta(tmp_path / "model")
    case.build(folder)
    with contextlib.suppress(ModelRejected):
        read_headers(folder)


def test_nothing_runs(tmp_path):
    folder, canary = write_meta(tmp_path / "model"), tmp_path / "canary"
    for name, program in payloads(canary).items():
        edit_entries(folder, lambda entries, program=program: entries.update({"data.pkl": program}))
        refusal(folder, read_headers)
        assert not canary.exists(), name


def test_a_huge_memo_is_refused(tmp_path):
    """Python's own reader of pickles would make a list of that many places."""
    folder = write_meta(tmp_path / "model")
    program = b"\x80\x02}r\xff\xff\xff\x7f."
    edit_entries(folder, lambda entries: entries.update({"data.pkl": program}))
    assert "damaged" in refusal(folder, read_headers).message


def test_tuples_in_tuples_are_refused(tmp_path):
    """A million of them as a key overflowed the stack of the process when their hash was taken."""
    folder = write_meta(tmp_path / "model")
    program = b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."
    edit_entries(folder, lambda entries: entries.update({"data.pkl": program}))
    for action in (read_headers, open_checkpoint):
        assert "list of tensors is damaged" in refusal(folder, action).message


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "BF16", "shape": [4], "data_offsets": [4, 12]},
        {"dtype": "BF16", "shape": [4], "data_offsets": [-8, 0]},
        {"dtype": "BF16", "shape": ["4"], "data_offsets": [0, 8]},
        {"dtype": "BF16", "shape": 4, "data_offsets": [0, 8]},
        {"dtype": "BF16", "shape": [4], "data_offsets": "08"},
        {"dtype": "BF16", "shape": [4]},
    ],
)
def test_safetensors_that_do_not_lie_in_the_file(entry, tmp_path):
    write_params(tmp_path)
    (tmp_path / "consolidated.safetensors").write_bytes(raw_safetensors({"norm.weight": entry}, bytes(8)))
    assert "disagree" in refusal(tmp_path, read_headers).message


def test_a_web_page_is_named(tmp_path):
    folder = write_meta(tmp_path)
    (folder / SHARD).write_bytes(b"<!DOCTYPE html>")
    assert "a web page" in refusal(folder, read_headers).message


@pytest.mark.sampled(5, kind=lambda case: case["n_shards"])
@pytest.mark.parametrize("case", FAMILY, ids=lambda case: f"{case['model']}-{case['variant']}")
def test_every_model_of_the_family_by_its_headers(case, tmp_path):
    """Whole models of Meta's in sparse files: sizes, parts and parameter counts are the published ones."""
    args = read_params(case["params"])
    (tmp_path / "params.json").write_text(json.dumps(case["params"]))
    write_sparse_model(tmp_path, args, case["n_shards"])
    headers = read_headers(tmp_path)
    assert headers.vocab_size == case["params"]["vocab_size"]
    # Sixteen shards hold each key/value head twice.
    is_doubled = case["variant"] == "bf16-mp16"
    assert headers.n_stored == (405_853_388_800 if is_doubled else case["n_params_stored_untied"])
    assert len(headers.shards) == case["n_shards"]
    for name, shape in case["shard_shapes"].items():
        full = {"norm": "norm.weight"}.get(name, name if name.endswith("weight") else f"layers.0.{name}.weight")
        assert headers.shards[-1][full].shape == tuple(shape), name
    assert sum(os.stat(path).st_blocks for path in headers.identities) * 512 < 200 << 20


def test_no_torch():
    script = (
        "import sys; from llama_cli.checkpoint.headers import read_headers;"
        f"[read_headers(path) for path in {[str(path) for path in FOLDERS]!r}]; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
