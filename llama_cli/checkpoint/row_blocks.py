"""Makes a large matrix some rows at a time, so that little more than the result is in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 22


def make_by_rows(shape: tuple[int, ...], dtype: torch.dtype, make: Callable[[slice], Tensor]) -> Tensor:
    """The matrix of `shape` whose rows `make` gives, rounded to `dtype`."""
    made = torch.empty(shape, dtype=dtype)
    step = max(1, BLOCK_VALUES // shape[1])
    for first in range(0, shape[0], step):
        rows = slice(first, min(first + step, shape[0]))
        made[rows] = make(rows)
    return made
