"""A system whose reads and writes end early, as those may that a signal interrupts."""

import os
import random

import pytest


def end_early(monkeypatch: pytest.MonkeyPatch, seed: int = 7) -> None:
    """Let os.read, os.pread, os.write and os.pwrite do a part of what they are asked for, at least one byte."""
    chance, real = random.Random(seed), {name: getattr(os, name) for name in ("read", "pread", "write", "pwrite")}

    def part_of(n_bytes: int) -> int:
        return chance.randint(1, n_bytes) if n_bytes else 0

    monkeypatch.setattr(os, "read", lambda handle, n_bytes: real["read"](handle, part_of(n_bytes)))
    monkeypatch.setattr(os, "pread", lambda handle, n_bytes, place: real["pread"](handle, part_of(n_bytes), place))
    monkeypatch.setattr(os, "write", lambda handle, data: real["write"](handle, data[: part_of(len(data))]))
    monkeypatch.setattr(
        os, "pwrite", lambda handle, data, place: real["pwrite"](handle, data[: part_of(len(data))], place)
    )
