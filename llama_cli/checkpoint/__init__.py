"""Any model folder becomes named weights in Meta's vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ModelRejected
from .archive import open_archive
from .catalog import find_folder, find_tokenizer
from .checkpoint import Checkpoint
from .huggingface import HuggingFaceWeights, params_of
from .json_file import read_object
from .meta import shard_paths
from .regular_file import Identity
from .safetensors_file import SafetensorsFiles, open_safetensors

__all__ = ["Checkpoint", "open_checkpoint"]

SAFE_TORCH = (2, 10)


def open_checkpoint(path: str | Path, *, tokenizer: str | Path | None = None, mmap: bool = True) -> Checkpoint:
    """Open the model in a folder: Meta's .pth shards, Meta's names in .safetensors, or Hugging Face's files.

    Everything about it is checked, nothing is allocated. `mmap=False` reads the files into memory, for
    disks that may fail or files that may change while in use. ModelRejected says what is wrong.
    """
    _require_safe_torch()
    folder = find_folder(path)
    found = Path(tokenizer).expanduser() if tokenizer is not None else find_tokenizer(folder)
    if (folder / "params.json").exists():
        params = read_object(folder / "params.json")
        shards = shard_paths(folder)
        if shards:
            archives = [open_archive(shard, mmap=mmap) for shard in shards]
            identities = {archive.path: archive.identity for archive in archives}
            return Checkpoint(folder, params, "params.json", found, archives, identities)
        files = open_safetensors(folder, mmap=mmap)
        return Checkpoint(folder, params, "params.json", found, [files], _identities(files))
    params = params_of(read_object(folder / "config.json"))
    files = open_safetensors(folder, mmap=mmap)
    weights = HuggingFaceWeights(files, _head_dim(params))
    return Checkpoint(folder, params, "config.json", found, [weights], _identities(files))


def _identities(files: SafetensorsFiles) -> dict[Path, Identity]:
    return {file.path: file.identity for file in files.files}


def _head_dim(params: dict[str, object]) -> int:
    """Needed before the whole of the parameters is checked: to undo the order of rows of wq and wk."""
    dim, n_heads, explicit = (params.get(key) for key in ("dim", "n_heads", "head_dim"))
    head_dim = explicit or (dim // n_heads if isinstance(dim, int) and isinstance(n_heads, int) and n_heads > 0 else 0)
    if not isinstance(head_dim, int) or head_dim < 1:
        raise ModelRejected(f"config.json: no head size from hidden_size {dim!r} and num_attention_heads {n_heads!r}")
    return head_dim


def _require_safe_torch() -> None:
    numbers = torch.__version__.split("+")[0].split(".")[:2]
    if tuple(int(number) for number in numbers if number.isdigit()) < SAFE_TORCH:
        raise ModelRejected(
            f"torch {torch.__version__} opens hostile checkpoints unsafely (CVE-2026-24747)",
            "pip install 'torch>=2.10'",
        )
