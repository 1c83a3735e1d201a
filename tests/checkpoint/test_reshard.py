"""Any number of shards gives any slice, and reads no more than that."""

import itertools
import random

import pytest
import torch
from helpers.folders import ARGS, assert_same, checked, random_weights, split_dim, write_hf, write_meta

from llama_cli.checkpoint.reshard import Slice, read_slice, split_dimension
from llama_cli.model.weights import weight_shapes

COUNTS = [1, 2, 3, 4, 8]
SHAPE = (48, 24)
WHOLE = torch.arange(48 * 24).reshape(SHAPE)


@pytest.mark.parametrize(("source", "target"), list(itertools.product([0, 1], [0, 1])))
@pytest.mark.parametrize("n_shards", COUNTS)
def test_every_rank_of_any_count_gets_its_part(n_shards, source, target):
    shards = [part.clone() for part in WHOLE.chunk(n_shards, source)]
    for n_ranks in COUNTS:
        each = SHAPE[target] // n_ranks
        for rank in range(n_ranks):
            found = read_slice(shards, SHAPE, target, rank * each, (rank + 1) * each)
            assert torch.equal(found, WHOLE.narrow(target, rank * each, each))
            assert found.is_contiguous()


@pytest.mark.parametrize("seed", range(20))
def test_any_part(seed):
    chance = random.Random(seed)
    for _ in range(20):
        source, target = chance.randrange(2), chance.randrange(2)
        shards = [part.clone() for part in WHOLE.chunk(chance.choice(COUNTS), source)]
        begin = chance.randrange(SHAPE[target])
        end = chance.randint(begin + 1, SHAPE[target])
        found = read_slice(shards, SHAPE, target, begin, end)
        assert torch.equal(found, WHOLE.narrow(target, begin, end - begin))


@pytest.mark.parametrize("n_shards", COUNTS)
def test_replicated_norms_come_from_shard_0(n_shards):
    shards = [torch.full((8,), float(rank)) for rank in range(n_shards)]
    assert read_slice(shards, (8,), 0, 2, 5).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("n_shards", COUNTS)
def test_what_one_shard_holds_in_one_run_is_not_copied(n_shards):
    shards = [part.clone() for part in WHOLE.chunk(n_shards)]
    each = SHAPE[0] // n_shards
    for rank in range(n_shards):
        found = read_slice(shards, SHAPE, 0, rank * each, (rank + 1) * each)
        assert found.data_ptr() == shards[rank].data_ptr()


@pytest.mark.parametrize(("source", "wanted"), [(0, (5, 7)), (0, (11, 13)), (1, (5, 7))])
def test_other_shards_are_not_touched(source, wanted):
    """A shard without data stands for pages that must not be read: touching it would raise."""
    shards = [part.clone() for part in WHOLE.chunk(4, source)]
    begin, end = wanted
    needed = range(4) if source == 1 else range(begin // 12, (end - 1) // 12 + 1)
    absent = [shard if rank in needed else shard.to("meta") for rank, shard in enumerate(shards)]
    assert torch.equal(read_slice(absent, SHAPE, 0, begin, end), WHOLE[begin:end])


@pytest.mark.parametrize(
    ("whole", "part", "n_shards", "dim"),
    [
        ((8, 4), (8, 4), 1, None),
        ((8,), (8,), 4, None),
        ((8, 4), (2, 4), 4, 0),
        ((8, 4), (8, 1), 4, 1),
        ((8, 8), (4, 8), 2, 0),
        ((9, 3), (3, 3), 3, 0),
    ],
)
def test_split_dimension(whole, part, n_shards, dim):
    assert split_dimension(whole, [part] * n_shards) == dim


@pytest.mark.parametrize(
    ("whole", "part", "n_shards"),
    [
        ((8, 4), (8, 4), 2),
        ((8, 4), (4, 2), 2),
        ((8, 4), (4, 4), 4),
        ((8, 4), (16, 4), 2),
        ((8, 4), (8,), 1),
        ((8, 4), (), 1),
        ((8, 4), (0, 4), 2),
        ((8, 4), (4, 8), 1),
    ],
)
def test_shapes_that_do_not_fit(whole, part, n_shards):
    with pytest.raises(ValueError, match="do not make"):
        split_dimension(whole, [part] * n_shards)


@pytest.mark.parametrize("n_ranks", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "write", [write_meta, lambda folder: write_meta(folder, n_shards=4), write_hf], ids=["one", "four", "HF"]
)
def test_ranks_together_have_the_whole(write, n_ranks, tmp_path):
    """The slices that tensor parallelism asks for, put together again."""
    checkpoint, args = checked(write(tmp_path))

    def part_of(rank):
        def part(name, shape):
            dim = split_dim(name)
            if dim is None:
                return None
            each = shape[dim] // n_ranks
            return Slice(dim, rank * each, (rank + 1) * each)

        return part

    ranks = [dict(checkpoint.tensors(args, part_of(rank))) for rank in range(n_ranks)]
    together = {
        name: ranks[0][name] if split_dim(name) is None else torch.cat([rank[name] for rank in ranks], split_dim(name))
        for name in weight_shapes(ARGS)
    }
    assert_same(together, random_weights())


def test_parts_may_be_uneven():
    """49,953 rows as 24,976 and 24,977."""
    weight = torch.arange(35.0).view(7, 5)
    parts = [weight[:3].clone(), weight[3:].clone()]
    assert split_dimension((7, 5), [(3, 5), (4, 5)]) == 0
    for begin, end in ((0, 7), (2, 4), (3, 7), (0, 3), (6, 7)):
        assert torch.equal(read_slice(parts, (7, 5), 0, begin, end), weight[begin:end])
    assert torch.equal(read_slice(parts, (7, 5), 1, 1, 4), weight[:, 1:4])
    with pytest.raises(ValueError, match="do not make"):
        split_dimension((7, 5), [(7, 5), (0, 5)])
