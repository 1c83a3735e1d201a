"""Files as programs for training leave them: other names, things beside the weights, two dtypes, padding."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.folders import (
    ARGS,
    PARAMS,
    SHARD,
    checked,
    random_weights,
    read_all,
    refusal,
    shards_of,
    write_hf,
    write_meta,
    write_params,
    write_safetensors,
)  # fmt: skip

from llama_cli.checkpoint.headers import read_headers

WEIGHTS = random_weights()
MATRICES = ("tok_embeddings.weight", "output.weight")


def write(folder, saved, name=SHARD):
    """A folder with what a program has saved."""
    write_params(folder)
    torch.save(saved, folder / name)
    return folder


def assert_same(folder, weights=None):
    found = read_all(folder)
    weights = WEIGHTS if weights is None else weights
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    headers = read_headers(folder)
    assert {name: t.shape for name, t in headers.shards[0].items()} == {n: tuple(t.shape) for n, t in weights.items()}


def run_hint(hint, folder):
    """Do what a hint says."""
    command = hint[: hint.index(" in its folder")].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=folder)


def with_prefix(prefix):
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


@pytest.mark.parametrize(
    "saved",
    [
        with_prefix("_orig_mod."),
        with_prefix("module."),
        with_prefix("module._orig_mod."),
        with_prefix("model."),
        with_prefix("transformer."),
        {name.replace("layers.0.", "layers.0._orig_mod."): tensor for name, tensor in WEIGHTS.items()},
        {"model": WEIGHTS},
        {"state_dict": with_prefix("model."), "epoch": 3, "hyper": {"lr": 1e-4, "betas": (0.9, 0.99)}},
        {"model_state_dict": with_prefix("module."), "loss": 1.5, "git": None},
        WEIGHTS | {"epoch": 7, "name": "mine", "done": True, "losses": [3.0, 2.5]},
        WEIGHTS | {"rope.freqs": torch.ones(2), "layers.0.attention.inner_attention.rope.freqs": torch.ones(2)},
        {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in WEIGHTS.items()},
        {name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()},
    ],
    ids=range(13),
)
def test_what_programs_save_is_read(saved, tmp_path):
    assert_same(write(tmp_path, saved))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model."])
def test_prefixes_in_safetensors(prefix, tmp_path):
    write_params(tmp_path)
    write_safetensors(tmp_path, with_prefix(prefix), "model")
    assert_same(tmp_path)


@pytest.mark.parametrize("name", ["meta_model_0.pt", "consolidated.pth", "model.pth", "checkpoint.pt"])
def test_one_file_of_another_name(name, tmp_path):
    assert_same(write(tmp_path, WEIGHTS, name))


def test_several_files_of_other_names_are_a_question(tmp_path):
    write(tmp_path, WEIGHTS, "meta_model_0.pt")
    torch.save(WEIGHTS, tmp_path / "meta_model_1.pt")
    error = refusal(tmp_path)
    assert "meta_model_0.pt, meta_model_1.pt" in error.message
    assert error.hint.startswith("ln -s meta_model_1.pt ")


def test_what_lies_beside_the_weights_is_named_with_a_command_that_mends_it(tmp_path):
    write(tmp_path, {"model": WEIGHTS, "optimizer": {"state": torch.ones(4)}})
    error = refusal(tmp_path)
    assert "'optimizer'" in error.message
    run_hint(error.hint, tmp_path)
    assert_same(tmp_path)


def test_a_tensor_with_gaps_is_mended_by_the_command(tmp_path):
    name = "layers.0.attention.wq.weight"
    write(tmp_path, WEIGHTS | {name: torch.cat([WEIGHTS[name]] * 2, 1)[:, :32]})
    error = refusal(tmp_path)
    assert f"{name!r} is not contiguous" in error.message
    run_hint(error.hint, tmp_path)
    assert_same(tmp_path)


def test_norms_in_float32(tmp_path):
    """The dtype of most bytes is the model's; the others are upcast or rounded as they are used."""
    mixed = {name: tensor.float() if tensor.dim() == 1 else tensor for name, tensor in WEIGHTS.items()}
    assert_same(write_meta(tmp_path, mixed), mixed)
    checkpoint, _ = checked(tmp_path)
    assert checkpoint.dtype == torch.bfloat16
    assert list(read_headers(tmp_path).dtypes) == ["bfloat16", "float32"]


def test_an_embedding_in_float32(tmp_path):
    mixed = WEIGHTS | {"tok_embeddings.weight": WEIGHTS["tok_embeddings.weight"].float()}
    checkpoint, _ = checked(write_meta(tmp_path, mixed))
    assert checkpoint.dtype == torch.bfloat16


@pytest.mark.parametrize("llama2", [False, True])
def test_shards_of_uneven_rows(llama2, tmp_path):
    shards = shards_of(WEIGHTS, 2, llama2=llama2)
    for name in MATRICES:
        if not (llama2 and name.startswith("tok")):
            shards[0][name], shards[1][name] = WEIGHTS[name][:20].clone(), WEIGHTS[name][20:].clone()
    write_params(tmp_path, PARAMS | {"vocab_size": -1})
    for rank, shard in enumerate(shards):
        torch.save(shard, tmp_path / f"consolidated.{rank:02d}.pth")
    checkpoint, _ = checked(tmp_path)
    assert checkpoint.vocab_size == read_headers(tmp_path).vocab_size == ARGS.vocab_size
    found = read_all(tmp_path)
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def padded(rows):
    return WEIGHTS | {name: torch.cat([WEIGHTS[name], rows]) for name in MATRICES}


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("llama2", [False, True])
@pytest.mark.parametrize("rows", [torch.zeros(16, 32), torch.ones(16, 32)], ids=["zeros", "equal"])
def test_padding_rows_are_left_out(rows, llama2, n_shards, tmp_path):
    write_meta(tmp_path, padded(rows.bfloat16()), n_shards, llama2=llama2)
    found = read_all(tmp_path)
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_rows_that_differ_are_no_padding(tmp_path):
    write_meta(tmp_path, padded(torch.randn(16, 32, generator=torch.Generator().manual_seed(1)).bfloat16()))
    error = refusal(tmp_path)
    assert "has shape (64, 32), must be (48, 32); the rows more are no padding" in error.message
    assert '"vocab_size": 64' in error.hint


@pytest.mark.parametrize(("said", "message"), [(True, "and they differ"), (False, "output.weight is missing")])
def test_what_settings_say_about_a_tied_output_must_be_so(said, message, tmp_path):
    weights = WEIGHTS if said else {name: t for name, t in WEIGHTS.items() if name != "output.weight"}
    write_meta(tmp_path, weights)
    (tmp_path / "params.json").write_text(json.dumps(PARAMS | {"tie_word_embeddings": said}))
    assert message in refusal(tmp_path).message
    (tmp_path / "params.json").write_text(json.dumps(PARAMS | {"tie_word_embeddings": not said}))
    checked(tmp_path)


def test_padding_of_hugging_faces_files(tmp_path):
    folder = write_hf(tmp_path, vocab_size=40)
    assert "has shape (48, 32), must be (40, 32); the rows more" in refusal(folder).message
    zeros = {name: torch.cat([WEIGHTS[name][:40], torch.zeros(8, 32).bfloat16()]) for name in MATRICES}
    found = read_all(write_hf(tmp_path, WEIGHTS | zeros, vocab_size=40))
    assert all(torch.equal(found[name], WEIGHTS[name][:40]) for name in MATRICES)
