"""What fits: arithmetic against the sizes of known models."""

import base64
import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from helpers.folders import checked, random_weights, shards_of
from helpers.models import DATA
from helpers.progress import Silent

from llama_cli import memory
from llama_cli.backends.backend import machine_of
from llama_cli.backends.offers import ABLE, Wanted, choose_offer
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.plan import plan_model, what_is_wanted
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.source import open_folder
from llama_cli.errors import DoesNotFit
from llama_cli.memory import Stored, can_split, choose_context, format_bytes, free_memory, plan_memory
from llama_cli.model.args import ModelArgs

GIB = 2**30
PRECISIONS = {
    "fp32": ("float32", None),
    "bf16": ("bfloat16", None),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
UNTIED = Stored(2, is_tied=False, is_copied=False)


def plan_of(args, precision="bf16", stored=UNTIED, *, device="cuda", n_slots=1, n_ranks=1):
    dtype, quantize = PRECISIONS[precision]
    offer = choose_offer(Wanted(dtype, device, quantize), ABLE)
    return plan_memory(args, offer, stored, n_slots=n_slots, n_ranks=n_ranks)


EIGHT_B = plan_of(ModelArgs())


def test_llama_3_8b_in_bfloat16():
    assert EIGHT_B.weights == pytest.approx(14.96 * GIB, rel=1e-3)
    assert EIGHT_B.per_token == 128 * 1024


@pytest.mark.parametrize(
    "case", json.loads((DATA / "params_family.json").read_text())["models"], ids=lambda c: c["model"]
)
def test_the_largest_context_is_the_largest(case):
    args = read_params(case["params"])
    plan = plan_of(args, n_slots=4)
    available = plan.total(8000)
    assert abs(plan.largest_context(available) - 8000) <= 1


@pytest.mark.promise("P16")
@pytest.mark.parametrize("available", [0, 1 * GIB, 8 * GIB, 15 * GIB])
def test_too_little_for_the_weights(available):
    with pytest.raises(DoesNotFit, match=r"needs 15\.9 GiB \(15\.0 GiB of weights") as caught:
        choose_context(EIGHT_B, available, asked=None, trained=8192)
    assert caught.value.exit_code == 4


def test_a_context_that_does_not_fit_names_one_that_does():
    with pytest.raises(DoesNotFit) as caught:
        choose_context(EIGHT_B, 20 * GIB, asked=131072, trained=8192)
    largest = int(caught.value.hint.split()[1])
    assert choose_context(EIGHT_B, 20 * GIB, asked=largest, trained=8192) == largest
    with pytest.raises(DoesNotFit):
        choose_context(EIGHT_B, 20 * GIB, asked=largest + 2, trained=8192)


def test_the_trained_context_is_cut_to_what_fits():
    assert choose_context(EIGHT_B, 64 * GIB, asked=None, trained=8192) == 8192
    assert 0 < choose_context(EIGHT_B, int(16.3 * GIB), asked=None, trained=8192) < 8192


def test_a_cgroup_limits_what_is_free(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert free_memory() == 600000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 600000


@pytest.mark.parametrize(("n", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (16 * GIB, "16.0 GiB")])
def test_format_bytes(n, text):
    assert format_bytes(n) == text


@pytest.mark.parametrize("n_ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_ranks_share_the_weights_and_the_cache(precision, n_ranks):
    alone, shared = (plan_of(ModelArgs(), precision, n_slots=2, n_ranks=n) for n in (1, n_ranks))
    assert shared.per_token * n_ranks == alone.per_token
    assert alone.weights <= shared.weights * n_ranks <= alone.weights * 1.001  # norms are on every rank


def test_more_ranks_than_heads_repeat_them():
    two_heads = ModelArgs(n_kv_heads=2)
    plans = [plan_of(two_heads, n_ranks=n) for n in (2, 8)]
    assert plans[0].per_token == plans[1].per_token


def test_quantized_weights_are_smaller():
    weights = [plan_of(ModelArgs(), name).weights for name in ("fp32", "bf16", "int8", "int4")]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize(("n_ranks", "possible"), [(1, True), (8, True), (16, True), (3, False), (64, False)])
def test_which_ranks_can_split_a_model(n_ranks, possible):
    assert can_split(ModelArgs(), n_ranks) == possible


def test_a_mapped_embedding_stays_in_its_file():
    """Of an embedding that nothing copies and that is not the output matrix, only a prompt's rows are read."""
    embedding = 2 * ModelArgs().vocab_size * ModelArgs().dim

    def plan(precision="bf16", **stored):
        return plan_of(ModelArgs(), precision, Stored(2, **stored), device="cpu")

    assert plan(is_tied=False, is_copied=False).unread == embedding
    assert plan(is_tied=True, is_copied=False).unread == 0
    assert plan("int8", is_tied=True, is_copied=False).unread == embedding
    assert plan(is_tied=False, is_copied=True).unread == 0
    assert plan(is_tied=False, is_copied=True).total(1) > plan(is_tied=False, is_copied=False).total(1) + embedding


def write_tokenizer(path, vocab_size):
    """A tokenizer of so many tokens, its 256 special ones included: bytes, then pairs of bytes."""
    tokens = [bytes([byte]) for byte in range(256)] + [bytes(pair) for pair in itertools.product(range(256), repeat=2)]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens[: vocab_size - 256])]
    path.write_bytes(b"".join(lines))


@pytest.fixture(name="folders", scope="module")
def _folders(tmp_path_factory):
    """A model of the size and shape of SmolLM2 135M, in one file, tied, and in three files."""
    params = {
        "dim": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "vocab_size": 49408, "multiple_of": 256,
        "norm_eps": 1e-5, "rope_theta": 100000.0,
    }  # fmt: skip
    args = read_params(params)
    place, weights = tmp_path_factory.mktemp("models"), random_weights(args)
    weights = {name: weight if weight.dim() == 1 else weight * 0.02 for name, weight in weights.items()}
    write_tokenizer(place / "tokenizer.model", args.vocab_size)
    tied = {name: weight for name, weight in weights.items() if name != "output.weight"}
    for name, shards in (("one", [weights]), ("tied", [tied]), ("three", shards_of(tied, 3, llama2=True))):
        (place / name).mkdir()
        (place / name / "params.json").write_text(json.dumps(params))
        for rank, shard in enumerate(shards):
            torch.save(shard, place / name / f"consolidated.{rank:02d}.pth")
    for quantization in ("int8", "int4"):
        target = Target("safetensors", quantization=quantization)
        convert(open_folder(place / "tied"), place / quantization, target, Silent())
    return place


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or torch.version.cuda is not None, reason="this torch takes more by itself")
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *itertools.product(
            ("one", "tied", "three"), ("--dtype bf16", "--quantize int8", "--quantize int4", "--dtype fp32")
        ),
        *itertools.product(("int8", "int4"), ("--quantize {}", "--kernels plain")),
    ],
)
def test_the_plan_is_what_a_process_takes(folders, name, flags):
    """A plan that forgets the pages looked at, or a copy in float32 of a matrix, is off by a fifth."""
    flags = flags.format(name)
    command = [sys.executable, "-m", "llama_cli", "complete", "-m", str(folders / name), "the" * 300]
    command += ["--json", "-n", "4", "-t", "0", "--ignore-eos", *flags.split()]
    done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    answer = json.loads(done.stdout)
    peak, n_tokens = answer["timings"]["peak_memory_bytes"], answer["usage"]["total_tokens"]
    flag, value = flags.split()
    checkpoint, args = checked(folders / name)
    options, machine = {flag.removeprefix("--"): value}, machine_of(torch.device("cpu"))
    offer = choose_offer(what_is_wanted(checkpoint.headers, machine, "cpu", **options), machine)
    plan = plan_model(checkpoint.headers, args, offer, n_slots=1)
    assert plan.total(math.ceil(n_tokens / 256) * 256) == pytest.approx(peak, rel=0.1)
    needed = plan.weights - plan.unread + plan.per_token * n_tokens
    assert peak < 1.15 * needed + (400 << 20)
