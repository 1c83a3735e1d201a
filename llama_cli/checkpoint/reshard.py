"""Any number of shards to any slice of a tensor. Which dimension they were split on falls out of the shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .row_blocks import ComputedMatrix

Shape = tuple[int, ...]


class Slice(NamedTuple):
    """Part [begin, end) along a dimension."""

    dim: int
    begin: int
    end: int


# Which part of a named tensor of a whole shape is wanted; None for all of it. Rows of wq, wk and wv must be
# whole heads: within a head, Hugging Face's files have another order of rows.
Part = Callable[[str, Shape], Slice | None]


def split_dimension(whole: Shape, part: Shape, n_shards: int) -> int | None:
    """The dimension on which `n_shards` parts make up the whole; None where every shard has all of it.

    Families split the embedding differently (Llama 2 on dim, Llama 3 on vocabulary), so no table says it.
    ValueError if the shapes do not fit.
    """
    if whole == part and (n_shards == 1 or len(whole) == 1):
        return None  # norms are on every shard
    if len(whole) == len(part):
        differing = [dim for dim in range(len(whole)) if whole[dim] != part[dim]]
        if len(differing) == 1 and part[differing[0]] * n_shards == whole[differing[0]]:
            return differing[0]
    raise ValueError(f"{n_shards} parts of {part} do not make {whole}")


def read_slice(shards: Sequence[Tensor | ComputedMatrix], shape: Shape, dim: int, begin: int, end: int) -> Tensor:
    """Part [begin, end) along `dim` of the tensor of `shape` stored as `shards`.

    Touches no more of the shards than that. What one shard holds in one run is returned as it lies there,
    still mapped from its file; the rest is copied.

        shards     |---0---|---1---|---2---|---3---|
        wanted           [=======)                     the end of 0, the beginning of 1
    """
    assert 0 <= begin < end <= shape[dim], f"part [{begin}, {end}) of {shape} along {dim}"
    source = split_dimension(shape, tuple(shards[0].shape), len(shards))
    if source is None:
        parts = [shards[0].narrow(dim, begin, end - begin)]
    elif source != dim:
        parts = [shard.narrow(dim, begin, end - begin) for shard in shards]
    else:
        each = shape[dim] // len(shards)
        parts = [
            shards[number].narrow(dim, first, last - first)
            for number in range(begin // each, (end - 1) // each + 1)
            for first, last in [(max(begin - number * each, 0), min(end - number * each, each))]
        ]
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, source or 0)
