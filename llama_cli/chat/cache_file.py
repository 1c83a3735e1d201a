"""Keys and values of a conversation on disk, so that going on with it computes nothing anew.

The file is believed only where it is ours, of this model, and as it was written: its checksum covers all that is used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..engine.runner import Snapshot
from ..errors import InputRejected, LlamaError
from ..files.own import open_own
from ..files.write import replace_file
from ..llm import LLM
from .keeping import ensure_only_a_cache

NAMES = ("keys", "values", "ids")
GOES_ON = "the conversation goes on without it"


def save_cache(path: Path, session: LLM) -> None:
    """Write what the fullest slot holds; OutputFailed or OutputRefused says why it could not be."""
    try:
        ids, keys, values = session.engine.snapshot()
    except InputRejected as error:
        raise InputRejected(error.message, "no cache is kept") from None
    tensors = {"keys": keys, "values": values, "ids": torch.tensor(ids, dtype=torch.int64)}
    about = {"fingerprint": session.info.fingerprint}
    ensure_only_a_cache(path)
    replace_file(path, iter([save(tensors, about | {"sha256": _checksum(tensors, about)})]), private=True)


def load_cache(path: Path, session: LLM) -> int:
    """Put a saved cache into a slot: how many tokens it holds. InputRejected if it is not this model's."""
    about, tensors = _read(path)
    if about.get("fingerprint") != session.info.fingerprint:
        raise InputRejected(f"{path} was made by another model, or in another dtype", GOES_ON)
    keys, values, ids = (tensors[name] for name in NAMES)
    if ids.dtype != torch.int64 or ids.dim() != 1:
        raise InputRejected(f"{path} has no list of ids", GOES_ON)
    try:
        session.engine.restore(Snapshot(ids.tolist(), keys, values))
    except InputRejected as error:
        raise InputRejected(f"{path}: {error.message}", GOES_ON) from None
    return len(ids)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a file says about itself, and its tensors; InputRejected if it is not as it was written."""
    damaged = InputRejected(f"{path} is no saved cache, or a damaged one", GOES_ON)
    try:
        os.close(open_own(path, os.O_RDONLY))
        with safe_open(path, framework="pt") as file:
            about: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in NAMES}
    except LlamaError as error:
        raise InputRejected(error.message, GOES_ON) from None
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError):
        raise damaged from None
    if about.pop("sha256", None) != _checksum(tensors, about):
        raise damaged
    return about, tensors


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of all that is used: what the file says about itself, and each tensor with its dtype and shape."""
    digest = hashlib.sha256(repr(sorted(about.items())).encode())
    for name in NAMES:
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
