"""Linear layers laid out for oneDNN: a CPU reads bfloat16 weights so up to twice as fast as through F.linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model.quantized import Weight, in_full
from .place import plain_linear

PACKABLE = (torch.bfloat16, torch.float32)

# In float32 a call costs 15 us more than F.linear's, which smaller matrices than this do not win back.
SMALLEST_FLOAT32 = 1 << 20


class PackedLinear(nn.Module):
    """x @ weight.T with the weight reordered once, when it is made; the same arithmetic as nn.Linear."""

    packed: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("packed", torch.ops.mkldnn._reorder_linear_weight(weight.detach()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out), computed in the dtype of the weight."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.packed.dtype), self.packed, None, "none", [], "")
        return out.type_as(x)


def packed_linear(weight: Weight) -> nn.Module:
    """The faster of both layers for a weight."""
    weight = in_full(weight)
    if weight.dtype == torch.float32 and weight.numel() < SMALLEST_FLOAT32:
        return plain_linear(weight)
    return PackedLinear(weight)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this torch and this processor have the fast path."""
    return (
        device.type == "cpu"
        and dtype in PACKABLE
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
