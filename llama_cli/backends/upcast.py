"""bfloat16 linear layers for x86 processors that multiply float32 faster.

Without instructions for bfloat16, or with slow ones, many rows are computed in float32: the weights are upcast
some at a time, which costs less than the multiplication saves. Products of bfloat16 are exact in float32.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.parts import join_columns, multiply_parts, rows_of_a_part
from .machine import processor
from .place import MakeLinear

# From so many rows on float32 is faster: measured with and without vdpbf16ps, which Intel's processors have at half
# the speed of float32, AMD's at twice.
MANY_WITH_SLOW_BFLOAT16 = 256
MANY_WITHOUT_BFLOAT16 = 16


def many_rows() -> int | None:
    """How many rows are better computed in float32 on this processor; None if none ever are."""
    if processor().lacks_bfloat16:
        return MANY_WITHOUT_BFLOAT16
    return MANY_WITH_SLOW_BFLOAT16 if processor().is_slow_in_bfloat16 else None


class UpcastLinear(nn.Module):
    """x @ weight.T, from `many` rows of x on in float32. With `packed`, few rows go through oneDNN's layout."""

    def __init__(self, weight: Tensor, *, many: int, packed: bool) -> None:
        super().__init__()
        self.many = many
        parts = torch.split(weight.detach(), rows_of_a_part(*weight.shape))
        self.parts = [torch.ops.mkldnn._reorder_linear_weight(part) for part in parts] if packed else list(parts)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out), in the dtype of x."""
        if len(x) < self.many and x.dtype == torch.bfloat16:
            return join_columns([_multiply(x, part) for part in self.parts])
        return multiply_parts(x.float(), map(_upcast, self.parts), x.dtype)


def _multiply(x: Tensor, part: Tensor) -> Tensor:
    if not part.is_mkldnn:
        return F.linear(x, part)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, part, None, "none", [], "")
    return out


def _upcast(part: Tensor) -> Tensor:
    return part.to_dense(torch.float32) if part.is_mkldnn else part.float()


def upcast_linear(*, many: int, packed: bool) -> MakeLinear:
    """Makes such layers of weights."""
    return partial(UpcastLinear, many=many, packed=packed)
