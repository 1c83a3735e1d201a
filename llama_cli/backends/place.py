"""Replaces the linear layers of a finished model: fewer, larger matrices in the layout that a device reads fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence

import torch
from torch import nn

from ..model.llama import TransformerBlock
from ..model.quantized import Weight, in_full, join
from ..model.weights import OF_ANY_LAYER, Role, WeightSpec, joined

MakeLinear = Callable[[Weight], nn.Module]  # from a weight (out, in)
MakeLayer = Callable[[Weight, Role], nn.Module]  # from a weight with its role in the model


def plain_linear(weight: Weight) -> nn.Linear:
    """torch's own layer around a weight, which is not copied."""
    weight = in_full(weight)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


@torch.no_grad()
def fuse(block: TransformerBlock, weights: MutableMapping[str, Weight], make: MakeLayer) -> None:
    """Join weights that read the same inputs into one layer (wq, wk and wv; w1 and w3); others are a layer each.

    Takes the matrices from the `weights` of the block (by names such as attention.wq.weight), so that each is let go
    as early as can be.
    """
    for name, parts in joined(_specs(weights)).items():
        layer = make(_take(weights, parts), parts[0].role)
        if len(parts) > 1:
            for part in parts:
                delattr(*_place(block, part.name))
        setattr(*_place(block, name), layer)


@torch.no_grad()
def replace(block: TransformerBlock, weights: MutableMapping[str, Weight], make: MakeLayer) -> None:
    """Make every matrix a layer of its own, taken from the `weights` of the block."""
    for spec in _specs(weights):
        if spec.is_linear:
            setattr(*_place(block, spec.name), make(_take(weights, [spec]), spec.role))


def _specs(weights: Iterable[str]) -> list[WeightSpec]:
    return [OF_ANY_LAYER[name.removesuffix(".weight")] for name in weights]


def _take(weights: MutableMapping[str, Weight], parts: Sequence[WeightSpec]) -> Weight:
    taken = [weights.pop(f"{part.name}.weight") for part in parts]
    return taken[0] if len(taken) == 1 else join(taken)


def _place(block: TransformerBlock, name: str) -> tuple[nn.Module, str]:
    """The module that has a layer, and what it calls it."""
    parent, _, own_name = name.rpartition(".")
    return block.get_submodule(parent), own_name
