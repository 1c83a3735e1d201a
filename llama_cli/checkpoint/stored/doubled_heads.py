"""Meta's sixteen shards of Llama 3.1 405B hold every key/value head twice, side by side: one of each pair is read.

The cache is half as large then. Both copies are compared wherever one is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...model.weights import LLAMA_LAYER, spec_of
from ..unsupported import unnested

if TYPE_CHECKING:
    from torch import Tensor

    from ..pth.archive import Archive
    from ..reshard import Shape, Slice
    from .row_blocks import ComputedMatrix

SHAPE_KEYS = ("dim", "n_layers", "n_heads", "n_kv_heads")
DOUBLED_SHAPES = ((16384, 126, 128, 16),)
FIRST_KEYS = next(spec.in_layer(0) for spec in LLAMA_LAYER if spec.has_kv_heads)


def is_doubled(name: str) -> bool:
    """Whether a weight of such a model is there twice."""
    spec = spec_of(name)
    return spec is not None and spec.has_kv_heads


def once(params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the model with each head once; None for one of another shape."""
    inner = unnested(params)
    if tuple(inner.get(key) for key in SHAPE_KEYS) not in DOUBLED_SHAPES:
        return None
    changed = dict(inner) | {"n_kv_heads": inner["n_kv_heads"] // 2}
    return changed if inner is params else dict(params) | {"model": changed}


def has_copies(shards: Sequence[Archive], n_heads: int) -> bool:
    """Whether the first layer's key heads come in equal pairs; False also where they are not as they should be."""
    found = [shard.headers.get(FIRST_KEYS) for shard in shards]
    keys = [header for header in found if header is not None and len(header.shape) == 2]
    if len(keys) < len(shards) or any(header.shape != keys[0].shape for header in keys):
        return False
    n_here, n_rows = keys[0].shape[0], keys[0].shape[0] * len(shards)
    if n_rows % n_heads:
        return False
    size = n_rows // n_heads

    def head(number: int) -> list[bytes]:
        places = [divmod(row, n_here) for row in range(number * size, (number + 1) * size)]
        return [row for at, of in places for row in shards[at].file.rows(keys[at], of, of + 1)]

    return all(head(number) == head(number + 1) for number in range(0, n_heads, 2))


def read_once(
    name: str, shards: Sequence[Tensor | ComputedMatrix], shape: Shape, wanted: Slice, head_dim: int
) -> Tensor:
    """Whole heads of a matrix that has `shape` without the copies; ModelRejected where a copy differs."""
    import torch

    dim, begin, end = wanted
    assert dim == 0, "keys and values are divided by heads"
    assert begin % head_dim == end % head_dim == 0, "whole heads"
    heads = []
    for head in range(begin // head_dim, end // head_dim):
        found = _pair(shards, (2 * shape[0], shape[1]), head, head_dim)
        if found is None:
            raise ModelRejected(
                f"{name}: stored heads {2 * head} and {2 * head + 1} differ, in layer 0 such pairs are equal",
                DOWNLOAD_AGAIN,
            )
        heads.append(found)
    return torch.cat(heads)


def _pair(shards: Sequence[Tensor | ComputedMatrix], stored: Shape, head: int, head_dim: int) -> Tensor | None:
    """One of two stored heads; None if they differ."""
    import torch

    from ..reshard import read_slice

    first, second = read_slice(shards, stored, 0, 2 * head * head_dim, 2 * (head + 1) * head_dim).chunk(2)
    return first if torch.equal(first.view(torch.uint8), second.view(torch.uint8)) else None
