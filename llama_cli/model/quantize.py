"""Linear layers with weights of 8 or 4 bits, made from full weights when a model is loaded (CPU)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .packed import packed_linear

Quantization = Literal["int8", "int4"]

GROUP = 32  # weights that share an int4 scale
BLOCK_VALUES = 1 << 20  # rounded at a time, so that little more than the result is in memory
BLOCK_ROWS = 64  # that the kernels take together, or a divisor of it
SMALLEST = 1e-12  # keeps the scale of an all-zero row from dividing by zero

# x86 multiplies unsigned by signed bytes. Without VNNI two products are added in 16 bits, which 7-bit activations
# cannot overflow.
ACTIVATION_LIMIT = 127 if torch.cpu._is_vnni_supported() else 63
ZERO_POINT = 128


def can_quantize(device: torch.device) -> bool:
    """Whether this torch and this processor have the kernels."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.cpu._is_avx2_supported()
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

    def __init__(self, weight: Tensor, digits: Literal[1, 2] = 1) -> None:
        super().__init__()
        self.digits = digits
        scales = torch.empty(len(weight), dtype=torch.float32)
        rounded = torch.empty(weight.shape, dtype=torch.int8)
        for rows in _blocks(*weight.shape):
            wide = weight[rows].float()
            scales[rows] = wide.abs().amax(1).clamp_min_(SMALLEST) / 127
            rounded[rows] = (wide / scales[rows, None]).round_()  # stored as int8
        self.register_buffer("packed", torch.ops.onednn.qlinear_prepack(rounded, None), persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        wide = x.float()
        digit, steps = round_rows(wide)
        if self.digits == 1:
            return self._multiply(digit).mul_(steps).type_as(x)
        rest, smaller_steps = round_rows(torch.addcmul(wide, digit.float().sub_(ZERO_POINT), steps, value=-1))
        coarse, fine = self._multiply(torch.cat([digit, rest])).chunk(2)
        return coarse.mul_(steps).addcmul_(fine, smaller_steps).type_as(x)

    def _multiply(self, rounded: Tensor) -> Tensor:
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(rounded, 1.0, ZERO_POINT, self.packed, self.scales, self.zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return out


def _blocks(n_rows: int, n_columns: int) -> list[slice]:
    step = max(1, BLOCK_VALUES // n_columns // BLOCK_ROWS) * BLOCK_ROWS
    return [slice(first, first + step) for first in range(0, n_rows, step)]


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, in) in whole steps around ZERO_POINT, uint8, and the size of a step in each row, (N, 1)."""
    largest = torch.maximum(x.amax(-1, keepdim=True), x.amin(-1, keepdim=True).neg_())  # a tenth of vector_norm's time
    steps = largest.clamp_min_(SMALLEST).div_(ACTIVATION_LIMIT)
    return (x / steps).add_(ZERO_POINT + 0.5).to(torch.uint8), steps  # the cast cuts off: half a step more rounds


def fine_int8_linear(weight: Tensor) -> Int8Linear:
    """8 bits for layers that suffer most from the rounding of their inputs."""
    return Int8Linear(weight, digits=2)


class Int4Linear(nn.Module):
    """x @ weight.T with weights of 4 bits, a scale and a middle for each group of 32; computes in bfloat16."""

    packed: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        packed = torch.empty(n_out, n_in // 2, dtype=torch.uint8)  # the kernel's blocks of rows, one after the other
        scales = torch.empty(n_out, n_in // GROUP, 2, dtype=torch.bfloat16)
        for rows in _blocks(n_out, n_in):
            grouped = weight[rows].float().view(-1, n_in // GROUP, GROUP)  # (rows, in / GROUP, GROUP)
            low, high = grouped.amin(-1), grouped.amax(-1)
            steps = ((high - low) / 15).clamp_min_(SMALLEST)
            levels = ((grouped - low[..., None]) / steps[..., None]).round_().clamp_(0, 15).to(torch.int32).flatten(1)
            packed[rows] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
            scales[rows] = torch.stack([steps, low + 8 * steps], -1)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales", scales.transpose(0, 1).contiguous(), persistent=False)  # (in / GROUP, out, 2)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)
        return out


def int4_linear(weight: Tensor) -> nn.Module:
    """4 bits where the kernel takes the shape, else the weight as it is."""
    n_out, n_in = weight.shape
    fits = n_in % GROUP == 0 and n_out % 16 == 0
    return Int4Linear(weight) if fits else packed_linear(weight)
