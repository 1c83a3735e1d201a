"""Folders laid out as each of Meta's families is, loaded and run; their numbers, scaled down."""

import json
import logging
import shutil

import pytest
import torch
from helpers.folders import random_weights, shards_of
from helpers.models import DATA, kit_folder, needs_kit
from helpers.sentencepieces import MARKS, write_sentencepiece

import llama_cli
from llama_cli import Sampling
from llama_cli.checkpoint.family import doubt_about, family_of
from llama_cli.checkpoint.headers import read_headers
from llama_cli.checkpoint.params import read_configuration, read_params
from llama_cli.cli.app import main
from llama_cli.errors import InputRejected, ModelRejected
from llama_cli.model.args import ModelArgs
from llama_cli.model.weights import n_params

GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)

# params.json of each family with small sizes; what Meta leaves out is left out.
SIZES = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 32, "norm_eps": 1e-5}
FAMILIES = {
    "Llama 2 7B": SIZES | {"vocab_size": -1},
    "Llama 2 70B": SIZES | {"n_kv_heads": 4, "ffn_dim_multiplier": 1.3, "vocab_size": -1},
    "Code Llama 7B": SIZES | {"ffn_dim_multiplier": 1.0, "rope_theta": 1e6},
    "Code Llama 34B": SIZES | {"n_kv_heads": 4, "ffn_dim_multiplier": 1.0, "rope_theta": 1e6},
    "Code Llama 70B-Instruct": SIZES | {"n_kv_heads": 4, "ffn_dim_multiplier": 1.3, "rope_theta": 10000},
    "Llama 3": SIZES | {"n_kv_heads": 4, "ffn_dim_multiplier": 1.3, "rope_theta": 500000.0, "vocab_size": 512},
    "Llama 3.1": SIZES
    | {
        "n_kv_heads": 4,
        "ffn_dim_multiplier": 1.3,
        "rope_theta": 500000.0,
        "vocab_size": 512,
        "use_scaled_rope": True,
    },
}
# What follows from them: rope_theta, context.
EXPECTED = {
    "Llama 2 7B": (10000.0, 4096),
    "Llama 2 70B": (10000.0, 4096),
    "Code Llama 7B": (1e6, 16384),
    "Code Llama 34B": (1e6, 16384),
    "Code Llama 70B-Instruct": (10000.0, 4096),
    "Llama 3": (500000.0, 8192),
    "Llama 3.1": (500000.0, 131072),
}


def write_family(folder, name, n_shards=1, dtype=torch.bfloat16):
    """The folder of a family: Llama 2 and Code Llama with SentencePiece, rope.freqs and an embedding split on dim."""
    folder.mkdir()
    params = FAMILIES[name]
    (folder / "params.json").write_text(json.dumps(params))
    is_old = params.get("vocab_size", -1) == -1
    if is_old:
        place = folder.parent if name.startswith("Llama 2") else folder  # one level up, as download.sh leaves it
        vocab_size = write_sentencepiece(place / "tokenizer.model", MARKS if name == "Code Llama 7B" else None)
        vocab_size += -vocab_size % 16
    else:
        shutil.copy(DATA / "tokenizer/bytes256.model", folder / "tokenizer.model")
        vocab_size = params["vocab_size"]
    args = read_params(params, vocab_size=vocab_size)
    weights = random_weights(args, dtype=dtype)
    shards = shards_of(weights, n_shards, llama2=is_old) if n_shards > 1 else [weights]
    for rank, shard in enumerate(shards):
        if is_old:
            shard = shard | {"rope.freqs": torch.ones(args.head_dim // 2, dtype=torch.bfloat16)}
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_from_one_file_and_from_shards(name, tmp_path):
    for part in ("one", "two", "four"):
        (tmp_path / part).mkdir()
    one = write_family(tmp_path / "one/model", name)
    whole, args = llama_cli.load(one), read_headers(one).configuration().args
    assert (args.rope_theta, args.max_seq_len) == EXPECTED[name]
    assert whole.tokenizer.kind == ("tiktoken" if name.startswith("Llama 3") else "sentencepiece")
    expected = whole.complete(["the lazy dog", "def"], GREEDY)
    for part, n_shards in (("two", 2), ("four", 4)):
        folder = write_family(tmp_path / f"{part}/model", name, n_shards)
        answers = llama_cli.load(folder).complete(["the lazy dog", "def"], GREEDY)
        assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
        headers = read_headers(folder)
        assert headers.configuration().args == args
        assert headers.n_stored == n_params(args)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_files_of_every_dtype(dtype, tmp_path):
    folder = write_family(tmp_path / "model", "Llama 2 7B", 2, dtype)
    session = llama_cli.load(folder, dtype="fp32")
    stored = torch.load(folder / "consolidated.00.pth", weights_only=True)["norm.weight"]
    assert torch.equal(session.engine.runner.model.norm.weight, stored.float())
    (answer,) = session.complete("the", GREEDY)
    assert len(answer.token_ids) == 12


@needs_kit
def test_a_story_is_the_same_under_both_tokenizers():
    """One model, its ids in Llama 2's order under SentencePiece and in Llama 3's under tiktoken."""
    pytest.importorskip("sentencepiece")
    stories = []
    for name in ("stories260k-sp", "stories260k-tiktoken"):
        session = llama_cli.load(kit_folder(name))
        (answer,) = session.complete([[session.tokenizer.bos_id]], Sampling(temperature=0, max_tokens=200))
        stories.append(answer.text)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 300


@pytest.fixture(name="code_llama")
def _code_llama(tmp_path):
    return write_family(tmp_path / "CodeLlama-7b", "Code Llama 7B")


@pytest.fixture(name="run")
def _run(capfdbinary):
    def run(*arguments):
        code = main(["complete", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_complete_fills_in(code_llama, run):
    arguments = ["-m", code_llama, "def add(first", "--suffix", " + second\n", "-t", "0", "-n", "8", "--ignore-eos"]
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    answer = json.loads(out)
    session = llama_cli.load(code_llama)
    assert tuple(answer["prompt_token_ids"]) == session.encode_infilling("def add(first", " + second\n")
    assert len(answer["token_ids"]) == 8
    assert run(*arguments)[1] == answer["text"] + "\n"
    assert run(*arguments, "--echo")[1] == "def add(first" + answer["text"] + "\n"


def test_filling_in_is_refused_where_a_model_cannot(tmp_path, run):
    folder = write_family(tmp_path / "Llama-2-7b", "Llama 2 7B")
    code, out, err = run("-m", folder, "a", "--suffix", "b")
    assert (code, out) == (5, "")
    assert "cannot fill in" in err
    assert "Code Llama 7B" in err
    code, out, err = run("-m", folder, "--prompt-ids", "1,2", "--suffix", "b")
    assert (code, out) == (2, "")


@pytest.fixture(name="batch")
def _batch(tmp_path):
    def batch(folder, *rows):
        """The exit code, and the output by id."""
        asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = ["-m", str(folder), "-t", "0", "-n", "8", "--ignore-eos", "--output-format", "simple", "-q"]
        code = main(["batch", str(asked), "-o", str(answered), *flags])
        return code, {row["id"]: row for row in map(json.loads, answered.read_text().splitlines())}

    return batch


def test_batch_fills_in_as_complete_does(code_llama, run, batch):
    body = {"prompt": "def add(first", "suffix": " + second\n"}
    code, rows = batch(
        code_llama,
        {"id": "short"} | body,
        {"custom_id": "openai", "url": "/v1/completions", "body": body},
        {"id": "nothing behind"} | body | {"suffix": ""},
        {"id": "plain", "prompt": "def add(first"},
        {"id": "surrogate"} | body | {"suffix": "\ud800"},
        {"id": "long"} | body | {"suffix": "b " * 1_000_000},
    )
    assert code == 6
    expected = run("-m", code_llama, body["prompt"], "--suffix", body["suffix"], "-t0", "-n8", "--ignore-eos")[1]
    assert rows["short"]["text"] + "\n" == rows["openai"]["text"] + "\n" == expected
    assert rows["short"]["suffix"] == body["suffix"]
    assert rows["nothing behind"]["usage"]["prompt_tokens"] == rows["plain"]["usage"]["prompt_tokens"] + 3
    assert rows["plain"].keys() == rows["short"].keys() - {"suffix"}
    assert rows["surrogate"]["error"]["code"] == "invalid_unicode"
    assert rows["long"]["error"]["code"] == "context_length_exceeded"


def test_a_row_to_fill_in_fails_where_a_model_cannot(tmp_path, batch):
    folder = write_family(tmp_path / "Llama-2-7b", "Llama 2 7B")
    code, rows = batch(folder, {"id": "a", "prompt": "a", "suffix": "b"}, {"id": "b", "prompt": "a"})
    assert code == 6
    assert rows["a"]["error"]["code"] == "invalid_request"
    assert rows["a"]["error"]["message"].startswith("this model cannot fill in")
    assert len(rows["b"]["text"]) > 0


def test_an_endless_suffix_is_refused_before_it_is_tokenised(code_llama):
    session = llama_cli.load(code_llama, max_seq_len=64)
    with pytest.raises(InputRejected, match="tokens or more"):
        session.encode_infilling("a", "b " * 1_000_000)
    with pytest.raises(InputRejected, match=r"the prompt has \d+ tokens"):
        session.encode_infilling("quick brown " * 10, "c " * 20)


VISION = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 128256,
    "vision_chunk_size": 448,
    "vision_max_num_chunks": 4,
    "vision_num_cross_attention_layers": 8,
}


@pytest.mark.parametrize("read", [llama_cli.load, read_headers])
def test_vision_models_are_refused_for_what_they_are(tmp_path, read):
    """Their names begin with text_model., so that the embedding seems to be missing."""
    (tmp_path / "params.json").write_text(json.dumps(VISION))
    torch.save({"text_model.tok_embeddings.weight": torch.ones(4, 4)}, tmp_path / "consolidated.00.pth")
    with pytest.raises(ModelRejected, match=r"a vision model \(vision_chunk_size, .*look at pictures") as caught:
        read(tmp_path)
    assert "Llama3.1-8B" in caught.value.hint


def test_an_executorch_program_is_named(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(VISION))
    (tmp_path / "llama_guard_3_1b_pruned_xnnpack.pte").write_bytes(b"ET")
    with pytest.raises(ModelRejected, match="ExecuTorch"):
        llama_cli.load(tmp_path)


def test_the_wrong_epsilon_of_early_downloads(caplog, tmp_path):
    chat = ModelArgs(n_kv_heads=32, vocab_size=32000, multiple_of=256, ffn_dim_multiplier=None, norm_eps=1e-6)
    assert "mend params.json" in doubt_about(chat)
    assert doubt_about(ModelArgs(norm_eps=1e-6)) is None
    assert doubt_about(ModelArgs(n_kv_heads=32, vocab_size=32000)) is None
    params = {"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-6, "vocab_size": 32000}
    (tmp_path / "params.json").write_text(json.dumps(params))
    write_sentencepiece(tmp_path / "tokenizer.model")
    torch.save(
        {"tok_embeddings.weight": torch.ones(2, 2), "norm.weight": torch.ones(2)}, tmp_path / "consolidated.00.pth"
    )
    with caplog.at_level(logging.WARNING), pytest.raises(ModelRejected):
        llama_cli.load(tmp_path)
    assert "norm_eps is 1e-06" in caplog.text


FIRST = {  # LLaMA 1, as its files are
    "7B": {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-6, "vocab_size": -1},
    "13B": {"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-6, "vocab_size": -1},
    "30B": {"dim": 6656, "multiple_of": 256, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-6, "vocab_size": -1},
    "65B": {"dim": 8192, "multiple_of": 256, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-5, "vocab_size": -1},
}
SECOND = {
    "llama-2-7b": FIRST["7B"] | {"norm_eps": 1e-5},
    "7B": FIRST["7B"] | {"norm_eps": 1e-5},
    "llama-2-13b-chat": FIRST["13B"] | {"norm_eps": 1e-5},
    "llama-2-70b": FIRST["65B"] | {"n_kv_heads": 8, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
    "llama-2-7b-chat": FIRST["7B"],
    "Llama-2-7b-chat-hf": FIRST["7B"],
}


@pytest.mark.parametrize("called", ["{}", "llama-{}", "LLaMA-{}-hf", "my-old-model"])
@pytest.mark.parametrize("size", FIRST)
def test_llama_1_is_told_from_llama_2(size, called):
    """It was called Llama 2, with twice the context it was trained for."""
    name = called.format(size)
    configuration = read_configuration(FIRST[size], vocab_size=32000, llama2=True, name=name)
    args = configuration.args
    assert (args.max_seq_len, args.rope_theta) == (2048, 10000.0)
    assert family_of(args, name) == "LLaMA 1"
    assert "LLaMA 1" in configuration.sources["max_seq_len"]
    doubt = doubt_about(args, name)
    assert ("taken for LLaMA 1" in doubt) if name == "my-old-model" and size == "7B" else doubt is None


@pytest.mark.parametrize("name", SECOND)
def test_llama_2_stays_llama_2(name):
    args = read_params(SECOND[name], vocab_size=32000, llama2=True, name=name)
    assert (args.max_seq_len, family_of(args, name)) == (4096, "Llama 2")
    assert bool(doubt_about(args, name)) == (args.norm_eps == 1e-6)


@pytest.mark.parametrize(
    ("name", "sizes", "family"),
    [
        ("Llama-2-13b-chat", {"dim": 5120, "n_layers": 40, "n_heads": 40, "vocab_size": 32000}, "Llama 2"),
        ("CodeLlama-13b", {"dim": 5120, "n_layers": 40, "n_heads": 40, "vocab_size": 32016}, "Code Llama"),
        ("Llama-Guard-2-8B", {"dim": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 128256}, "Llama Guard 2"),
        (
            "Llama-Guard-3-1B",
            {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256},
            "Llama Guard 3",
        ),
        (
            "Llama3.3-70B-Instruct",
            {"dim": 8192, "n_layers": 80, "n_heads": 64, "vocab_size": 128256, "use_scaled_rope": True},
            "Llama 3.3",
        ),
    ],
)
def test_what_meta_calls_it(name, sizes, family):
    assert family_of(read_params(sizes), name) == family
