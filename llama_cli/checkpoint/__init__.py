"""Any model folder becomes named weights in Meta's vocabulary.

What needs torch is imported when a checkpoint is opened: finding folders and reading headers needs none.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelRejected
from ..files.json_file import read_object
from .catalog import expand, find_tokenizer
from .installed import find_model
from .pth.shards import shard_paths
from .unsupported import refuse_unsupported, unnested

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .reshard import Slice

__all__ = ["Checkpoint", "Slice", "open_checkpoint"]

_HOMES = {"Checkpoint": "checkpoint", "Slice": "reshard"}

SAFE_TORCH = (2, 10)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def open_checkpoint(path: str | Path, *, tokenizer: str | Path | None = None, mmap: bool = True) -> Checkpoint:
    """Open a model by its folder or name: Meta's .pth shards, Meta's names in .safetensors, or Hugging Face's files.

    Everything about it is checked, nothing is allocated. `mmap=False` copies the weights into memory when
    they are streamed, for files that may change while in use. ModelRejected says what is wrong.
    """
    import torch

    from .checkpoint import Checkpoint
    from .quantised import open_shards
    from .safetensors_folder import open_safetensors_folder
    from .stored.doubled_heads import has_copies, once

    require_safe_torch(torch.__version__)
    folder = find_model(path)
    words = expand(tokenizer) if tokenizer is not None else find_tokenizer(folder)
    shards = shard_paths(folder) if (folder / "params.json").exists() else []
    if shards:
        params = read_object(folder / "params.json")
        refuse_unsupported(params, "params.json", of_shards=True)
        opened = open_shards(folder, params, shards)
        with_heads_once = once(params)
        has_doubled_heads = with_heads_once is not None and has_copies(opened.weights, unnested(params)["n_kv_heads"])
        return Checkpoint(
            folder, with_heads_once if with_heads_once and has_doubled_heads else params, "params.json", words,
            opened.weights, opened.identities,
            mmap=mmap, is_quantised=opened.is_quantised, has_doubled_heads=has_doubled_heads,
        )  # fmt: skip
    found = open_safetensors_folder(folder)
    return Checkpoint(
        folder, found.params, found.params_name, words, [found.weights], found.identities,
        huggingface_rows=found.is_huggingface, mmap=mmap, quantization=found.quantization,
    )  # fmt: skip


def require_safe_torch(version: str) -> None:
    """ModelRejected for a torch that hostile checkpoints can break."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < SAFE_TORCH:
        raise ModelRejected(
            f"torch {version} has CVE-2026-24747; llama-cli needs 2.10 or newer", "pip install 'torch>=2.10'"
        )
