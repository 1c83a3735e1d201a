"""Linear layers with weights of 8 or 4 bits, made from full weights or from quantized ones (CPU)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..model.quantized import (
    GROUP,
    SMALLEST,
    Int4Weight,
    Weight,
    as_int8,
    blocks,
    fits_int4,
    in_full,
    int4_levels,
)
from ..model.weights import Role
from .machine import processor
from .onednn import packed_linear

# x86 multiplies unsigned by signed bytes. Without VNNI two products are added in 16 bits, which 7-bit activations
# cannot overflow.
ACTIVATION_LIMIT = 127 if processor().multiplies_bytes else 63
ZERO_POINT = 128

SENSITIVE: tuple[Role, ...] = ("down", "output")  # layers that the rounding of their inputs harms most


def can_quantize() -> bool:
    """Whether this torch and this processor have the kernels."""
    return processor().has_avx2 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class Int8Linear(nn.Module):
    """x @ weight.T with both sides quantized to 8 bits: a scale for each weight row, and one for each token.

    Sums are exact integers, so a token's result does not depend on its neighbours in the batch. `with_residual` rounds
    what is left of the inputs to 8 bits too: the rows double, which costs little where reading the weights takes the
    time.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, weight: Weight, *, with_residual: bool = False) -> None:
        super().__init__()
        self.with_residual = with_residual
        quantized = as_int8(weight)
        packed = torch.ops.onednn.qlinear_prepack(quantized.values, None)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales", quantized.scales.clone(), persistent=False)  # not mapped from a file
        self.register_buffer("zeros", torch.zeros(len(quantized.scales), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        return multiply_quantized(x, self._multiply, with_residual=self.with_residual)

    def _multiply(self, quantized: Tensor) -> Tensor:
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(quantized, 1.0, ZERO_POINT, self.packed, self.scales, self.zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return out


def multiply_quantized(x: Tensor, multiply: Callable[[Tensor], Tensor], *, with_residual: bool) -> Tensor:
    """The product of x (N, in), quantized to 8 bits, with the weights of `multiply`: (N, out) in the dtype of x.

    `multiply` takes rows of uint8 that mean their difference from ZERO_POINT, (M, in), and gives float32 (M, out).
    """
    wide = x.float()
    values, scales = round_rows(wide)
    if not with_residual:
        return multiply(values).mul_(scales).type_as(x)
    residual, smaller = round_rows(torch.addcmul(wide, values.float().sub_(ZERO_POINT), scales, value=-1))
    coarse, fine = multiply(torch.cat([values, residual])).chunk(2)
    return coarse.mul_(scales).addcmul_(fine, smaller).type_as(x)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows x (N, in) as uint8 whose difference from ZERO_POINT times the scale of the row is x; scales are (N, 1)."""
    largest = torch.maximum(x.amax(-1, keepdim=True), x.amin(-1, keepdim=True).neg_())  # a tenth of vector_norm's time
    scales = largest.clamp_min_(SMALLEST).div_(ACTIVATION_LIMIT)
    return (x / scales).add_(ZERO_POINT + 0.5).to(torch.uint8), scales  # the cast cuts off: half a unit more rounds


def int8_layer(weight: Weight, role: Role) -> nn.Module:
    """8 bits."""
    return Int8Linear(weight, with_residual=role in SENSITIVE)


class Int4Linear(nn.Module):
    """x @ weight.T with weights of 4 bits, a scale and a zero point for each group of 32; computes in bfloat16."""

    packed: Tensor
    scales: Tensor

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        weight = weight if isinstance(weight, Int4Weight) else in_full(weight)
        packed = torch.empty(n_out, n_in // 2, dtype=torch.uint8)  # the kernel's blocks of rows, one after the other
        scales = torch.empty(n_out, n_in // GROUP, 2, dtype=torch.bfloat16)
        for rows in blocks(n_out, n_in):
            if isinstance(weight, Int4Weight):
                levels, scales[rows] = weight.levels(rows), weight.scales[rows]
            else:
                levels, scales[rows] = int4_levels(weight[rows])
            packed[rows] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales", scales.transpose(0, 1).contiguous(), persistent=False)  # (in / GROUP, out, 2)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)
        return out


def int4_layer(weight: Weight, role: Role) -> nn.Module:
    """4 bits where the kernel takes the shape, else full weights; 8 for the output matrix, which suffers most."""
    if role == "output":
        return int8_layer(weight, role)
    return Int4Linear(weight) if fits_int4(*weight.shape) else packed_linear(in_full(weight))
