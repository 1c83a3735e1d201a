"""A matrix that is computed from what is stored, some rows at a time, and only the part of it that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class ComputedMatrix:
    """The matrix of `shape` whose rows `make` gives, rounded to `dtype`. It is narrowed as a tensor is."""

    shape: tuple[int, int]
    dtype: torch.dtype
    make: Callable[[slice], Tensor]

    def narrow(self, dim: int, start: int, length: int) -> Tensor:
        """Part [start, start + length) along `dim`; little more than the result is in memory."""
        n_rows, n_columns = self.shape
        first, end = (start, start + length) if dim == 0 else (0, n_rows)
        columns = slice(start, start + length) if dim == 1 else slice(None)
        made = torch.empty((end - first, length if dim == 1 else n_columns), dtype=self.dtype)
        step = max(1, BLOCK_VALUES // n_columns)
        for begin in range(first, end, step):
            rows = slice(begin, min(begin + step, end))
            made[rows.start - first : rows.stop - first] = self.make(rows)[:, columns]
        return made
