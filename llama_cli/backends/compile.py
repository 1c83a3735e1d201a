"""Blocks compiled by torch.compile: what lies between two products of matrices becomes one kernel."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from ..errors import UsageError
from ..files.private import private_folder, temporary_folder
from ..model.batch import Batch
from ..model.llama import Llama
from ..model.span import Span
from .cuda import WeightOnlyInt4Linear, WeightOnlyInt8Linear

logger = logging.getLogger(__name__)

SEEN_THROUGH = (nn.Linear, WeightOnlyInt8Linear, WeightOnlyInt4Linear)
PARTS = ("before", "after")  # of a block
FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"

# Sizes to compile with that nothing else has: what is equal then is taken to be so always. The last number of tokens is
# for layers that treat a few in another way (WeightOnlyInt8Linear); the others have been compiled for it by then.
TOKENS = (1, 47, 7)
CACHED = 53  # positions

# On a GPU the product of one row is made part of a kernel too, which reads weights faster than cuBLAS does.
GPU_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"coordinate_descent_tuning": True}


def folder_of_results() -> Path:
    """Where what is compiled is kept for other processes; UsageError if there is no such place."""
    try:
        return private_folder("compiled")
    except OSError as error:
        why = error
    try:
        folder = temporary_folder("compiled")
    except OSError as error:
        message = f"--compile has no place to keep its results: {why}; {error}"
        raise UsageError(message, "leave --compile out") from None
    logger.info("what is compiled is kept in %s: %s", folder, why)
    return folder


def compile_blocks(model: Llama, n_slots: int, folder: Path) -> None:
    """Have every block run compiled: for steps of one token, and for those of more.

    Blocks of a kind share what is made of the first, and other processes find it in `folder`. UsageError if it fails.
    """
    if os.environ.get(FOLDER_VARIABLE) in (None, default_cache_dir()):  # where torch puts its default too
        os.environ[FOLDER_VARIABLE] = str(folder)
    for block in model.layers:
        for layer in (layer for part in block.children() for layer in part.children()):
            if not isinstance(layer, SEEN_THROUGH):
                layer.forward = MethodType(_unseen, layer)
    options = GPU_OPTIONS if model.tok_embeddings.weight.is_cuda else None
    for name in PARTS:
        compiled = {
            kind: torch.compile(getattr(kind, name), dynamic=True, options=options)
            for kind in {type(block) for block in model.layers}
        }
        for block in model.layers:
            setattr(block, name, MethodType(compiled[type(block)], block))
    try:
        for n_tokens in TOKENS:
            _run(model, n_slots, n_tokens)
    except TorchDynamoException as error:
        why = str(error).strip().splitlines()[0]
        raise UsageError(f"--compile: {why}", "leave --compile out") from error


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _unseen(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of kernels that inductor cannot look into: ours, oneDNN's, those that ranks run together."""
    out: Tensor = type(layer).forward(layer, x)
    return out


def _run(model: Llama, n_slots: int, n_tokens: int) -> None:
    """Compute something, which is when it is compiled."""
    cache = model.make_cache(n_slots, CACHED)
    model.prepare_rope(CACHED)
    with torch.inference_mode():  # the cache is made outside, as a runner's is
        model(Batch.of([Span(0, 0, n_tokens, 1)], [0] * n_tokens, model.rope, cache), cache)
