"""Tensor parallelism: which weight is split where, and what puts the parts together again.

Every rank has some of the heads, of the feed-forward columns and of the vocabulary, and runs the same modules on
them. Two sums a layer, behind wo and w2, one behind the embedding and one gather behind the output make the whole.
fairscale gives groups and collectives. Its layers are not used: they fill whole matrices on every rank.

Shapes: N tokens, M outputs, V vocabulary; E = ceil(V / ranks), the last rank may have less.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .args import ModelArgs, Shape
from .llama import Llama
from .parts import multiply
from .weights import layer_weights, spec_of


class Share(NamedTuple):
    """One of `size` parts of a model."""

    rank: int
    size: int


WHOLE = Share(0, 1)


class Bounds(NamedTuple):
    """Part [begin, end) along a dimension."""

    dim: int
    begin: int
    end: int


def shared_args(args: ModelArgs, share: Share) -> ModelArgs:
    """The shape of the model that one rank runs; memory.can_split says whether there is one."""
    rows = vocabulary_of(args, share)
    return replace(
        args,
        n_heads=args.n_heads // share.size,
        n_kv_heads=max(args.n_kv_heads // share.size, 1),
        hidden_dim=args.ffn_dim // share.size,
        head_dim_override=args.head_dim,
        vocab_size=rows.end - rows.begin,
    )


def vocabulary_of(args: ModelArgs, share: Share) -> Bounds:
    """The ids whose rows of the embedding and the output a rank has."""
    each = math.ceil(args.vocab_size / share.size)
    return Bounds(0, min(share.rank * each, args.vocab_size), min((share.rank + 1) * each, args.vocab_size))


def bounds_of(args: ModelArgs, share: Share, name: str, shape: Shape) -> Bounds | None:
    """Which part of a named weight of a whole shape a rank has; None for all of it."""
    spec = spec_of(name)
    if spec is None or spec.split is None:
        return None
    if spec.role in ("embedding", "output"):
        return vocabulary_of(args, share)
    rank, size = share
    if spec.has_kv_heads and size > args.n_kv_heads:
        # 8 ranks on 2 heads: 0 0 0 0 1 1 1 1, so that a query head stays with its own
        rank, size = rank * args.n_kv_heads // size, args.n_kv_heads
    each = shape[spec.split] // size
    return Bounds(spec.split, rank * each, (rank + 1) * each)


class Summed(nn.Module):
    """A layer of which every rank computes one term."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return _sum(self.layer(x))


class SharedEmbedding(nn.Module):
    """An embedding of which every rank has the rows of some ids; zero for the others, then the sum."""

    def __init__(self, weight: Tensor, rows: Bounds) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.first = rows.begin

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (N,) -> (N, dim)."""
        places = tokens - self.first
        known = places.clamp(0, len(self.weight) - 1)
        return _sum(F.embedding(known, self.weight).masked_fill_((places != known)[:, None], 0))


class SharedOutput(nn.Module):
    """An output layer of which every rank has the rows of some ids; every rank gets all logits."""

    def __init__(self, layer: nn.Module, vocab_size: int, padding: int) -> None:
        super().__init__()
        self.layer = layer
        self.vocab_size = vocab_size  # V
        self.padding = padding  # to E

    def forward(self, x: Tensor) -> Tensor:
        """x (M, dim) -> (M, V)."""
        from fairscale.nn.model_parallel.mappings import gather_from_model_parallel_region

        part = F.pad(multiply(self.layer, x), (0, self.padding))  # (M, E)
        gathered: Tensor = gather_from_model_parallel_region(part)
        return gathered[:, : self.vocab_size]


def parallelize(model: Llama, args: ModelArgs, share: Share) -> None:
    """Join a finished model of `shared_args` with those of the other ranks; `args` is the whole shape.

    The process groups must have been made. From then on every forward is one that all ranks do together.
    """
    rows = vocabulary_of(args, share)
    for number, layer in enumerate(model.layers):
        for spec in layer_weights(args, number):
            if spec.split == 1:
                layer.set_submodule(spec.name, Summed(layer.get_submodule(spec.name)))
    model.tok_embeddings = SharedEmbedding(model.tok_embeddings.weight, rows)  # type: ignore[assignment]
    padding = math.ceil(args.vocab_size / share.size) - (rows.end - rows.begin)
    model.output = SharedOutput(model.output, args.vocab_size, padding)  # type: ignore[assignment]


def _sum(part: Tensor) -> Tensor:
    from fairscale.nn.model_parallel.mappings import reduce_from_model_parallel_region

    total: Tensor = reduce_from_model_parallel_region(part)
    return total
