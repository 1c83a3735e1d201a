"""What a file says about one tensor, and where its bytes lie. No torch."""

from __future__ import annotations

import re
from typing import NamedTuple

Shape = tuple[int, ...]


class TensorHeader(NamedTuple):
    """One tensor as its file describes it."""

    dtype: str  # as torch calls it: bfloat16, float8_e4m3fn
    shape: Shape
    offset: int  # of its first byte in the file
    n_bytes: int
    strides: Shape | None = None  # in values, if its dimensions are turned round; None: row after row


def is_unused(name: str) -> bool:
    """Whether a tensor is only what follows from the head size, as files of Llama 1 and 2 have it."""
    return name.endswith("rope.freqs")


def is_extra(name: str) -> bool:
    """Whether a tensor says how to read or change another one: Meta's int4 files have scales and adapters."""
    return name.endswith((".scales", ".zeros", ".adaptor.A.weight", ".adaptor.B.weight"))


def item_size(dtype: str) -> int:
    """Bytes of one value."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
