"""The memory that a checkpoint takes when it runs."""

from __future__ import annotations

import torch

from ..backends.choose import Recipe
from ..memory import PRECISIONS, MemoryPlan, Stored, plan_memory
from ..model.args import ModelArgs
from .build import runs_as_stored
from .checkpoint import Checkpoint


def plan_model(
    checkpoint: Checkpoint,
    args: ModelArgs,
    recipe: Recipe,
    device: torch.device,
    *,
    n_slots: int,
    n_ranks: int = 1,
) -> MemoryPlan:
    """The memory that a checkpoint takes on each of several ranks when it runs by a recipe."""
    stored = None
    if device.type == "cpu":
        is_copied = recipe.dtype != checkpoint.dtype or len(checkpoint.shards) > 1 or not checkpoint.mmap
        stored = Stored(checkpoint.dtype.itemsize, is_copied, checkpoint.is_tied)
        if checkpoint.is_quantised:  # Meta's
            stored = Stored(1, is_copied=True, is_tied=checkpoint.is_tied)
        elif checkpoint.quantization is not None:
            linear_bytes = PRECISIONS[checkpoint.quantization].linear_bytes
            stored = Stored(linear_bytes, is_copied, False, "kept" if runs_as_stored(checkpoint, recipe) else "undone")
    return plan_memory(
        args,
        n_slots=n_slots,
        itemsize=recipe.dtype.itemsize,
        tied=checkpoint.is_tied and not recipe.copies_embedding,
        linear_bytes=recipe.linear_bytes,
        n_ranks=n_ranks,
        stored=stored,
        packs=recipe.make is not None and recipe.library is None,
    )
