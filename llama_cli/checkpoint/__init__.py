"""Any model folder becomes named weights in Meta's vocabulary.

What needs torch is imported when a checkpoint is opened: finding folders and reading headers needs none.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelRejected
from ..model.args import refuse_unsupported
from .catalog import expand, find_tokenizer
from .installed import find_model
from .json_file import read_object
from .meta import shard_paths

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
    from .huggingface import HuggingFaceWeights, params_of, speaks_hugging_face
    from .quantised import open_shards
    from .safetensors_file import open_safetensors

    require_safe_torch(torch.__version__)
    folder = find_model(path)
    words = expand(tokenizer) if tokenizer is not None else find_tokenizer(folder)
    has_params, has_config = ((folder / name).exists() for name in ("params.json", "config.json"))
    shards = shard_paths(folder) if has_params else []
    if shards:
        params = read_object(folder / "params.json")
        refuse_unsupported(params, "params.json")
        opened = open_shards(folder, params, shards)
        return Checkpoint(
            folder, params, "params.json", words, opened.weights, opened.identities,
            mmap=mmap, is_quantised=opened.is_quantised,
        )  # fmt: skip
    files = open_safetensors(folder, metas_first=has_params)
    identities = {file.path: file.identity for file in files.files}
    theirs = speaks_hugging_face(files)
    if has_config and (theirs or not has_params):
        config = read_object(folder / "config.json")
        params, source, tied = params_of(config), "config.json", bool(config.get("tie_word_embeddings"))
    else:
        params, source = read_object(folder / "params.json"), "params.json"
        tied = "lm_head.weight" not in files.names()
    weights = HuggingFaceWeights(files, tied=tied) if theirs else files
    return Checkpoint(folder, params, source, words, [weights], identities, huggingface_rows=theirs, mmap=mmap)


def require_safe_torch(version: str) -> None:
    """ModelRejected for a torch that hostile checkpoints can break."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < SAFE_TORCH:
        raise ModelRejected(
            f"torch {version} has CVE-2026-24747; llama-cli needs 2.10 or newer", "pip install 'torch>=2.10'"
        )
