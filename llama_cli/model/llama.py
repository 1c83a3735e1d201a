"""The Llama transformer, with the module and parameter names of Meta's model.py.

It runs a flat batch: the tokens of all rows one after the other, so that rows of any length share every
matrix product. Only attention looks at rows.

Shapes: N tokens in the batch, R rows, D head_dim, H query heads, K key/value heads, S cached positions.
H and K are read off the weights, so the same code runs on a slice of the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .args import ModelArgs
from .cache import Cache
from .rope import rope_table, rotate, split_last


class Row(NamedTuple):
    """Part of one sequence: tokens at positions [start, start + length) of a cache slot."""

    slot: int
    start: int
    length: int


@dataclass(frozen=True)
class Batch:
    """What one step computes. All index tensors are int64."""

    tokens: Tensor  # (N,)
    positions: Tensor  # (N,)
    slots: Tensor  # (N,)
    rows: tuple[Row, ...]
    outputs: Tensor  # (M,): indices into N of the tokens whose logits are wanted

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        tokens: Sequence[int],
        outputs: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Lay out `rows`, whose `tokens` follow each other, asking for the logits at `outputs`."""
        positions = [position for row in rows for position in range(row.start, row.start + row.length)]
        slots = [row.slot for row in rows for _ in range(row.length)]
        as_index = [torch.tensor(ids, dtype=torch.int64) for ids in (tokens, positions, slots, outputs)]
        flat, where, which, wanted = (index.to(device) for index in as_index)
        return cls(flat, where, which, tuple(rows), wanted)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight; the mean in float32, rounded before the weight as Meta does."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.type_as(x) * self.weight


def causal_mask(row: Row, device: torch.device) -> Tensor | None:
    """Which keys each query of a row may see, (length, start + length); None where all of them.

    start = 2, length = 3:    key 0 1 2 3 4
                     query 2:     x x x . .
                     query 3:     x x x x .
                     query 4:     x x x x x
    """
    if row.length == 1:
        return None
    queries = torch.arange(row.start, row.start + row.length, device=device)
    keys = torch.arange(row.start + row.length, device=device)
    return keys <= queries[:, None]


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one row: q (T, H, D) over keys and values (K, S, D) -> (T, H, D).

    One query needs no mask, so the query heads that share a key head become query rows of it:
    nothing is repeated. Several queries go through the kernel's own grouping.
    """
    length, n_heads, head_dim = q.shape
    if length == 1:
        folded = q.view(1, keys.shape[0], -1, head_dim)  # (1, K, H / K, D)
        mixed = F.scaled_dot_product_attention(folded, keys[None], values[None])
        return mixed.view(1, n_heads, head_dim)
    mixed = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
    )
    return mixed[0].transpose(0, 1)


class Attention(nn.Module):
    """Grouped-query attention over the cache."""

    def __init__(self, args: ModelArgs, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = args.head_dim
        q_dim, kv_dim = args.n_heads * args.head_dim, args.n_kv_heads * args.head_dim
        self.wq = nn.Linear(args.dim, q_dim, bias=False)
        self.wk = nn.Linear(args.dim, kv_dim, bias=False)
        self.wv = nn.Linear(args.dim, kv_dim, bias=False)
        self.wo = nn.Linear(q_dim, args.dim, bias=False)

    def forward(self, x: Tensor, batch: Batch, cache: Cache, turns: Tensor, masks: list[Tensor | None]) -> Tensor:
        q = rotate(split_last(self.wq(x), self.head_dim), turns)  # (N, H, D)
        k = rotate(split_last(self.wk(x), self.head_dim), turns)  # (N, K, D)
        v = split_last(self.wv(x), self.head_dim)  # (N, K, D)
        cache.write(self.layer, batch.slots, batch.positions, k, v)
        keys, values = cache.keys[self.layer], cache.values[self.layer]
        mixed = []
        first = 0
        for row, mask in zip(batch.rows, masks, strict=True):
            end = row.start + row.length
            of_row = q[first : first + row.length]
            mixed.append(attend(of_row, keys[row.slot, :, :end], values[row.slot, :, :end], mask))
            first += row.length
        together = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        out: Tensor = self.wo(together.flatten(1))
        return out


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) · w3 x)."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.w1 = nn.Linear(args.dim, args.ffn_dim, bias=False)
        self.w2 = nn.Linear(args.ffn_dim, args.dim, bias=False)
        self.w3 = nn.Linear(args.dim, args.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class TransformerBlock(nn.Module):
    """One layer: attention, then feed-forward, each behind a norm and added to its input."""

    def __init__(self, args: ModelArgs, layer: int) -> None:
        super().__init__()
        self.attention = Attention(args, layer)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, args.norm_eps)

    def forward(self, x: Tensor, batch: Batch, cache: Cache, turns: Tensor, masks: list[Tensor | None]) -> Tensor:
        x = x + self.attention(self.attention_norm(x), batch, cache, turns, masks)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class Llama(nn.Module):
    """The whole model: a Batch in, float32 logits (M, vocab_size) out."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.tok_embeddings = nn.Embedding(args.vocab_size, args.dim)
        self.layers = nn.ModuleList(TransformerBlock(args, layer) for layer in range(args.n_layers))
        self.norm = RMSNorm(args.dim, args.norm_eps)
        self.output = nn.Linear(args.dim, args.vocab_size, bias=False)
        self.rope: Tensor = torch.empty(0)  # (positions, D / 2), made by prepare_rope

    def prepare_rope(self, length: int) -> None:
        """Make the rotation table for positions [0, length), on the device of the weights."""
        self.rope = rope_table(self.args, length, self.tok_embeddings.weight.device)

    def forward(self, batch: Batch, cache: Cache) -> Tensor:
        x: Tensor = self.tok_embeddings(batch.tokens)  # (N, dim)
        turns = self.rope[batch.positions][:, None]  # (N, 1, D / 2)
        masks = [causal_mask(row, x.device) for row in batch.rows]
        for layer in self.layers:
            x = layer(x, batch, cache, turns, masks)
        wanted = self.norm(x[batch.outputs])  # (M, dim)
        logits: Tensor = self.output(wanted)  # (M, vocab_size)
        return logits.float()
