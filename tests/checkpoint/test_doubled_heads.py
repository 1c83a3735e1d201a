"""Files that hold every key/value head twice, as Meta's sixteen shards of the 405B do, run with each of them once."""

import json
import shutil

import pytest
import torch
from helpers.folders import checked, refusal, shards_of, write_params
from helpers.models import DATA, golden, load_model
from helpers.progress import Silent

import llama_cli
from llama_cli import Sampling
from llama_cli.checkpoint.headers import read_headers
from llama_cli.checkpoint.stored import doubled_heads
from llama_cli.checkpoint.verify import Verification
from llama_cli.cli.app import main
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.source import open_folder
from llama_cli.model.split import Share, bounds_of
from llama_cli.model.weights import weight_shapes

SINGLE = DATA / "tiny/gqa"
PARAMS = json.loads((SINGLE / "params.json").read_text())
WEIGHTS = torch.load(SINGLE / "consolidated.00.pth", weights_only=True)
HEAD_DIM = PARAMS["dim"] // PARAMS["n_heads"]
TWICE = 2 * PARAMS["n_kv_heads"]
GREEDY = Sampling(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(autouse=True)
def _a_small_405b(monkeypatch):
    shape = (PARAMS["dim"], PARAMS["n_layers"], PARAMS["n_heads"], TWICE)
    monkeypatch.setattr(doubled_heads, "DOUBLED_SHAPES", (shape,))
    monkeypatch.setattr("os.fsync", lambda handle: None)


def doubled(folder, n_shards=4, **changes):
    """The model in so many shards, as Meta's own resharder leaves it."""
    weights = dict(WEIGHTS)
    for name in [name for name in weights if name.endswith(("wk.weight", "wv.weight"))]:
        heads = weights[name].view(-1, HEAD_DIM, PARAMS["dim"])
        weights[name] = heads.repeat_interleave(2, 0).reshape(-1, PARAMS["dim"]).clone()
    for name, change in changes.items():
        change(weights[name.replace("__", ".")])
    write_params(folder, PARAMS | {"n_kv_heads": TWICE})
    shutil.copy(SINGLE / "tokenizer.model", folder)
    for rank, shard in enumerate([weights] if n_shards == 1 else shards_of(weights, n_shards)):
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    return folder


@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_the_model_is_the_one_with_each_head_once(n_shards, tmp_path):
    checkpoint, args = checked(doubled(tmp_path / "model", n_shards))
    assert args.n_kv_heads == PARAMS["n_kv_heads"]
    for name, tensor in checkpoint.tensors(args):
        assert torch.equal(tensor, WEIGHTS[name]), name


def test_the_same_ids_with_half_the_cache(tmp_path, monkeypatch):
    folder = doubled(tmp_path / "model")
    once = llama_cli.load(folder)
    monkeypatch.setattr(doubled_heads, "DOUBLED_SHAPES", ())
    twice = llama_cli.load(folder)
    one, two = (each.engine.runner.cache for each in (once, twice))
    assert 2 * one.n_bytes == two.n_bytes
    for case in [each for each in golden(SINGLE)["prompts"].values() if "logit_positions" not in each][:3]:
        (one,), (two,) = (each.complete([case["ids"]], GREEDY) for each in (once, twice))
        assert one.token_ids == two.token_ids


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_ranks_read_their_heads(size, tmp_path):
    checkpoint, args = checked(doubled(tmp_path / "model"))
    for rank in range(size):
        for name in ("layers.1.attention.wk.weight", "layers.1.attention.wv.weight"):
            shape = weight_shapes(args)[name]
            bounds = bounds_of(args, Share(rank, size), name, shape)
            found = checkpoint.read(name, shape, bounds, head_dim=args.head_dim)
            assert torch.equal(found, WEIGHTS[name][bounds.begin : bounds.end])


def spoil(weight):
    weight[-1, 3] += 1


def test_heads_that_differ_are_all_kept(tmp_path):
    """A model of that shape that was trained on: nothing says that its heads are copies."""
    checkpoint, args = checked(doubled(tmp_path / "model", layers__0__attention__wk__weight=spoil))
    assert args.n_kv_heads == TWICE
    assert len(dict(checkpoint.tensors(args))["layers.0.attention.wk.weight"]) == TWICE * HEAD_DIM


@pytest.mark.parametrize("name", ["layers.1.attention.wk.weight", "layers.0.attention.wv.weight"])
def test_nothing_is_dropped_that_is_no_copy(name, tmp_path):
    folder = doubled(tmp_path / "model", **{name.replace(".", "__"): spoil})
    for action in (load_model, lambda place: convert(open_folder(place), tmp_path / "there", Target(), Silent())):
        message = refusal(folder, action).message
        assert f"{name}: stored heads {TWICE - 2} and {TWICE - 1} differ" in message


@pytest.mark.parametrize("form", ["pth", "safetensors", "hf"])
def test_convert_writes_each_head_once(form, tmp_path):
    convert(open_folder(doubled(tmp_path / "model")), tmp_path / "there", Target(form), Silent())
    if form != "hf":
        assert json.loads((tmp_path / "there/params.json").read_text()) == PARAMS
    checkpoint, args = checked(tmp_path / "there")
    assert args.n_kv_heads == PARAMS["n_kv_heads"]
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in checkpoint.tensors(args))


def test_info_and_verify(tmp_path, capfd):
    folder = doubled(tmp_path / "model")
    headers = read_headers(folder)
    assert headers.configuration().args.n_kv_heads == PARAMS["n_kv_heads"]
    assert main(["info", "--json", str(folder)]) == 0
    described = json.loads(capfd.readouterr().out)
    assert described["stored_parameters"] == described["parameters"]["total"]
    verification = Verification(folder)
    verification.check_headers()
    verification.read_everything(lambda n: None)
    assert verification.is_sound, verification.findings


@pytest.mark.parametrize("params", [{"dim": []}, {"n_kv_heads": None}, {"n_layers": {}}])
def test_settings_of_other_kinds(params, tmp_path):
    folder = doubled(tmp_path / "model")
    write_params(folder, PARAMS | {"n_kv_heads": TWICE} | params)
    refusal(folder, needs_hint=False)


def test_a_shard_without_keys(tmp_path):
    folder = doubled(tmp_path / "model")
    shard = torch.load(folder / "consolidated.01.pth", weights_only=True)
    del shard["layers.0.attention.wk.weight"]
    torch.save(shard, folder / "consolidated.01.pth")
    assert "missing: 'layers.0.attention.wk.weight'" in refusal(folder).message


def test_only_the_shape_of_the_405b():
    assert doubled_heads.SHAPE_KEYS == ("dim", "n_layers", "n_heads", "n_kv_heads")
    assert doubled_heads.once(PARAMS | {"n_kv_heads": PARAMS["n_heads"]}) is None
