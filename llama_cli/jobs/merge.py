"""Joins the part files of a sharded batch into one, in the order of the input."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import InputRejected
from ..files.write import replace_file
from .ledger import ERROR_MARK

# A row of ours says its index early; text in it could not hold these bytes unescaped.
INDEX = re.compile(rb'"index": (\d+)[,}]')


@dataclass(frozen=True)
class Merged:
    """What was found. Indexes count the rows of the input from 0."""

    n_rows: int
    n_errors: int
    n_duplicates: int
    missing: list[tuple[int, int]]  # first and last index of each gap


def merge_parts(parts: Sequence[Path], output: Path) -> Merged:
    """Write one row for each index, a success rather than an error; InputRejected if a part is no batch output.

    Only the place of each row is held, 33 bytes of it.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path)) for path in parts]
        indexes, errors, which, offsets, sizes = array("q"), array("b"), array("l"), array("q"), array("q")
        for number, (path, file) in enumerate(zip(parts, files, strict=True)):
            offset = 0
            for line in file:
                indexes.append(_index_of(path, line, offset))
                errors.append(ERROR_MARK.search(line.rstrip(b"\n")) is not None)
                which.append(number)
                offsets.append(offset)
                sizes.append(len(line))
                offset += len(line)
        order = sorted(range(len(indexes)), key=lambda row: (indexes[row], errors[row], row))
        kept = [row for place, row in enumerate(order) if not place or indexes[order[place - 1]] != indexes[row]]

        def rows() -> Iterator[bytes]:
            for row in kept:
                files[which[row]].seek(offsets[row])
                yield files[which[row]].read(sizes[row])

        replace_file(output, rows())
    found = [indexes[row] for row in kept]
    gaps = [(a + 1, b - 1) for a, b in zip([-1, *found], found, strict=False) if b > a + 1]
    return Merged(len(kept), sum(errors[row] for row in kept), len(order) - len(kept), gaps)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputRejected(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def _index_of(path: Path, line: bytes, offset: int) -> int:
    if not line.endswith(b"\n"):
        raise InputRejected(f"{path} ends in a torn row", "run its batch again to the end")
    match = INDEX.search(line, 0, 2048)
    if match:
        return int(match[1])
    try:
        return int(json.loads(line)["index"])
    except (ValueError, KeyError, TypeError):
        raise InputRejected(f"{path} holds a line at byte {offset} that no batch wrote") from None
