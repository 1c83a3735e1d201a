"""Replaces the linear layers of a finished model: fewer, larger matrices in the layout that a device reads fastest."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

import torch
from torch import nn

from ..model.llama import TransformerBlock
from ..model.quantized import Weight, in_full, join

MakeLinear = Callable[[Weight], nn.Module]  # from a weight (out, in)


def plain_linear(weight: Weight) -> nn.Linear:
    """torch's own layer around a weight, which is not copied."""
    weight = in_full(weight)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


@torch.no_grad()
def fuse(block: TransformerBlock, weights: MutableMapping[str, Weight], make: MakeLinear, make_w2: MakeLinear) -> None:
    """Make wq, wk, wv one layer and w1, w3 another; wo and w2 stay alone.

    Takes the matrices from the `weights` of the block (by names such as attention.wq.weight), so that each is let go
    as early as can be.
    """

    def take(*names: str) -> Weight:
        taken = [weights.pop(f"{name}.weight") for name in names]
        return taken[0] if len(taken) == 1 else join(taken)

    attention, feed_forward = block.attention, block.feed_forward
    del attention.wq, attention.wk, attention.wv
    attention.wqkv = make(take("attention.wq", "attention.wk", "attention.wv"))
    attention.wo = make(take("attention.wo"))  # type: ignore[assignment]
    del feed_forward.w1, feed_forward.w3
    feed_forward.w13 = make(take("feed_forward.w1", "feed_forward.w3"))
    feed_forward.w2 = make_w2(take("feed_forward.w2"))  # type: ignore[assignment]


@torch.no_grad()
def replace(
    block: TransformerBlock, weights: MutableMapping[str, Weight], make: MakeLinear, make_w2: MakeLinear
) -> None:
    """Make every matrix a layer of its own, taken from the `weights` of the block."""
    for place in ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w3"):
        block.set_submodule(place, make(weights.pop(f"{place}.weight")))
    block.feed_forward.w2 = make_w2(weights.pop("feed_forward.w2.weight"))  # type: ignore[assignment]
