"""Linear layers with weights of 8 or 4 bits and inputs as they are: for GPUs, whose steps wait for weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.quantized import GROUP, Weight, as_int4, as_int8, fits_int4, in_full
from ..model.weights import Role
from .place import plain_linear

# torch's kernel reads the weights once for each row; from so many rows on, upcasting them costs less.
MANY = 8

# Sixteen columns each that a thread reads at once: the more the better, as far as a row divides by them.
TILES = (8, 4, 2)


class WeightOnlyInt8Linear(nn.Module):
    """x @ weight.T; each weight row has a scale."""

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        quantized = as_int8(weight)
        self.register_buffer("values", quantized.values.contiguous(), persistent=False)
        self.register_buffer("scales", quantized.scales.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        scales = self.scales.to(x.dtype)
        # One row becomes one kernel that reads bytes where torch.compile makes it.
        if len(x) < MANY and not (len(x) == 1 and torch.compiler.is_compiling()):
            out: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.values, scales)
            return out
        return F.linear(x, self.values.to(x.dtype)).mul_(scales)  # whole numbers to 127 are exact in bfloat16


class WeightOnlyInt4Linear(nn.Module):
    """x @ weight.T; each group of 32 weights has a scale and a zero point. NVIDIA's GPUs from sm_80 on, in bfloat16."""

    packed: Tensor
    scales: Tensor

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        quantized = as_int4(weight)
        tiles = next(n for n in TILES if quantized.shape[1] % (16 * n) == 0)
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs_of_levels(quantized.levels(dtype=torch.uint8)), tiles)
        self.register_buffer("packed", packed, persistent=False)
        scales = quantized.scales.transpose(0, 1).contiguous()  # (in / GROUP, out, 2)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        out: Tensor = torch.ops.aten._weight_int4pack_mm(x, self.packed, GROUP, self.scales)
        return out


def pairs_of_levels(levels: Tensor) -> Tensor:
    """Levels uint8 (out, in) as torch's kernel for GPUs takes them, (out, in / 2): of two columns the first is high."""
    return levels[:, ::2] << 4 | levels[:, 1::2]


def int8_layer(weight: Weight, role: Role) -> nn.Module:
    """8 bits."""
    return WeightOnlyInt8Linear(weight)


def int4_layer(weight: Weight, role: Role) -> nn.Module:
    """4 bits where the shape allows it; 8 for the output matrix, which suffers most."""
    if role == "output":
        return WeightOnlyInt8Linear(weight)
    return WeightOnlyInt4Linear(weight) if fits_int4(*weight.shape) else plain_linear(in_full(weight))
