"""The rows of an input that are still to run, and what came of each line when the input was read before."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, Literal, NamedTuple

import numpy

from .finished import Flags, Standing
from .lines import Lines
from .rows import BadRow, hash_of
from .source import Source, changed_input
from .survey import Surveyed
from .task import RowT, Task

# Which of the lines that a row can come out as are kept. A row that was done before may run once more beside its
# neighbours, and one that may have killed the process runs alone first: neither is asked for its answer.
Keeps = Literal["all", "failures", "nothing"]


@dataclass(frozen=True, slots=True)  # Python 3.10 has no generic NamedTuple
class Taken(Generic[RowT]):
    """A row that is to run."""

    row: RowT | BadRow
    keeps: Keeps = "all"


class Known(NamedTuple):
    """What an input asks for, and what of that the output has."""

    asked: Surveyed
    standing: Standing


class RowsLeft(Generic[RowT]):
    """The rows of one shard that are left. `known` is None where the input can be read only once."""

    def __init__(self, task: Task[RowT], source: Source, lines: Lines, known: Known | None) -> None:
        self.task = task
        self.source = source
        self.lines = lines
        self.known = known

    @property
    def n_before(self) -> int:
        """Rows that earlier runs have finished."""
        return 0 if self.known is None else int(self.known.standing.done.sum())

    @property
    def errors_before(self) -> Counter[str]:
        """Those of them that failed and do not run again, by the code of their error."""
        return Counter() if self.known is None else self.known.standing.errors

    def groups(self, size: int | None) -> Iterator[Iterator[Taken[RowT]]]:
        """Rows that run together, each group read as needed: all of them, or always the same `size` of the input.

        Of a group that is not done all rows run once more, so that each has the neighbours that it has in any run.
        """
        if size is None:
            yield (taken for _, taken in self._taken(None))
            return
        for _, group in groupby(self._taken(size), key=lambda numbered: numbered[0] // size):
            yield (taken for _, taken in group)

    def ensure_unchanged(self) -> None:
        """InputRejected if the input is not what it was. It is read once more where its size and time do not tell."""
        self.source.ensure_unchanged()
        if self.known is None or not self.source.was_touched():
            return
        if array("q", (line.mark for line in self.lines)) != self.known.asked.marks:
            raise changed_input(f"{self.source.name} changed while it was read")

    def alone(self) -> Iterator[RowT | BadRow]:
        """The rows that are not done."""
        return (taken.row for _, taken in self._taken(None))

    def _taken(self, size: int | None) -> Iterator[tuple[int, Taken[RowT]]]:
        """The rows that are to run, each with its number."""
        if self.known is None:
            yield from ((number, Taken(row)) for number, row in enumerate(self._once()))
            return
        asked, done = self.known.asked, self.known.standing.done
        runs = ~done if size is None else _in_groups(~done, size)
        numbered = enumerate(zip(self.lines, runs, asked.digests, asked.marks, strict=False))
        for number, (line, is_to_run, digest, mark) in numbered:
            if not is_to_run:
                continue
            if line.mark != mark:
                raise changed_input(f"{self.source.name} changed at line {line.number} while it was read")
            row = self.task.parse(line, self.lines.format, int(digest))
            yield number, Taken(row, "nothing" if done[number] else "all")

    def _once(self) -> Iterator[RowT | BadRow]:
        """The rows of an input that can be read only once; ids that come again have become known by then."""
        seen: set[int] = set()
        for line in self.lines:
            row = self.task.parse(line, self.lines.format)
            known = hash_of(row.custom_id) if self.task.unique_ids else None
            if known in seen:
                yield BadRow.of(row, "duplicate_custom_id", "an earlier row has this custom_id")
                continue
            if known is not None:
                seen.add(known)
            yield row


def _in_groups(left: Flags, size: int) -> Flags:
    """The same flags for groups of `size` rows: raised for all rows of a group where one is raised."""
    starts = numpy.arange(0, len(left), size)
    of_groups = numpy.logical_or.reduceat(left, starts) if len(left) else left
    return numpy.repeat(of_groups, size)[: len(left)]
