"""What fits: arithmetic against the sizes of known models."""

import json

import pytest
from support import DATA

from llama_cli import memory
from llama_cli.errors import DoesNotFit
from llama_cli.memory import PRECISIONS, can_split, choose_context, format_bytes, free_memory, plan_memory
from llama_cli.model import recipe
from llama_cli.model.args import ModelArgs, read_params

GIB = 2**30
EIGHT_B = plan_memory(ModelArgs(), n_slots=1, itemsize=2, tied=False)


def test_llama_3_8b_in_bfloat16():
    assert EIGHT_B.weights == pytest.approx(14.96 * GIB, rel=1e-3)
    assert EIGHT_B.per_token == 128 * 1024


@pytest.mark.parametrize(
    "case", json.loads((DATA / "params_family.json").read_text())["models"], ids=lambda c: c["model"]
)
def test_the_largest_context_is_the_largest(case):
    args = read_params(case["params"])
    plan = plan_memory(args, n_slots=4, itemsize=2, tied=False)
    available = plan.total(1000)
    assert abs(plan.largest_context(available) - 1000) <= 1


@pytest.mark.promise("P16")
@pytest.mark.parametrize("available", [0, 1 * GIB, 8 * GIB, 16 * GIB])
def test_too_little_for_the_weights(available):
    with pytest.raises(DoesNotFit, match=r"needs 16\.5 GiB \(15\.0 GiB of weights") as caught:
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
    assert 0 < choose_context(EIGHT_B, 17 * GIB, asked=None, trained=8192) < 8192


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
    alone, shared = (
        plan_memory(ModelArgs(), n_slots=2, **PRECISIONS[precision]._asdict(), tied=False, n_ranks=n)
        for n in (1, n_ranks)
    )
    assert shared.per_token * n_ranks == alone.per_token
    assert alone.weights <= shared.weights * n_ranks <= alone.weights * 1.001  # norms are on every rank


def test_more_ranks_than_heads_repeat_them():
    two_heads = ModelArgs(n_kv_heads=2)
    plans = [plan_memory(two_heads, n_slots=1, itemsize=2, tied=False, n_ranks=n) for n in (2, 8)]
    assert plans[0].per_token == plans[1].per_token


def test_quantised_weights_are_smaller():
    weights = [
        plan_memory(ModelArgs(), n_slots=1, **PRECISIONS[name]._asdict(), tied=False).weights
        for name in ("fp32", "bf16", "int8", "int4")
    ]
    assert weights == sorted(weights, reverse=True)
    assert PRECISIONS["int8"].linear_bytes == recipe.INT8_BYTES
    assert PRECISIONS["int4"].linear_bytes == recipe.INT4_BYTES


@pytest.mark.parametrize(("n_ranks", "possible"), [(1, True), (8, True), (16, True), (3, False), (64, False)])
def test_which_ranks_can_split_a_model(n_ranks, possible):
    assert can_split(ModelArgs(), n_ranks) == possible
