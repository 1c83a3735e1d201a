"""Weights of 8 and 4 bits: the numbers, apart from the layers that compute with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..options import Quantization
from .args import Shape
from .weights import joined_with, spec_of

GROUP = 32  # weights that share an int4 scale
HALF = GROUP // 2
BLOCK_VALUES = 1 << 20  # quantized at a time
BLOCK_ROWS = 64  # that the kernels take together, or a divisor of it
INT4_ROWS = 16  # the int4 kernel takes multiples of so many
SMALLEST = 1e-12  # keeps the scale of an all-zero row from dividing by zero


class Int8Weight(NamedTuple):
    """int8 with a scale for each row: a weight is its value times the scale of its row."""

    values: Tensor  # int8 (out, in)
    scales: Tensor  # float32 (out,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def dequantize(self, rows: slice = slice(None)) -> Tensor:
        """Rows (N, in) of the weights in float32."""
        return self.values[rows].float().mul_(self.scales[rows, None])

    def narrow(self, dim: int, start: int, length: int) -> Int8Weight:
        """Part [start, start + length) along `dim`; columns keep the scales of whole rows."""
        scales = self.scales.narrow(0, start, length) if dim == 0 else self.scales
        return Int8Weight(self.values.narrow(dim, start, length).contiguous(), scales)


class Int4Weight(NamedTuple):
    """int4 with a scale and a zero point for each group of 32 columns of a row.

    A weight is (level - 8) · scale + zero point, its level from 0 to 15. Byte k of a group holds the level of column
    k in its lower half and that of column k + 16 in its upper one.
    """

    values: Tensor  # uint8 (out, in / 2)
    scales: Tensor  # bfloat16 (out, in / GROUP, 2): scale, zero point

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], 2 * self.values.shape[1]

    def levels(self, rows: slice = slice(None), dtype: torch.dtype = torch.int32) -> Tensor:
        """Rows of whole numbers from 0 to 15, (N, in)."""
        packed = self.values[rows].view(-1, self.scales.shape[1], HALF)
        levels = torch.empty((*packed.shape[:2], GROUP), dtype=dtype, device=packed.device)
        levels[..., :HALF] = packed & 15
        levels[..., HALF:] = packed >> 4
        return levels.flatten(1)

    def dequantize(self, rows: slice = slice(None)) -> Tensor:
        """Rows (N, in) of the weights in float32."""
        scales, zero_points = self.scales[rows, :, :, None].float().unbind(2)
        levels = self.levels(rows, torch.float32).view(-1, self.scales.shape[1], GROUP)
        return levels.sub_(8).mul_(scales).add_(zero_points).flatten(1)

    def narrow(self, dim: int, start: int, length: int) -> Int4Weight | None:
        """Part [start, start + length) along `dim`; None where that would cut a group."""
        if dim == 0:
            return Int4Weight(self.values.narrow(0, start, length), self.scales.narrow(0, start, length))
        if start % GROUP or length % GROUP:
            return None
        values = self.values.narrow(1, start // 2, length // 2)
        return Int4Weight(values.contiguous(), self.scales.narrow(1, start // GROUP, length // GROUP))


QuantizedWeight: TypeAlias = Int8Weight | Int4Weight
Weight: TypeAlias = Tensor | Int8Weight | Int4Weight


def quantize_int8(weight: Tensor) -> Int8Weight:
    """Quantize a matrix (out, in) to int8, rounding to nearest: the largest magnitude of a row becomes 127."""
    scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    values = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    for rows in blocks(*weight.shape):
        wide = weight[rows].float()
        scales[rows] = wide.abs().amax(1).clamp_min_(SMALLEST) / 127
        values[rows] = (wide / scales[rows, None]).round_()  # stored as int8
    return Int8Weight(values, scales)


def as_int8(weight: Weight) -> Int8Weight:
    """A weight of int8 as it is, any other quantized to it."""
    return weight if isinstance(weight, Int8Weight) else quantize_int8(in_full(weight))


def as_int4(weight: Weight) -> Int4Weight:
    """A weight of int4 as it is, any other quantized to it."""
    return weight if isinstance(weight, Int4Weight) else quantize_int4(in_full(weight))


def quantize_int4(weight: Tensor) -> Int4Weight:
    """Quantize a matrix (out, in) to int4, rounding to nearest: a group's smallest value is level 0, its largest 15."""
    n_out, n_in = weight.shape
    values = torch.empty((n_out, n_in // 2), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((n_out, n_in // GROUP, 2), dtype=torch.bfloat16, device=weight.device)
    for rows in blocks(n_out, n_in):
        levels, scales[rows] = int4_levels(weight[rows])
        low, high = levels.to(torch.uint8).view(-1, n_in // GROUP, 2, HALF).unbind(2)
        values[rows] = (low | high << 4).flatten(1)
    return Int4Weight(values, scales)


def int4_levels(block: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of a few rows (N, in), int32, and their scales and zero points (N, in / GROUP, 2)."""
    grouped = block.float().view(len(block), -1, GROUP)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scales = ((high - low) / 15).clamp_min_(SMALLEST)
    levels = ((grouped - low[..., None]) / scales[..., None]).round_().clamp_(0, 15).to(torch.int32).flatten(1)
    return levels, torch.stack([scales, low + 8 * scales], -1)


def blocks(n_rows: int, n_columns: int) -> list[slice]:
    """Rows that are quantized at a time, so that little more than the result is in memory."""
    step = max(1, BLOCK_VALUES // n_columns // BLOCK_ROWS) * BLOCK_ROWS
    return [slice(first, first + step) for first in range(0, n_rows, step)]


def join(parts: Sequence[Weight]) -> Weight:
    """Matrices one below the other: quantized if all are quantized alike, else a tensor."""
    first, *others = parts
    if isinstance(first, Tensor) or any(type(part) is not type(first) for part in others):
        return torch.cat([in_full(part) for part in parts])
    values, scales = ([getattr(part, field) for part in parts] for field in ("values", "scales"))
    return type(first)(torch.cat(values), torch.cat(scales))


def in_full(weight: Weight) -> Tensor:
    """A weight dequantized, in the dtype of its scales; a tensor as it is."""
    return weight if isinstance(weight, Tensor) else weight.dequantize().to(weight.scales.dtype)


def quantization_of(name: str, shapes: Mapping[str, Shape], quantization: Quantization) -> Quantization | None:
    """To what a model of such `shapes` quantizes one of its weights; None for one that stays as it is.

    The output matrix suffers most and has 8 bits at least. 4 bits are for shapes that the kernel takes.
    """
    spec = spec_of(name)
    if spec is None or not spec.is_linear:
        return None
    if quantization == "int8" or spec.role == "output":
        return "int8"
    n_rows = sum(shapes[each][0] for each in joined_with(name))
    return "int4" if fits_int4(n_rows, shapes[name][1]) else None


def fits_int4(n_out: int, n_in: int) -> bool:
    return n_in % GROUP == 0 and n_out % INT4_ROWS == 0
