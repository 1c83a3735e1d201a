"""Where a conversation is kept: in a file that somebody named, or as the last one with its model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..checkpoint.folders import TOY
from ..checkpoint.installed import find_model
from ..errors import LlamaError, OutputRefused
from ..files.claim import Claim, ensure_writable
from ..files.own import open_own
from .kept_conversations import claim_last, claim_new

# safetensors, which says first how long its header is; ours begins with what the file says about itself.
LENGTH_BYTES, CACHE_BEGINNING = 8, b'{"__metadata__":'


class Keeping(NamedTuple):
    """A file that is this process's alone. `is_last`: nobody named it, it takes the place of the last one."""

    claim: Claim
    is_last: bool


def cache_beside(path: Path) -> Path:
    """Where the cache of a session's file lies."""
    return path.with_name(f"{path.name}.cache")


def ensure_only_a_cache(path: Path) -> None:
    """OutputRefused if something else has the name of a cache: it would be replaced."""
    if not os.path.lexists(path):
        return
    with open(open_own(path, os.O_RDONLY), "rb") as file:
        head = file.read(LENGTH_BYTES + len(CACHE_BEGINNING))
    if head and head[LENGTH_BYTES:] != CACHE_BEGINNING:
        raise OutputRefused(f"{path} is no cache of a conversation", "move it away, or leave out --save-cache")


@contextmanager
def keep_in_file(path: Path, *, go_on: bool, with_cache: bool) -> Iterator[Keeping]:
    """The file that was named, while the conversation lasts; whether it can be kept there is told at once."""
    with Claim(path) as claim:
        if path.exists() and not go_on:
            raise OutputRefused(f"{path} exists", "add --continue to go on with it, or give another file")
        if with_cache:
            ensure_writable(cache_beside(path))
            ensure_only_a_cache(cache_beside(path))
        yield Keeping(claim, is_last=False)


@contextmanager
def keep_as_last(model: str | Path | None, *, go_on: bool, note: Callable[[str], None]) -> Iterator[Keeping | None]:
    """The place of the last conversation with a model; None where there is none for a new one, which is told."""
    claim = _claim_last(model, go_on=go_on, note=note)
    if claim is None:
        yield None
        return
    with claim:
        yield Keeping(claim, is_last=True)


def _claim_last(model: str | Path | None, *, go_on: bool, note: Callable[[str], None]) -> Claim | None:
    folder = TOY if model is None else find_model(model)
    if go_on:
        return claim_last(folder)
    try:
        return claim_new(folder)
    except LlamaError as error:
        note(f"this conversation is not kept: {error.message}")
        return None
