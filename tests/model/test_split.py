"""Which part of every weight a rank has; what real ranks compute is in test_ranks.py."""

import math

import pytest
import torch
from helpers.folders import random_weights

from llama_cli.backends.offers import ABLE, Wanted, choose_offer
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.reshard import read_slice
from llama_cli.memory import Stored, can_split, plan_memory, possible_ranks
from llama_cli.model.args import ModelArgs
from llama_cli.model.llama import Llama
from llama_cli.model.split import Share, bounds_of, shared_args, vocabulary_of

PARAMS = {"dim": 48, "n_layers": 2, "n_heads": 12, "n_kv_heads": 3, "vocab_size": 58, "multiple_of": 12}
ARGS = read_params(PARAMS)


def part(name, weight, share, args=ARGS):
    bounds = bounds_of(args, share, name, tuple(weight.shape))
    return weight if bounds is None else read_slice([weight], tuple(weight.shape), *bounds)


def test_which_numbers_of_ranks_there_are():
    assert possible_ranks(ARGS) == [1, 3, 6, 12]
    assert possible_ranks(ModelArgs()) == [1, 2, 4, 8, 16, 32]
    assert not can_split(read_params(PARAMS | {"vocab_size": 5}), 6)  # a rank would have no id


@pytest.mark.parametrize("size", [1, 3, 6, 12])
def test_parts_have_the_shapes_of_the_model_of_a_rank(size):
    weights = random_weights(ARGS)
    for rank in range(size):
        args = shared_args(ARGS, Share(rank, size))
        with torch.device("meta"):
            expected = {name: tuple(weight.shape) for name, weight in Llama(args).named_parameters()}
        assert {name: tuple(part(name, w, Share(rank, size)).shape) for name, w in weights.items()} == expected


@pytest.mark.parametrize("size", [1, 3])
def test_parts_make_the_whole(size):
    for name, weight in random_weights(ARGS).items():
        bounds = bounds_of(ARGS, Share(0, size), name, tuple(weight.shape))
        parts = [part(name, weight, Share(rank, size)) for rank in range(size)]
        assert torch.equal(parts[0] if bounds is None else torch.cat(parts, bounds.dim), weight), name


@pytest.mark.parametrize(("size", "heads"), [(6, [0, 0, 1, 1, 2, 2]), (12, [0] * 4 + [1] * 4 + [2] * 4)])
def test_key_heads_repeat_where_ranks_outnumber_them(size, heads):
    """Consecutively: Meta's own resharder repeats all of them one after the other, which is wrong from one shard."""
    name = "layers.0.attention.wk.weight"
    weight = random_weights(ARGS)[name]
    each = weight.split(ARGS.head_dim)
    for rank, head in enumerate(heads):
        assert torch.equal(part(name, weight, Share(rank, size)), each[head])


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_the_last_rank_may_have_fewer_ids(size):
    rows = [vocabulary_of(ARGS, Share(rank, size)) for rank in range(size)]
    assert [row for bounds in rows for row in range(bounds.begin, bounds.end)] == list(range(58))
    assert max(bounds.end - bounds.begin for bounds in rows) == math.ceil(58 / size)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [1, 3, 6])
def test_the_memory_plan_counts_what_the_fullest_rank_has(size, tied):
    weights = random_weights(ARGS)
    n_bytes = sum(
        part(name, weight, Share(0, size)).numel() * 2 for name, weight in weights.items() if name != "output.weight"
    )
    n_bytes += 0 if tied else part("output.weight", weights["output.weight"], Share(0, size)).numel() * 2
    offer = choose_offer(Wanted("bfloat16", "cpu"), ABLE)
    stored = Stored(2, is_tied=tied, is_copied=True)
    assert plan_memory(ARGS, offer, stored, n_slots=1, n_ranks=size).weights == n_bytes
