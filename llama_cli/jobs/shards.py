"""Which shards of a batch its part files are, and how many rows each should have: the files beside them say so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import lcm
from pathlib import Path
from typing import Any, NamedTuple

from .identity import identity_of

MOST_SHARDS = 1 << 20  # that are looked through for absent ones


class Shard(NamedTuple):
    """Every `of`-th row, from the one with the index `number` on."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.of}"

    def has(self, index: int) -> bool:
        """Whether a row of the input is one of it."""
        return index % self.of == self.number


class Part(NamedTuple):
    """A part file, as far as it is known what it is."""

    path: Path
    shard: Shard | None
    n_rows: int | None  # of the input that it should answer
    begun_with: tuple[Any, Any] = (None, None)  # the input and the model

    @property
    def end(self) -> int:
        """The index behind its last row; 0 where that is not known."""
        return (self.n_rows - 1) * self.shard.of + self.shard.number + 1 if self.shard and self.n_rows else 0


class Unfinished(NamedTuple):
    """A part that has not answered so many rows."""

    part: Part
    n_left: int


class Findings(NamedTuple):
    """What the parts lack, or do not tell."""

    unfinished: list[Unfinished]
    absent: list[Shard]
    unknown: list[Path]  # of which it is not known how many rows they should have
    other_input: list[Path]  # begun with another one than the first part
    other_model: list[Path]

    @property
    def is_incomplete(self) -> bool:
        return bool(self.unfinished or self.absent)


def read_part(path: Path) -> Part:
    """What is said beside a part file."""
    identity = identity_of(path) or {}
    shard, n_rows = _shard_of(identity.get("shard")), identity.get("rows")
    if shard is None or type(n_rows) is not int:
        n_rows = None
    return Part(path, shard, n_rows, (identity.get("input"), identity.get("fingerprint")))


def look_at(parts: Sequence[Part], indexes: Sequence[int]) -> Findings:
    """What parts lack that hold rows of these indexes, each once."""
    return Findings(
        [Unfinished(part, n_left) for part in parts if (n_left := _n_left(part, indexes)) > 0],
        _absent([part.shard for part in parts if part.shard is not None], indexes),
        [part.path for part in parts if part.n_rows is None],
        _others([(part.path, part.begun_with[0]) for part in parts]),
        _others([(part.path, part.begun_with[1]) for part in parts]),
    )


def _shard_of(text: object) -> Shard | None:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text) if isinstance(text, str) else None
    shard = None if found is None else Shard(int(found[1]) - 1, int(found[2]))
    return shard if shard is not None and 0 <= shard.number < shard.of else None


def _n_left(part: Part, indexes: Iterable[int]) -> int:
    if part.shard is None or part.n_rows is None:
        return 0
    return part.n_rows - sum(part.shard.has(index) and index < part.end for index in indexes)


def _absent(shards: Sequence[Shard], indexes: Iterable[int]) -> list[Shard]:
    """Shards that no part is and no row belongs to. Where an input was cut in several ways, they are the smallest."""
    whole = lcm(*(shard.of for shard in shards))
    if not shards or whole > MOST_SHARDS:
        return []
    left = set(range(whole)).difference(index % whole for index in indexes)
    for shard in shards:
        left.difference_update(range(shard.number, whole, shard.of))
    return [Shard(number, whole) for number in sorted(left)]


def _others(begun: Sequence[tuple[Path, Any]]) -> list[Path]:
    """Those that differ from the first one of which it is known."""
    known = [(path, value) for path, value in begun if value is not None]
    return [path for path, value in known if value != known[0][1]]
