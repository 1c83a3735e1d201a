"""Linear layers with weights of 8 bits and inputs as they are: for GPUs, whose steps wait for weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rounding import Weight, as_int8

# torch's kernel reads the weights once for each row; from so many rows on, widening them costs less.
MANY = 8


class WeightOnlyInt8Linear(nn.Module):
    """x @ weight.T; each weight row has a scale."""

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        rounded = as_int8(weight)
        self.register_buffer("values", rounded.values.contiguous(), persistent=False)
        self.register_buffer("scales", rounded.scales.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        scales = self.scales.to(x.dtype)
        # One row becomes one kernel that reads bytes where torch.compile makes it.
        if len(x) < MANY and not (len(x) == 1 and torch.compiler.is_compiling()):
            out: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.values, scales)
            return out
        return F.linear(x, self.values.to(x.dtype)).mul_(scales)  # whole numbers to 127 are exact in bfloat16
