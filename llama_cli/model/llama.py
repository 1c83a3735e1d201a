"""The Llama transformer, with the module and parameter names of Meta's model.py.

It runs a flat batch: the tokens of all spans one after the other, so that spans of any length share every
matrix product. Only attention looks at spans.

Shapes: N tokens in the batch, R spans of one token, D head_dim, H query heads, K key/value heads, S cached positions.
H and K are read off the weights, so the same code runs on a slice of the heads.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .args import ModelArgs
from .batch import Batch, Together
from .cache import Cache, LayerCache
from .parts import multiply
from .rope import rope_table, rotate, split_last


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


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one span: q (T, H, D) over keys and values (K, S, D) -> (T, H, D).

    One query needs no mask, so the query heads that share a key head become query rows of it:
    nothing is repeated. Several queries go through the kernel's own grouping.
    """
    length, n_heads, head_dim = q.shape
    if length == 1:
        folded = q.view(1, keys.shape[0], -1, head_dim)  # (1, K, H / K, D)
        mixed = F.scaled_dot_product_attention(folded, keys[None], values[None])
        return mixed.view(1, n_heads, head_dim)
    mixed = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], keys[None], values[None], attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    return mixed[0].transpose(0, 1)


def attend_together(q: Tensor, keys: Tensor, values: Tensor, together: Together) -> Tensor:
    """Attention of spans of one token each: q (R, H, D) over the cache (n_slots, K, S, D) -> (R, H, D)."""
    n_spans, n_heads, head_dim = q.shape
    slots, positions = slice(together.first, together.end), slice(0, together.n_positions)
    folded = q[together.span_of_slot].view(-1, keys.shape[1], n_heads // keys.shape[1], head_dim)
    mixed = F.scaled_dot_product_attention(
        folded, keys[slots, :, positions], values[slots, :, positions], attn_mask=together.mask
    )
    return mixed[together.slot_of_span].view(n_spans, n_heads, head_dim)


def attend_batch(q: Tensor, batch: Batch, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of all spans: q (N, H, D) over the cache (n_slots, K, S, D) -> (N, H, D)."""
    mixed = []
    first = 0
    if batch.together is not None:
        first = len(batch.together.slot_of_span)
        mixed.append(attend_together(q[:first], keys, values, batch.together))
    for span, mask in zip(batch.spans, batch.masks, strict=True):
        of_span = q[first : first + span.length]
        mixed.append(attend(of_span, keys[span.slot, :, : span.end], values[span.slot, :, : span.end], mask))
        first += span.length
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


class Attention(nn.Module):
    """Grouped-query attention over the cache."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.head_dim = args.head_dim
        self.n_kv_heads = args.n_kv_heads
        self.groups = args.n_heads // args.n_kv_heads  # H / K
        q_dim, kv_dim = args.n_heads * args.head_dim, args.n_kv_heads * args.head_dim
        self.wq = nn.Linear(args.dim, q_dim, bias=False)
        self.wk = nn.Linear(args.dim, kv_dim, bias=False)
        self.wv = nn.Linear(args.dim, kv_dim, bias=False)
        self.wo = nn.Linear(q_dim, args.dim, bias=False)
        self.wqkv: nn.Module | None = None  # the three as one, made by fuse()

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (N, H + 2K, D)."""
        side_by_side = torch.cat([self.wq(x), self.wk(x), self.wv(x)], -1) if self.wqkv is None else self.wqkv(x)
        return split_last(side_by_side, self.head_dim)

    def place(self, x: Tensor, batch: Batch, layer_cache: LayerCache) -> Tensor:
        """Queries (N, H, D) of tokens x (N, dim), whose keys and values go into the cache."""
        qkv = self.project(x)
        n_kv_heads = qkv.shape[1] // (self.groups + 2)
        dtype = layer_cache.keys.dtype
        rotated = rotate(qkv[:, :-n_kv_heads], batch.cos_sin).to(dtype)
        keys, values = rotated[:, -n_kv_heads:], qkv[:, -n_kv_heads:].to(dtype)
        layer_cache.store(batch.slots, batch.positions, keys, values)
        return rotated[:, :-n_kv_heads]

    def attend(self, q: Tensor, batch: Batch, layer_cache: LayerCache) -> Tensor:
        """What the queries (N, H, D) see in the cache, (N, H · D)."""
        return attend_batch(q, batch, layer_cache.keys, layer_cache.values).flatten(1)

    def make_cache(self, n_slots: int, length: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """What this layer keeps of `n_slots` sequences of up to `length` tokens, empty."""
        return LayerCache((n_slots, self.n_kv_heads, length, self.head_dim), dtype, device)


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) · w3 x)."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.w1 = nn.Linear(args.dim, args.ffn_dim, bias=False)
        self.w2 = nn.Linear(args.ffn_dim, args.dim, bias=False)
        self.w3 = nn.Linear(args.dim, args.ffn_dim, bias=False)
        self.w13: nn.Module | None = None  # w1 and w3 as one, made by fuse()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (self.w1(x), self.w3(x)) if self.w13 is None else self.w13(x).chunk(2, -1)
        out: Tensor = self.w2(F.silu(gate).mul_(up))
        return out


class TransformerBlock(nn.Module):
    """One layer: attention, then feed-forward, each behind a norm and added to its input."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, args.norm_eps)

    def forward(self, x: Tensor, batch: Batch, layer_cache: LayerCache) -> Tensor:
        """Add to x (N, dim) in place what this layer makes of it."""
        q = self.before(x, batch, layer_cache)
        return self.after(x, self.attention.attend(q, batch, layer_cache))

    def before(self, x: Tensor, batch: Batch, layer_cache: LayerCache) -> Tensor:
        """All that precedes attention: queries (N, H, D)."""
        return self.attention.place(self.attention_norm(x), batch, layer_cache)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """All that follows attention, whose result is mixed (N, H · D): adds to x in place."""
        x += self.attention.wo(mixed.type_as(x))
        x += self.feed_forward(self.ffn_norm(x))
        return x


class Llama(nn.Module):
    """The whole model: a Batch in, float32 logits (M, vocab_size) out."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        # Its own first values are drawn by code whose import takes a second or two, and nobody needs them.
        no_values = torch.empty(args.vocab_size, args.dim)
        self.tok_embeddings = nn.Embedding(args.vocab_size, args.dim, _weight=no_values)
        self.layers = nn.ModuleList(TransformerBlock(args) for _ in range(args.n_layers))
        self.norm = RMSNorm(args.dim, args.norm_eps)
        self.output = nn.Linear(args.dim, args.vocab_size, bias=False)
        self.rope: Tensor = torch.empty(0)  # (positions, D / 2, 2), made by prepare_rope

    def prepare_rope(self, length: int) -> None:
        """Make the rotation table for positions [0, length), on the device of the weights."""
        self.rope = rope_table(self.args, length, self.tok_embeddings.weight.device)

    def make_cache(self, n_slots: int, length: int) -> Cache:
        """An empty cache for `n_slots` sequences of up to `length` tokens, in the dtype of the embeddings."""
        weight = self.tok_embeddings.weight
        layers = [cast(TransformerBlock, layer).attention for layer in self.layers]
        caches = [layer.make_cache(n_slots, length, weight.dtype, weight.device) for layer in layers]
        return Cache(caches, n_slots, length)

    def forward(self, batch: Batch, cache: Cache) -> Tensor:
        x: Tensor = self.tok_embeddings(batch.tokens).to(self.norm.weight.dtype)  # (N, dim)
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x = layer(x, batch, layer_cache)
        wanted = self.norm(x[batch.outputs])  # (M, dim)
        n_rounded = len(wanted) - batch.n_scored
        logits: Tensor = self.output(wanted[:n_rounded]).float()  # (M, vocab_size)
        if batch.n_scored == 0:
            return logits
        # Rounded to bfloat16, logits of 16 and more are steps of 1/8: too many continuations would score the same.
        return torch.cat([logits, multiply(self.output, wanted[n_rounded:].float())])
