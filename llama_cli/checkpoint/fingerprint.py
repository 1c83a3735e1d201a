"""Tells models apart, as far as that goes without reading their weights."""

from __future__ import annotations

import hashlib
import json

from .checkpoint import Checkpoint


def fingerprint_of_model(checkpoint: Checkpoint, arithmetic: str, dtype: str) -> str:
    """Changes with whatever changes the answers, so with the tokenizer and with how the model is computed."""
    digest = hashlib.sha256(json.dumps([dict(checkpoint.params), arithmetic, dtype], sort_keys=True).encode())
    if checkpoint.tokenizer is not None:
        digest.update(checkpoint.tokenizer.read_bytes())
    digest.update(_sizes_of(checkpoint))
    return digest.hexdigest()


def fingerprint_of_weights(checkpoint: Checkpoint) -> str:
    """Tells the weights of two models apart."""
    digest = hashlib.sha256(json.dumps(dict(checkpoint.params), sort_keys=True).encode())
    digest.update(_sizes_of(checkpoint))
    return digest.hexdigest()


def _sizes_of(checkpoint: Checkpoint) -> bytes:
    return str([identity.size for identity in checkpoint.identities.values()]).encode()
