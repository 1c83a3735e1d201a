"""Any number of shards to whole tensors. Which dimension a tensor was split on falls out of its shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Shape = tuple[int, ...]


def split_dimension(whole: Shape, part: Shape, n_shards: int) -> int | None:
    """The dimension on which `n_shards` parts make up the whole; None where every shard has all of it.

    Families split the embedding differently (Llama 2 on dim, Llama 3 on vocabulary), so no table says it.
    ValueError if the shapes do not fit.
    """
    if len(whole) == len(part):
        if n_shards == 1 and whole == part:
            return None
        if len(whole) == 1 and whole == part:
            return None  # norms are on every shard
        differing = [dim for dim in range(len(whole)) if whole[dim] != part[dim]]
        if len(differing) == 1 and part[differing[0]] * n_shards == whole[differing[0]]:
            return differing[0]
    raise ValueError(f"{n_shards} parts of {part} do not make {whole}")


def merge(parts: Sequence[Tensor], shape: Shape) -> Tensor:
    """The whole tensor of `shape`; a single part is returned as it is, still mapped from its file."""
    dim = split_dimension(shape, tuple(parts[0].shape), len(parts))
    return parts[0] if dim is None else torch.cat(list(parts), dim)
