"""Replaces the linear layers of a finished model: fewer, larger matrices in the layout that a device reads fastest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .llama import TransformerBlock

MakeLinear = Callable[[Tensor], nn.Module]  # from a weight (out, in)


def plain_linear(weight: Tensor) -> nn.Linear:
    """torch's own layer around a weight, which is not copied."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


@torch.no_grad()
def fuse(block: TransformerBlock, make: MakeLinear, make_w2: MakeLinear) -> None:
    """Make wq, wk, wv one layer and w1, w3 another; wo and w2 stay alone. Sources are let go as early as can be."""
    attention, feed_forward = block.attention, block.feed_forward
    together = torch.cat([attention.wq.weight, attention.wk.weight, attention.wv.weight])
    del attention.wq, attention.wk, attention.wv
    attention.wqkv = make(together)
    attention.wo = make(attention.wo.weight)  # type: ignore[assignment]
    together = torch.cat([feed_forward.w1.weight, feed_forward.w3.weight])
    del feed_forward.w1, feed_forward.w3
    feed_forward.w13 = make(together)
    del together
    feed_forward.w2 = make_w2(feed_forward.w2.weight)  # type: ignore[assignment]
