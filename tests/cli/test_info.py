"""`llama-cli info`: what a model is and what it needs, from its headers alone."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.folders import write_hf, write_meta
from helpers.models import DATA
from helpers.sentencepieces import write_sentencepiece
from helpers.sparse import write_sparse_model

from llama_cli.backends.offers import ABLE, Wanted, choose_offer
from llama_cli.checkpoint.params import read_params
from llama_cli.cli.app import main
from llama_cli.memory import Stored, format_bytes, free_memory, plan_memory

TINY = DATA / "tiny/bpe1024"
FAMILY = json.loads((DATA / "params_family.json").read_text())["models"]
BIGGEST = next(case for case in FAMILY if "405B" in case["model"] and case["n_shards"] == 8)
ONE_B = next(case for case in FAMILY if case["model"].endswith("3.2-1B"))


@pytest.fixture(name="run")
def _run(capfdbinary, monkeypatch):
    monkeypatch.delenv("LLAMA_CLI_MODEL", raising=False)

    def run(*arguments):
        code = main(["info", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture(name="sparse")
def _sparse(tmp_path):
    """Make a folder of a whole model of Meta's whose weights are holes."""

    def make(case, name="model", **params):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "params.json").write_text(json.dumps(case["params"] | params))
        shutil.copy(DATA / "tokenizer/bytes256.model", folder / "tokenizer.model")
        write_sparse_model(folder, read_params(case["params"]), case["n_shards"])
        return folder

    return make


def test_the_toy_without_a_model(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out.startswith("model          toy\n")


def test_a_405b_of_headers(run, sparse):
    """The weights are holes: reading them would take 800 GB of zeros."""
    described = json.loads(run(sparse(BIGGEST, "Llama3.1-405B"), "--json")[1])
    assert described["family"] == "Llama 3.1"
    assert described["shards"] == BIGGEST["n_shards"]
    assert described["parameters"]["total"] == described["stored_parameters"] == BIGGEST["n_params_stored_untied"]
    whole = next(plan for plan in described["memory"]["plans"] if plan["precision"] == "bf16" and plan["ranks"] == 1)
    assert whole["weight_bytes"] == 2 * BIGGEST["n_params_stored_untied"]
    assert format_bytes(whole["weight_bytes"]) == "756.0 GiB"
    assert whole["fits_cpu"] is False
    assert whole["largest_context"] == 0


@pytest.mark.skipif(free_memory() > BIGGEST["n_params_stored_untied"], reason="this machine may hold a 405B")
def test_a_loading_command_refuses_what_does_not_fit(run, sparse, capfdbinary):
    """Files larger than memory are mapped all the same: the plan says how much there would have to be."""
    in_one_file = BIGGEST | {"params": BIGGEST["params"] | {"vocab_size": 512}, "n_shards": 1}  # no copies to compare
    assert main(["complete", "-m", str(sparse(in_one_file)), "Hello"]) == 4
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b"damaged" not in err


@pytest.mark.parametrize("case", FAMILY, ids=lambda case: f"{case['model']}-{case['variant']}")
def test_the_weights_of_a_rank_are_those_of_a_shard(case):
    """Meta's own table of shard shapes is the slow twin."""
    args, n_ranks = read_params(case["params"]), case["n_shards"]
    shapes = case["shard_shapes"]
    sizes = {name: shape[0] * (shape[1] if len(shape) > 1 else 1) for name, shape in shapes.items()}
    attention = sizes["attention.wq"] + 2 * sizes["attention.wk"] + sizes["attention.wo"]
    layer = attention + 2 * sizes["feed_forward.w1"] + sizes["feed_forward.w2"] + 2 * sizes["norm"]
    outer = sizes["tok_embeddings.weight"] + sizes["output.weight"] + sizes["norm"]
    offer = choose_offer(Wanted("bfloat16", "cpu"), ABLE)
    plan = plan_memory(args, offer, Stored(2, is_tied=False, is_copied=True), n_slots=1, n_ranks=n_ranks)
    assert plan.weights == 2 * (args.n_layers * layer + outer)


def test_where_each_value_comes_from(run, sparse):
    params = {**ONE_B["params"], "vocab_size": -1}
    folder = sparse({**ONE_B, "params": ONE_B["params"]}, vocab_size=-1)
    found = json.loads(run(folder, "--json")[1])["configuration"]
    assert found["vocab_size"] == {"value": ONE_B["params"]["vocab_size"], "source": "rows of tok_embeddings.weight"}
    assert found["ffn_dim"]["value"] == ONE_B["hidden_dim"]
    assert found["rope_scaling"]["value"]["factor"] == 32
    assert "3.2 1B and 3B" in found["rope_scaling"]["source"]
    asked = json.loads(run(folder, "--json", "--rope-scale-factor", 8)[1])["configuration"]["rope_scaling"]
    assert (asked["value"]["factor"], asked["source"]) == (8, "--rope-scale-factor")
    (folder / "params.json").write_text(json.dumps(params | {"rope_scaling_factor": 4.0}))
    stored = json.loads(run(folder, "--json", "--rope-scale-factor", 8)[1])["configuration"]["rope_scaling"]
    assert (stored["value"]["factor"], stored["source"]) == (4, "params.json: rope_scaling_factor")


def test_the_plan_follows_context_and_batch(run, sparse):
    folder = sparse(ONE_B)
    small, large = (
        json.loads(run(folder, "--json", "-c", context, "-b", batch)[1])["memory"]["plans"][0]
        for context, batch in ((1000, 1), (2000, 3))
    )
    assert large["cache_bytes"] == 6 * small["cache_bytes"] == 6 * 1000 * 32 * 1024
    assert large["weight_bytes"] == small["weight_bytes"]
    assert large["peak_bytes"] > large["weight_bytes"] + large["cache_bytes"]


def test_a_gpu_is_counted(run, sparse, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 4000, 8.6\necho 3600, 8.9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    folder = sparse(ONE_B)
    memory = json.loads(run(folder, "--json", "-c", 1024)[1])["memory"]
    fits = {(plan["precision"], plan["ranks"]): plan["fits_gpu"] for plan in memory["plans"]}
    assert memory["free_gpu_bytes"] == [4000 << 20, 3600 << 20]
    assert fits["bf16", 1]
    assert not fits["fp32", 1]
    assert fits["fp32", 2]
    assert not fits["bf16", 4]
    assert fits["int8", 1]
    assert fits["int4", 2]
    program.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert json.loads(run(folder, "--json")[1])["memory"]["free_gpu_bytes"] == []


def test_tied_and_hugging_face_folders(run, tmp_path):
    tied = json.loads(run(DATA.parent.parent / "llama_cli/toy", "--json")[1])
    assert tied["tied"]
    assert tied["parameters"]["output"] == 0
    assert tied["tokenizer"]["kind"] == "char"
    theirs = json.loads(run(write_hf(tmp_path / "theirs"), "--json")[1])
    assert theirs["configuration"]["dim"]["source"] == "config.json"
    assert theirs["tokenizer"]["problem"].startswith("no tokenizer.model")


def test_people_read_the_same(run):
    code, out, _ = run("-m", TINY, "-c", 512)
    described = json.loads(run("-m", TINY, "-c", 512, "--json")[1])
    assert code == 0
    assert f"parameters    {described['parameters']['total']:,}" in out
    assert "chat format    Llama3" in out
    assert "1 sequence of 512 tokens; free now:" in out
    for name, each in described["configuration"].items():
        assert any(line.startswith(name) and line.endswith(each["source"]) for line in out.splitlines())


def test_a_damaged_file_is_named(run, tmp_path):
    folder = write_meta(tmp_path / "model", n_shards=2)
    (folder / "consolidated.01.pth").write_text("<html>sign in</html>")
    code, out, err = run(folder)
    assert (code, out) == (3, "")
    assert "consolidated.01.pth is a web page" in err


def test_no_torch():
    script = f"import sys; from llama_cli.cli.app import main; code = main(['info', {str(TINY)!r}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; sys.exit(code or 'torch' in sys.modules)"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_padding_is_told_and_not_taken_for_a_fault(run, tmp_path):
    shutil.copytree(TINY, tmp_path / "padded")
    path = tmp_path / "padded/consolidated.00.pth"
    weights = torch.load(path, weights_only=True)
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = torch.cat([weights[name], torch.zeros(64, weights[name].shape[1]).bfloat16()])
    torch.save(weights, path)
    _, out, _ = run(tmp_path / "padded")
    n_columns = weights["norm.weight"].numel()
    assert f"padding       {2 * 64 * n_columns:,}, left out" in out
    assert "not what was expected" not in out


@pytest.mark.parametrize(("name", "n_shards"), [("7B", 1), ("renamed", 2), ("llama-30b", 4)])
def test_llama_1_by_its_files(name, n_shards, run, tmp_path):
    sizes = {1: (4096, 32, 32), 2: (5120, 40, 40), 4: (6656, 60, 52)}[n_shards]
    params = dict(
        zip(("dim", "n_layers", "n_heads"), sizes, strict=True), norm_eps=1e-6, multiple_of=256, vocab_size=-1
    )
    folder = tmp_path / name
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(params))
    vocab_size = write_sentencepiece(tmp_path / "tokenizer.model")
    write_sparse_model(folder, read_params(params, vocab_size=32000), n_shards)
    code, out, _ = run(folder, "--json")
    described = json.loads(out)
    assert (code, described["family"], described["context"]) == (0, "LLaMA 1", 2048)
    assert described["tokenizer"]["n_words"] in (vocab_size, None)
