"""Joins the part files of a sharded batch into one, in the order of the input."""

from __future__ import annotations

import os
import shlex
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from ..errors import InputRejected
from ..files.regular_file import Identity
from ..files.write import replace_file
from .rows import hash_of
from .shards import Findings, look_at, read_part
from .source import GZIP, changed_input
from .written import WrittenRow, lines_of, read_written

PARTS = "give the outputs of batch --shard I/N"


@dataclass(frozen=True)
class Merged:
    """What was found. Indexes count the rows of the input from 0."""

    n_rows: int
    n_errors: int
    n_duplicates: int
    missing: list[tuple[int, int]]  # first and last index of each gap
    findings: Findings

    @property
    def is_whole(self) -> bool:
        """Whether every row is answered, as far as that can be known."""
        return not (self.n_errors or self.missing or self.findings.is_incomplete)


class _Found:
    """Where each row of all parts lies, and what it says: 57 bytes of it."""

    def __init__(self) -> None:
        self.indexes, self.ids, self.digests = array("q"), array("Q"), array("Q")
        self.errors, self.known = array("b"), array("b")
        self.parts, self.offsets, self.sizes = array("l"), array("q"), array("q")

    def add(self, part: int, row: WrittenRow) -> None:
        """One more, of the part of that number."""
        self.indexes.append(row.place)
        self.ids.append(hash_of(row.custom_id))
        self.digests.append(row.digest or 0)
        self.known.append(row.digest is not None)
        self.errors.append(row.code is not None)
        self.parts.append(part)
        self.offsets.append(row.offset)
        self.sizes.append(row.size)

    def order(self) -> list[int]:
        """The rows by their indexes; of one index a success comes before an error."""
        return sorted(range(len(self.indexes)), key=lambda row: (self.indexes[row], self.errors[row], row))

    def first_of_each_index(self, order: Sequence[int]) -> list[int]:
        """Those that are kept."""
        return [
            row for place, row in enumerate(order) if not place or self.indexes[order[place - 1]] != self.indexes[row]
        ]

    def are_one(self, one: int, other: int) -> bool:
        """Whether two rows of one index answer the same request."""
        are_known = self.known[one] and self.known[other]
        return self.ids[one] == self.ids[other] and not (are_known and self.digests[one] != self.digests[other])


def merge_parts(parts: Sequence[Path], output: Path) -> Merged:
    """Write one row for each index, a success rather than an error.

    InputRejected if a part is no output of a batch, or if the parts are not those of one input.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path)) for path in parts]
        before = [Identity.of(os.fstat(file.fileno())) for file in files]
        found = _Found()
        for part, (path, file) in enumerate(zip(parts, files, strict=True)):
            for each in _rows_of(path, file):
                found.add(part, each)
        order = found.order()

        def line_of(row: int) -> bytes:
            files[found.parts[row]].seek(found.offsets[row])
            return files[found.parts[row]].read(found.sizes[row])

        kept = found.first_of_each_index(order)
        _refuse_several_inputs(found, order, kept, lambda row: read_written(line_of(row), 0).custom_id)

        def lines() -> Iterator[bytes]:
            yield from map(line_of, kept)
            for path, file, identity in zip(parts, files, before, strict=True):
                if Identity.of(os.fstat(file.fileno())) != identity:
                    raise changed_input(f"{path} changed while it was read")

        replace_file(output, lines())
    indexes = [found.indexes[row] for row in kept]
    described = [read_part(path) for path in parts]
    end = max(part.end for part in described)
    gaps = [(a + 1, b - 1) for a, b in pairwise([-1, *indexes, end]) if b > a + 1]
    n_errors = sum(found.errors[row] for row in kept)
    return Merged(len(kept), n_errors, len(order) - len(kept), gaps, look_at(described, indexes))


def _refuse_several_inputs(
    found: _Found, order: Sequence[int], kept: Sequence[int], name_of: Callable[[int], str]
) -> None:
    """InputRejected if one index stands for two requests, or one id at two indexes."""
    for one, other in pairwise(order):
        if found.indexes[one] == found.indexes[other] and not found.are_one(one, other):
            names = f"{name_of(one)} and {name_of(other)}, asking for different things"
            raise _several_inputs(f"row {found.indexes[one] + 1} is {names}")
    for one, other in pairwise(sorted(kept, key=lambda row: (found.ids[row], row))):
        if found.ids[one] == found.ids[other]:
            first, second = sorted((found.indexes[one] + 1, found.indexes[other] + 1))
            raise _several_inputs(f"{name_of(one)} is row {first} and row {second}")


def _several_inputs(what: str) -> InputRejected:
    return InputRejected(f"these are not parts of one input: {what}", "run the shards of one and the same input")


def _open(path: Path) -> BufferedReader:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputRejected(f"cannot read {path}: {(error.strerror or str(error)).lower()}", PARTS) from None
    if file.peek(len(GZIP)).startswith(GZIP):
        file.close()
        raise InputRejected(f"{path} is gzip", f"gunzip {shlex.quote(str(path))}, then merge it")
    return file


def _rows_of(path: Path, file: BinaryIO) -> Iterator[WrittenRow]:
    """The rows of a part; an editor may have left blank lines and a byte-order mark in it."""
    offset = 0
    try:
        for line in lines_of(file):
            start = len(BOM_UTF8) if offset == 0 and line.startswith(BOM_UTF8) else 0
            if not line.endswith(b"\n"):
                raise InputRejected(f"{path} ends in a torn row", "run its batch again to the end")
            if line.strip():
                yield read_written(line[start:], offset + start)
            offset += len(line)
    except ValueError:
        raise InputRejected(f"{path} holds a line at byte {offset} that no batch wrote", PARTS) from None
