"""Opens a model by its folder or name: headers first, then the weights that they describe, mapped as they are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelRejected
from .headers import read_headers
from .safetensors_folder import StoredWeights

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

SAFE_TORCH = (2, 10)


def open_checkpoint(path: str | Path, *, tokenizer: str | Path | None = None, mmap: bool = True) -> Checkpoint:
    """Open a model by its folder or name: Meta's .pth shards, Meta's names in .safetensors, or Hugging Face's files.

    Everything about it is checked, nothing is allocated. `mmap=False` copies the weights into memory when
    they are streamed, for files that may change while in use. ModelRejected says what is wrong.
    """
    import torch

    from .checkpoint import Checkpoint
    from .meta_quantized import plain_shards

    require_safe_torch(torch.__version__)
    headers = read_headers(path, tokenizer=tokenizer)
    files = headers.files
    if isinstance(files, StoredWeights):
        files.map()
        return Checkpoint(headers, [files], headers.identities, mmap=mmap)
    opened = plain_shards(headers.folder, headers.params, files)
    return Checkpoint(headers, opened.weights, opened.identities, mmap=mmap)


def require_safe_torch(version: str) -> None:
    """ModelRejected for a torch that hostile checkpoints can break."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < SAFE_TORCH:
        raise ModelRejected(
            f"torch {version} has CVE-2026-24747; llama-cli needs 2.10 or newer", "pip install 'torch>=2.10'"
        )
