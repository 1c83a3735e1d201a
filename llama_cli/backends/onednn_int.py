"""Linear layers with weights of 8 or 4 bits, made from full weights or from rounded ones (CPU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

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
from ..options import Quantization
from .machine import processor
from .onednn import packed_linear

# x86 multiplies unsigned by signed bytes. Without VNNI two products are added in 16 bits, which 7-bit activations
# cannot overflow.
ACTIVATION_LIMIT = 127 if processor().multiplies_bytes else 63
ZERO_POINT = 128

INT4_CAPABILITY = (8, 0)  # of GPUs that multiply bfloat16


def can_quantize(device: torch.device, quantize: Quantization = "int8") -> bool:
    """Whether this torch and this processor have the kernels: an x86 CPU, or a GPU, for int4 not the oldest."""
    if device.type == "cuda":
        return quantize == "int8" or torch.cuda.get_device_capability(device) >= INT4_CAPABILITY
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and processor().has_avx2
    )


class Int8Linear(nn.Module):
    """x @ weight.T with both sides rounded to 8 bits: a scale for each weight row, and one for each token.

    Sums are exact integers, so a token's result does not depend on its neighbours in the batch. Inputs may take
    two digits of 8 bits, the second for what the first leaves over: the rows double, which costs little where
    reading the weights is what takes the time.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, weight: Weight, digits: Literal[1, 2] = 1) -> None:
        super().__init__()
        self.digits = digits
        rounded = as_int8(weight)
        packed = torch.ops.onednn.qlinear_prepack(rounded.values, None)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales", rounded.scales.clone(), persistent=False)  # not mapped from a file
        self.register_buffer("zeros", torch.zeros(len(rounded.scales), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        return multiply_rounded(x, self.digits, self._multiply)

    def _multiply(self, rounded: Tensor) -> Tensor:
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(rounded, 1.0, ZERO_POINT, self.packed, self.scales, self.zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return out


def multiply_rounded(x: Tensor, digits: Literal[1, 2], multiply: Callable[[Tensor], Tensor]) -> Tensor:
    """x (N, in) in whole steps, times something: `multiply` takes whole numbers (M, in) around ZERO_POINT, uint8."""
    wide = x.float()
    digit, steps = round_rows(wide)
    if digits == 1:
        return multiply(digit).mul_(steps).type_as(x)
    rest, smaller_steps = round_rows(torch.addcmul(wide, digit.float().sub_(ZERO_POINT), steps, value=-1))
    coarse, fine = multiply(torch.cat([digit, rest])).chunk(2)
    return coarse.mul_(steps).addcmul_(fine, smaller_steps).type_as(x)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, in) in whole steps around ZERO_POINT, uint8, and the size of a step in each row, (N, 1)."""
    largest = torch.maximum(x.amax(-1, keepdim=True), x.amin(-1, keepdim=True).neg_())  # a tenth of vector_norm's time
    steps = largest.clamp_min_(SMALLEST).div_(ACTIVATION_LIMIT)
    return (x / steps).add_(ZERO_POINT + 0.5).to(torch.uint8), steps  # the cast cuts off: half a step more rounds


def fine_int8_linear(weight: Weight) -> Int8Linear:
    """8 bits for layers that suffer most from the rounding of their inputs."""
    return Int8Linear(weight, digits=2)


class Int4Linear(nn.Module):
    """x @ weight.T with weights of 4 bits, a scale and a middle for each group of 32; computes in bfloat16."""

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


def int4_linear(weight: Weight) -> nn.Module:
    """4 bits where the kernel takes the shape, else full weights."""
    return Int4Linear(weight) if fits_int4(*weight.shape) else packed_linear(in_full(weight))
