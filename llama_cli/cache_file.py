"""Keys and values of a conversation on disk, so that going on with it computes nothing anew."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .engine.leader import Leader
from .engine.runner import Runner
from .errors import InputRejected
from .files.write import replace_file
from .session import Session


def save_cache(path: Path, session: Session) -> None:
    """Write what the fullest slot holds; OutputFailed says why it could not be."""
    runner = _runner_of(session, "no cache is kept")
    slot = max(session.engine.scheduler.slots, key=lambda slot: len(slot.held))
    keys, values = runner.cache.read(slot.index, len(slot.held))
    tensors = {"keys": keys, "values": values, "ids": torch.tensor(slot.held, dtype=torch.int64)}
    replace_file(path, iter([save(tensors, {"fingerprint": session.info.fingerprint})]), private=True)


def load_cache(path: Path, session: Session) -> int:
    """Put a saved cache into a slot: how many tokens it holds. InputRejected if it is not this model's."""
    hint = "the conversation goes on without it"
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != session.info.fingerprint:
                raise InputRejected(f"{path} was made by another model, or in another dtype", hint)
            keys, values, ids = (file.get_tensor(name) for name in ("keys", "values", "ids"))
    except (OSError, SafetensorError, ValueError):
        raise InputRejected(f"{path} is no saved cache, or a damaged one", hint) from None
    runner, args = _runner_of(session, hint), session.args
    shape = (args.n_layers, runner.cache.keys[0].shape[1], ids.numel(), args.head_dim)
    if ids.dtype != torch.int64 or ids.dim() != 1 or keys.shape != shape or values.shape != shape:
        raise InputRejected(f"{path} has not the shape of this model's cache", hint)
    if not 0 < ids.numel() <= session.max_seq_len:
        raise InputRejected(f"{path} holds {ids.numel():,} tokens; the context holds {session.max_seq_len:,}", hint)
    runner.reserve(ids.numel())
    runner.cache.restore(0, keys, values)
    session.engine.scheduler.slots[0].held = ids.tolist()
    return len(ids)


def _runner_of(session: Session, hint: str) -> Runner:
    """The runner that has all keys and values."""
    if isinstance(session.engine.runner, Leader):
        raise InputRejected("several processes have the cache, each a part of it", hint)
    return session.engine.runner
