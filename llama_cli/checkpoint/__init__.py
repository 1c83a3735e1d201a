"""Any model folder becomes named weights in Meta's vocabulary.

What needs torch is imported when a checkpoint is opened: finding folders and reading headers needs none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .open import open_checkpoint
    from .reshard import Slice

__all__ = ["Checkpoint", "Slice", "open_checkpoint"]

_HOMES = {"Checkpoint": "checkpoint", "Slice": "reshard", "open_checkpoint": "open"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
