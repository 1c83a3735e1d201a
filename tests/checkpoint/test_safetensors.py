"""Folders of .safetensors files, in Meta's names and in Hugging Face's."""

import json
import random
import shutil
import struct

import pytest
import torch
from helpers.bad_safetensors import BAD_CONFIGS, BAD_FILES, BAD_INDEXES, BAD_VALUES, FIRST, LLAMA3
from helpers.folders import (
    ARGS,
    CONFIG,
    assert_same,
    checked,
    random_weights,
    read_all,
    refusal,
    to_hugging_face,
    write_hf,
    write_meta,
    write_params,
    write_safetensors,
)
from helpers.models import DATA
from safetensors.torch import save_file

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.huggingface import params_of
from llama_cli.checkpoint.params import read_params
from llama_cli.errors import ModelRejected
from llama_cli.model.weights import weight_shapes

WEIGHTS = random_weights()
UNTIED = {name: tensor for name, tensor in WEIGHTS.items() if name != "output.weight"}
MODEL = "model.safetensors"


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return write_hf(tmp_path / "model")


# Good ones.


@pytest.mark.parametrize("n_files", [1, 2, 3])
def test_hugging_face_weights_are_metas(n_files, tmp_path):
    folder = write_hf(tmp_path, WEIGHTS, n_files)
    checkpoint, args = checked(folder)
    assert_same(dict(checkpoint.tensors(args)), WEIGHTS)
    assert len(checkpoint.files) == n_files
    assert checkpoint.params_name == "config.json"
    assert checkpoint.headers.n_bytes == sum(tensor.nbytes for tensor in WEIGHTS.values())
    assert weight_shapes(args) == weight_shapes(ARGS)
    assert (args.max_seq_len, args.norm_eps, args.rope_theta) == (4096, 1e-5, 500000.0)


@pytest.mark.parametrize("name", ["gqa-v4", "scaled-v4", "scaled-v5", "scaled-v4-factor32"])
def test_twins_are_equal_bit_for_bit(name, tmp_path):
    for source in (DATA / "hf/scaled-v4", DATA / "hf" / name):
        if name == "gqa-v4" or (source / "config.json").exists():
            shutil.copytree(source, tmp_path / name, dirs_exist_ok=True)
    if name == "gqa-v4":
        shutil.copytree(DATA / "hf/gqa-v4", tmp_path / name, dirs_exist_ok=True)
    twin, args = checked(tmp_path / name)
    metas, metas_args = checked(DATA / "tiny" / name.split("-")[0])
    assert_same(dict(twin.tensors(args)), dict(metas.tensors(metas_args)))
    assert (args.rope_theta, args.norm_eps, args.ffn_dim) == (
        metas_args.rope_theta,
        metas_args.norm_eps,
        metas_args.ffn_dim,
    )
    factor = 32.0 if name.endswith("32") else 8.0
    assert args.rope_scaling is None if name == "gqa-v4" else args.rope_scaling.factor == factor


@pytest.mark.parametrize("stored", [True, False])
def test_tied_output_is_left_out(stored, tmp_path):
    """transformers uses the embedding for both, even where a second matrix is stored."""
    folder = write_hf(tmp_path, WEIGHTS if stored else UNTIED, tie_word_embeddings=True)
    assert checked(folder)[0].is_tied
    assert_same(read_all(folder), UNTIED)


def test_missing_output_is_an_error_if_it_is_not_tied(tmp_path):
    folder = write_hf(tmp_path, UNTIED)
    assert "lm_head.weight" in refusal(folder).message


def test_old_files_carry_frequencies(folder):
    save_file(
        to_hugging_face(WEIGHTS) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}, folder / MODEL
    )
    assert_same(read_all(folder), WEIGHTS)


@pytest.mark.parametrize("config", ["params.json", "config.json", "both"])
@pytest.mark.parametrize("names", ["Meta's", "Hugging Face's"])
@pytest.mark.parametrize("stem", ["model", "consolidated"])
def test_the_names_decide(names, config, stem, tmp_path):
    """Not the name of the file, and not which of the two descriptions lies beside it."""
    if config != "config.json":
        write_params(tmp_path)
    if config != "params.json":
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(tmp_path, WEIGHTS if names == "Meta's" else to_hugging_face(WEIGHTS), stem)
    assert_same(read_all(tmp_path), WEIGHTS)


@pytest.mark.parametrize("has_params", [True, False])
def test_weights_there_twice(has_params, folder):
    write_safetensors(folder, random_weights(seed=1), "consolidated", 2)
    if has_params:
        write_params(folder)
    assert_same(read_all(folder), random_weights(seed=1) if has_params else WEIGHTS)


def test_pth_goes_before_safetensors(folder):
    write_meta(folder, random_weights(seed=1))
    assert_same(read_all(folder), random_weights(seed=1))


def test_one_file_stays_mapped(tmp_path):
    write_params(tmp_path)
    write_safetensors(tmp_path, WEIGHTS, "model")
    checkpoint, args = checked(tmp_path)
    first = dict(checkpoint.tensors(args))
    assert all(tensor.data_ptr() == first[name].data_ptr() for name, tensor in checkpoint.tensors(args))


@pytest.mark.parametrize("names", ["Meta's", "Hugging Face's"])
def test_without_mmap_later_changes_do_not_matter(names, tmp_path):
    folder = write_hf(tmp_path / "model")
    if names == "Meta's":
        (folder / "config.json").unlink()
        write_params(folder)
        write_safetensors(folder, WEIGHTS, "model")
    weights = read_all(folder, mmap=False)
    with (folder / MODEL).open("r+b") as file:
        file.write(b"\xff" * (folder / MODEL).stat().st_size)
    assert_same(weights, WEIGHTS)


# config.json.


@pytest.mark.parametrize(
    ("changes", "theta", "factor"),
    [
        ({"rope_theta": None}, 10000.0, None),
        ({"rope_scaling": {"type": "default"}}, 500000.0, None),
        ({"rope_scaling": LLAMA3}, 500000.0, 32.0),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7e5}}, 7e5, None),
        ({"rope_theta": None, "rope_parameters": LLAMA3 | {"rope_theta": 7e5}}, 7e5, 32.0),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "rope_scaling": LLAMA3}, 500000.0, 32.0),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, 500000.0, 4.0),
        ({"hidden_act": None, "architectures": None}, 500000.0, None),
    ],
)
def test_rope_settings_of_both_styles(changes, theta, factor):
    args = read_params(params_of({key: value for key, value in (CONFIG | changes).items() if value is not None}))
    assert args.rope_theta == theta
    assert (args.rope_scaling and args.rope_scaling.factor) == factor


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_other_models_are_refused_by_name(case, tmp_path):
    changes, message = BAD_CONFIGS[case]
    assert message in refusal(write_hf(tmp_path, **changes)).message


@pytest.mark.parametrize("changes", BAD_VALUES, ids=str)
def test_bad_config_values_are_refused(changes, tmp_path):
    refusal(write_hf(tmp_path, **changes), needs_hint=False)


# Bad files.


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_by_name(case, folder, capfd):
    content, message = BAD_FILES[case]
    (folder / MODEL).write_bytes(content)
    assert message in refusal(folder).message
    assert capfd.readouterr() == ("", "")


def test_cut_at_any_place(folder):
    whole = (folder / MODEL).read_bytes()
    for place in random.Random(1).sample(range(len(whole)), 60):
        (folder / MODEL).write_bytes(whole[:place])
        refusal(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda weights: {**weights, "norm.weight": torch.ones(32)}, "mixes"),
        (lambda weights: {**weights, "model.layers.0.self_attn.q_proj.bias": torch.ones(1)}, "unexpected"),
        (lambda weights: {**weights, "score.weight": torch.ones(1)}, "unexpected: 'score.weight'"),
        (lambda weights: {"transformer." + name: tensor for name, tensor in weights.items()}, "is missing"),
        (lambda weights: dict(list(weights.items())[1:]), "tok_embeddings.weight is missing"),
    ],
)
def test_other_names_are_refused(make, message, folder):
    save_file(make(to_hugging_face(WEIGHTS)), folder / MODEL)
    assert message in refusal(folder).message


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_bad_index_is_refused(case, tmp_path):
    index, message = BAD_INDEXES[case]
    folder = write_hf(tmp_path, WEIGHTS, 2)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert message in refusal(folder).message


@pytest.mark.parametrize("name", [FIRST, "model-00002-of-00002.safetensors"])
def test_missing_file_is_named(name, tmp_path):
    folder = write_hf(tmp_path, WEIGHTS, 2)
    (folder / name).unlink()
    assert f"{name} is missing (1 of 2 files)" in refusal(folder).message


def test_files_without_their_index(tmp_path):
    folder = write_hf(tmp_path, WEIGHTS, 2)
    (folder / "model.safetensors.index.json").unlink()
    error = refusal(folder)
    assert "no index" in error.message
    assert "index.json" in (error.hint or "")


def test_tensor_in_two_files(tmp_path):
    folder = write_hf(tmp_path, WEIGHTS, 2)
    save_file(to_hugging_face(WEIGHTS), folder / FIRST)
    assert "lies in" in refusal(folder).message


def fuzz(folder, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    whole = bytearray((folder / MODEL).read_bytes())
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for _ in range(rounds):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(header)] = chance.randrange(256)
        (folder / MODEL).write_bytes(changed)
        said = "-"
        try:
            read_all(folder)
        except ModelRejected as error:
            said = error.message + (error.hint or "")
        assert said.isprintable(), said


@pytest.mark.promise("P3")
def test_mutations_are_refused_or_read(folder, record_property):
    record_property("cases", 300)
    fuzz(folder, 0, 300)


@pytest.mark.promise("P3")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_mutations_are_refused_or_read(seed, folder, record_property):
    record_property("cases", 3000)
    fuzz(folder, seed, 3000)


def test_check_may_be_left_out_of_opening(folder):
    """Opening reads no tensor; a wrong config shows in check."""
    write_hf(folder, intermediate_size=80)
    open_checkpoint(folder)
    assert "must be (80, 32)" in refusal(folder).message
