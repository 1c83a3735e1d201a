"""torch's dtypes by the names that people give."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..options import DtypeName
from . import offers

DTYPES: Mapping[DtypeName, torch.dtype] = {name: getattr(torch, dtype) for name, dtype in offers.DTYPES.items()}


def name_of(dtype: offers.Dtype) -> DtypeName:
    """How a flag names a dtype."""
    return next(name for name, each in offers.DTYPES.items() if each == dtype)
