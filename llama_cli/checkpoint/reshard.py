"""Any number of shards to any slice of a tensor. Which dimension they were split on falls out of the shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from .stored.row_blocks import ComputedMatrix

Shape = tuple[int, ...]


class Slice(NamedTuple):
    """Part [begin, end) along a dimension."""

    dim: int
    begin: int
    end: int


# Which part of a named tensor of a whole shape is wanted; None for all of it. Rows of wq, wk and wv must be
# whole heads: within a head, Hugging Face's files have another order of rows.
Part = Callable[[str, Shape], Slice | None]


def split_dimension(whole: Shape, parts: Sequence[Shape]) -> int | None:
    """The dimension on which parts of these shapes make up the whole; None where every one has all of it.

    Families split the embedding differently (Llama 2 on dim, Llama 3 on vocabulary), so no table says it, and
    some programs leave one part larger than the others. ValueError if the shapes do not fit.
    """
    if all(part == whole for part in parts) and (len(parts) == 1 or len(whole) == 1):
        return None  # norms are on every shard
    for dim in range(len(whole)) if all(len(part) == len(whole) for part in parts) else ():
        others = [part[:dim] + part[dim + 1 :] for part in parts]
        if any(other != whole[:dim] + whole[dim + 1 :] for other in others):
            continue
        sizes = [part[dim] for part in parts]
        if sum(sizes) == whole[dim] and all(sizes):
            return dim
    raise ValueError(f"parts of {', '.join(map(str, parts))} do not make {whole}")


def read_slice(shards: Sequence[Tensor | ComputedMatrix], shape: Shape, dim: int, begin: int, end: int) -> Tensor:
    """Part [begin, end) along `dim` of the tensor of `shape` stored as `shards`.

    Touches no more of the shards than that. What one shard holds in one run is returned as it lies there,
    still mapped from its file; the rest is copied.

        shards     |---0---|---1---|---2---|---3---|
        wanted           [=======)                     the end of 0, the beginning of 1
    """
    assert 0 <= begin < end <= shape[dim], f"part [{begin}, {end}) of {shape} along {dim}"
    source = split_dimension(shape, [tuple(shard.shape) for shard in shards])
    if source is None:
        parts = [shards[0].narrow(dim, begin, end - begin)]
    elif source != dim:
        parts = [shard.narrow(dim, begin, end - begin) for shard in shards]
    else:
        ends = list(accumulate(shard.shape[dim] for shard in shards))
        starts = [0, *ends[:-1]]
        parts = [
            shard.narrow(dim, max(begin, start) - start, min(end, stop) - max(begin, start))
            for shard, start, stop in zip(shards, starts, ends, strict=True)
            if begin < stop and start < end
        ]
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, source or 0)
