"""Which dtype a model runs in, by the names that people give."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..options import DtypeName

DTYPES: Mapping[DtypeName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

SMALL_MODEL_BYTES = 16 << 20  # of weights: below, a model runs on one thread and in float32 where a CPU may choose


def name_of(dtype: torch.dtype) -> DtypeName:
    """How a flag names a dtype."""
    return next(name for name, each in DTYPES.items() if each == dtype)


def choose_dtype(asked: DtypeName, stored: torch.dtype, n_bytes: int, device: torch.device) -> torch.dtype:
    """That of `n_bytes` of weights, where it is left open as `stored`.

    But on a CPU a toy is faster in float32, and float16 is slower than bfloat16.
    """
    if asked != "auto":
        return DTYPES[asked]
    if device.type == "cpu" and n_bytes < SMALL_MODEL_BYTES:
        return torch.float32
    return torch.bfloat16 if stored == torch.float16 and device.type == "cpu" else stored
