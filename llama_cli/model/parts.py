"""Products with some rows of a weight at a time, upcast to float32 without a copy of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pieces import PART_BYTES

BLOCK_ROWS = 64  # of oneDNN's layout


def rows_of_a_part(n_out: int, n_in: int) -> int:
    """Equal parts, but for the last."""
    n_parts = math.ceil(n_out * n_in * torch.float32.itemsize / PART_BYTES)
    return math.ceil(n_out / n_parts / BLOCK_ROWS) * BLOCK_ROWS


def multiply_parts(x: Tensor, parts: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    """x @ weight.T in a dtype, (N, out); `parts` give rows of the weight one after the other, in the dtype of x."""
    return join_columns([F.linear(x, part).to(dtype) for part in parts])


def join_columns(columns: list[Tensor]) -> Tensor:
    """Products with the parts of a weight, side by side."""
    return columns[0] if len(columns) == 1 else torch.cat(columns, -1)


def multiply(layer: nn.Module, x: Tensor) -> Tensor:
    """What a linear layer makes of x, in the dtype of x: of float32 although the weights may be of 16 bits."""
    if not isinstance(layer, nn.Linear) or layer.weight.dtype == x.dtype:
        out: Tensor = layer(x)
        return out
    parts = torch.split(layer.weight, rows_of_a_part(*layer.weight.shape))
    return multiply_parts(x, (part.type_as(x) for part in parts), x.dtype)
