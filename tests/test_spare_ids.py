"""Ids behind the tokenizer's: padding goes without a word, trained ones are told."""

import json
import logging
import shutil

import pytest
import torch
from helpers.folders import random_weights, write_hf, write_meta, write_params
from helpers.models import DATA

import llama_cli
from llama_cli import Sampling
from llama_cli.checkpoint.describe import describe_model
from llama_cli.checkpoint.headers import read_headers
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.spare_rows import n_trained
from llama_cli.checkpoint.verify import Verification
from llama_cli.errors import ModelRejected

TOKENIZER = DATA / "tokenizer/bytes256.model"
TOKENIZER_SIZE = 512
PARAMS = {"dim": 32, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1, "multiple_of": 16}
OTHERS = torch.randn(64, 32, generator=torch.Generator().manual_seed(7)).bfloat16()
ZEROS = torch.zeros(64, 32).bfloat16()


def write(folder, rows, n_shards=1, *, llama2=False):
    """A model whose embedding has `rows` behind the tokenizer's."""
    args = read_params(PARAMS, vocab_size=TOKENIZER_SIZE)
    weights = random_weights(args)
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = torch.cat([weights[name], rows])
    write_meta(folder, weights, n_shards, llama2=llama2)
    write_params(folder, PARAMS)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    return folder


def everywhere(folder, caplog):
    """How many trained ids loading, info and verify count, which must agree."""
    with caplog.at_level(logging.WARNING):
        session = llama_cli.load(folder)
    (answer,) = session.complete([[5, 6]], Sampling(max_tokens=20, ignore_eos=True, seed=1))
    assert max(answer.token_ids) < TOKENIZER_SIZE
    loading = [record.getMessage() for record in caplog.records]
    headers = read_headers(folder)
    tokenizer = describe_model(headers, headers.configuration())["tokenizer"]
    verification = Verification(folder)
    verification.check_headers()
    assert verification.is_sound
    verified = [finding.detail for finding in verification.findings if finding.status == "warning"]
    said = [tokenizer["warning"]] if tokenizer["warning"] else []
    assert loading == verified == said
    return tokenizer["trained_spare_ids"], *said


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("llama2", [False, True])
@pytest.mark.parametrize(
    ("rows", "trained"),
    [
        (OTHERS[:2], 2),
        (OTHERS[:8], 8),
        (torch.cat([OTHERS[:3], ZEROS[:61]]), 3),
        (torch.cat([OTHERS[:2], OTHERS[5:6].expand(14, 32)]), 2),
    ],
    ids=["two", "eight", "and zeros", "and a filler"],
)
def test_trained_rows_are_told(rows, trained, llama2, n_shards, tmp_path, caplog):
    """Two added tokens were never chosen, which only -v said."""
    found, warning = everywhere(write(tmp_path, rows, n_shards, llama2=llama2), caplog)
    assert found == trained
    assert f"has {len(rows)} ids that its tokenizer has no text for, {trained} of them trained" in warning


@pytest.mark.parametrize(
    "rows", [OTHERS[:0], ZEROS, OTHERS[:1].expand(64, 32), ZEROS[:1].expand(512, 32)], ids=range(4)
)
def test_padding_goes_without_a_word(rows, tmp_path, caplog):
    assert everywhere(write(tmp_path, rows), caplog) == (0,)


def test_other_programs_files_name_them(tmp_path, caplog):
    folder = write(tmp_path, OTHERS[:2])
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 513, "<|im_start|>": 512, "<s>": 1}))
    assert "(such as '<|im_start|>', '<|im_end|>')" in everywhere(folder, caplog)[1]
    (folder / "added_tokens.json").unlink()
    decoder = {"512": {"content": "<pad>"}, "1": {"content": "<s>"}, "x": 3}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder, "max": 9000}))
    caplog.clear()
    assert "(such as '<pad>')" in everywhere(folder, caplog)[1]


def test_many_trained_rows_belong_to_another_tokenizer(tmp_path):
    rows = torch.randn(200, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    with pytest.raises(ModelRejected, match="the tokenizer has 512 tokens, the model 712"):
        llama_cli.load(write(tmp_path, rows))


def test_of_hugging_faces_files_too(tmp_path, caplog):
    args = read_params(PARAMS, vocab_size=TOKENIZER_SIZE + 2)
    config = {
        "vocab_size": TOKENIZER_SIZE + 2, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": args.ffn_dim,
    }  # fmt: skip
    folder = write_hf(tmp_path, random_weights(args), **config)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    assert everywhere(folder, caplog)[0] == 2


def test_what_counts_as_trained():
    assert n_trained([]) == n_trained([b"\0\0"]) == n_trained([b"ab", b"ab"]) == 0
    assert n_trained([b"ab"]) == n_trained([b"ab", b"\0\0", b"cd", b"cd"]) == 1
