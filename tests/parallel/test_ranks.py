"""Real ranks, each a process: any stored split on any number of them gives what Meta's own code gave."""

import json
import shutil
from functools import cache

import pytest
import torch
from helpers.commands import Call
from helpers.folders import random_weights, shards_of
from helpers.models import DATA, golden, golden_tensors, open_model
from helpers.progress import Silent
from helpers.rank_worker import work

from llama_cli.backends.onednn_int import can_quantize
from llama_cli.checkpoint.params import read_params
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.source import open_folder
from llama_cli.errors import UsageError
from llama_cli.loader import load
from llama_cli.parallel.ranks import Place

CPU = torch.device("cpu")
BUNDLED = {
    2: ["tiny/gqa", "mp/gqa-mp2", "mp/ffnmult-mp4", "mp/kv8-mp4", "hf/scaled-v4"],
    4: ["tiny/gqa", "mp/gqa-mp2", "mp/kv8-mp4"],
}


def twin(name):
    """The folder with the goldens of a folder of the same weights."""
    return DATA / "tiny" / name.split("/")[-1].split("-")[0]


def case(folder, prompts, dtype="float32", quantize=None, n=12):
    return {"folder": str(folder), "dtype": dtype, "quantize": quantize, "prompts": prompts, "n": n}


def run_cases(n_ranks, cases, folder):
    """What rank 0 says of each case, with the logits of its prompts."""
    file = folder / f"cases{n_ranks}.json"
    file.write_text(json.dumps(cases))
    places = [Place(rank, n_ranks, rank, n_ranks, str(folder / f"store{n_ranks}")) for rank in range(n_ranks)]
    workers = [Call(folder / f"said{place.rank}", work, str(file), place) for place in places]
    outputs = [worker.wait(600) for worker in workers]
    assert not any(outputs[1:]), "rank 0 alone speaks"
    results = [json.loads(line) for line in outputs[0].splitlines()]
    assert len(results) == len(cases), "nobody else wrote to standard output"
    return [result | {"logits": torch.load(f"{file}.{i}.pt")} for i, result in enumerate(results)]


@cache
def short_prompts(folder):
    """Three of the goldens' prompts."""
    prompts = golden(folder)["prompts"].items()
    return dict([(name, each) for name, each in prompts if "logit_positions" not in each][:3])


def prompts_of(folder):
    return [each["ids"] for each in short_prompts(folder).values()]


def assert_metas(result, folder):
    expected = golden_tensors(folder)
    for (name, each), ids, logits in zip(short_prompts(folder).items(), result["ids"], result["logits"], strict=True):
        torch.testing.assert_close(logits, expected[f"{name}.prefill.f32"], atol=5e-4, rtol=0)
        wanted = each.get("greedy32_f32") or each["greedy24_f32"]
        assert ids == wanted[: len(ids)], name


def assert_counted(result, n_ranks):
    """Two sums a layer and one for the embedding, one gather of logits, one broadcast of what to do."""
    expected = {"all_reduce": 2 * result["n_layers"] + 1, "all_gather": 1, "broadcast": 1}
    assert result["per_step"] == (expected if n_ranks > 1 else dict.fromkeys(expected, 0))


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_bundled_goldens(n_ranks, tmp_path):
    """Four ranks on the two key heads of `gqa` too."""
    names = BUNDLED[n_ranks]
    results = run_cases(n_ranks, [case(DATA / name, prompts_of(twin(name))) for name in names], tmp_path)
    for name, result in zip(names, results, strict=True):
        assert_metas(result, twin(name))
        assert_counted(result, n_ranks)


@pytest.mark.skipif(not can_quantize(), reason="this processor has no kernels for few bits")
def test_quantized_folders_on_two_ranks(tmp_path):
    """Full weights give the same ids. What few bits make of inputs depends on the part that a rank sees of them."""
    folder, cases = DATA / "tiny/gqa", []
    for kind in ("int8", "int4"):
        saved = tmp_path / kind
        convert(open_folder(folder), saved, Target("safetensors", quantization=kind), Silent())
        cases += [case(saved, prompts_of(folder)), case(saved, prompts_of(folder), "float32", kind)]
    results = [run_cases(n_ranks, cases, tmp_path) for n_ranks in (1, 2)]
    for number, (alone, shared) in enumerate(zip(*results, strict=True)):
        assert alone["ids"] == shared["ids"] or cases[number]["quantize"]
        for one, two in zip(alone["logits"], shared["logits"], strict=True):
            error = (one - two).pow(2).mean().sqrt() / one.std()
            assert error < (0.05 if cases[number]["quantize"] else 1e-3), cases[number]


def test_uneven_wrapped_and_padded_files_on_two_ranks(tmp_path):
    """As other programs leave them: one shard larger, names with a beginning, rows of padding, norms in float32."""
    folder, odd = DATA / "tiny/gqa", tmp_path / "odd"
    checkpoint, args = open_model(folder)
    shards = shards_of({name: tensor.clone() for name, tensor in checkpoint.tensors(args)}, 2)
    for name in ("tok_embeddings.weight", "output.weight"):
        whole = torch.cat([*(shard[name] for shard in shards), torch.zeros(32, args.dim, dtype=torch.bfloat16)])
        shards[0][name], shards[1][name] = whole[:100].clone(), whole[100:].clone()
    odd.mkdir()
    shutil.copy(folder / "params.json", odd)
    for rank, shard in enumerate(shards):
        saved = {f"module.{name}": w.float() if w.dim() == 1 else w for name, w in shard.items()}
        torch.save({"model": saved, "epoch": 3}, odd / f"consolidated.{rank:02d}.pth")
    for n_ranks in (1, 2):
        (result,) = run_cases(n_ranks, [case(odd, prompts_of(folder))], tmp_path)
        assert_metas(result, folder)


def split(folder, n_shards, *, llama2, into):
    """The same weights in so many files."""
    checkpoint, args = open_model(folder)
    weights = {name: tensor.clone() for name, tensor in checkpoint.tensors(args)}
    into.mkdir(parents=True)
    shutil.copy(folder / "params.json", into)
    shards = [weights] if n_shards == 1 else shards_of(weights, n_shards, llama2=llama2)
    for rank, shard in enumerate(shards):
        torch.save(shard, into / f"consolidated.{rank:02d}.pth")
    return into


def write_random(params, into, n_shards=1, *, llama2=False):
    weights = random_weights(read_params(params))
    into.mkdir(parents=True)
    (into / "params.json").write_text(json.dumps(params))
    weights = {name: w if w.dim() == 1 else w / w.shape[1] ** 0.5 for name, w in weights.items()}
    for rank, shard in enumerate([weights] if n_shards == 1 else shards_of(weights, n_shards, llama2=llama2)):
        torch.save(shard, into / f"consolidated.{rank:02d}.pth")
    return into


PRECISIONS = {"float32": ("float32", None), "bfloat16": ("bfloat16", None), "int8": ("float32", "int8")}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_ranks", [1, 2, 4, 8])
def test_any_stored_split_on_any_ranks(n_ranks, tmp_path):
    """Stored in 1, 2, 4, 8 files, split as Llama 2 and as Llama 3 do, in three precisions."""
    names = [name for name in PRECISIONS if name != "int8" or can_quantize()]
    cases, kinds = [], []
    for model in ("kv8", "mha"):
        folder = DATA / "tiny" / model
        for n_shards in (1, 2, 4, 8):
            for llama2 in (False, True):
                stored = split(folder, n_shards, llama2=llama2, into=tmp_path / f"{model}{n_shards}{llama2}")
                for name in names:
                    cases.append(case(stored, prompts_of(folder), *PRECISIONS[name]))
                    kinds.append((folder, name))
    for (folder, name), result in zip(kinds, run_cases(n_ranks, cases, tmp_path), strict=True):
        assert_counted(result, n_ranks)
        if name == "float32":
            assert_metas(result, folder)
            continue
        expected = golden_tensors(folder)
        for prompt, logits in zip(short_prompts(folder), result["logits"], strict=True):
            exact = expected[f"{prompt}.prefill.f32"]
            assert (logits - exact).pow(2).mean().sqrt() < 0.1 * exact.std(), (folder.name, name, prompt)


@pytest.mark.slow
@pytest.mark.parametrize(("n_shards", "llama2"), [(1, False), (3, False), (3, True), (2, True)])
def test_three_ranks_and_a_vocabulary_that_does_not_divide(n_shards, llama2, tmp_path):
    vocab_size = 60 if n_shards > 1 else 58
    params = {"dim": 48, "n_layers": 2, "n_heads": 12, "n_kv_heads": 6, "vocab_size": vocab_size, "multiple_of": 12}
    stored = write_random(params, tmp_path / "model", n_shards, llama2=llama2)
    cases = [case(stored, [[1, 2, 3, 57], [55], list(range(40))])]
    ((alone,), (three,)) = (run_cases(n_ranks, cases, tmp_path) for n_ranks in (1, 3))
    assert three["ids"] == alone["ids"]
    for mine, theirs in zip(three["logits"], alone["logits"], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tp", [3, 5, 16])
def test_ranks_that_cannot_share_a_model_are_refused_before_any_is_started(tp, monkeypatch):
    monkeypatch.setattr("llama_cli.loader.Team", None)
    with pytest.raises(UsageError, match=f"{tp} ranks cannot share gqa") as caught:
        load(DATA / "tiny/gqa", tp=tp)
    assert caught.value.hint == "--tp may be 1, 2, 4, 8"


def test_a_place_is_what_torchrun_says(monkeypatch):
    assert Place.of({}).is_alone
    assert Place.of({"RANK": "0"}).is_alone
    place = Place.of({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert place == Place(3, 4, 1, 2)
    assert Place.of(Place(1, 2, 1, 2, "/x").variables) == Place(1, 2, 1, 2, "/x")
    with pytest.raises(UsageError, match="RANK is 'x'"):
        Place.of({"RANK": "x", "WORLD_SIZE": "2"})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="there are 4 ranks, not 2"):
        load(DATA / "tiny/gqa", tp=2)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UsageError, match="only rank 0 loads"):
        load(DATA / "tiny/gqa", tp=4)
