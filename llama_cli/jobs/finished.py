"""What an output holds against what its input asks for, in numbers: some 50 bytes for each row."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy

from .rows import hash_of
from .written import WrittenRow

Hashes = numpy.ndarray[tuple[int], numpy.dtype[numpy.uint64]]
Flags = numpy.ndarray[tuple[int], numpy.dtype[numpy.bool_]]
Numbers = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]


@dataclass(frozen=True)
class Asked:
    """The rows of an input: hashes of their ids, and of what they ask for."""

    ids: Hashes
    digests: Hashes

    @property
    def pairs(self) -> Hashes:
        return self.ids ^ self.digests


class Standing(NamedTuple):
    """Where a run stands when it begins."""

    done: Flags  # rows of the input that are answered
    changed: Flags  # rows of the input that were answered when they asked for something else
    gone: Flags  # rows of the output that are not in the input
    errors: Counter[str]  # codes of the error rows that stay
    is_untidy: bool  # some ids have several rows, of which one is to stay


class Finished:
    """The rows of an output."""

    def __init__(self, rows: Iterable[WrittenRow]) -> None:
        ids, digests, known = array("Q"), array("Q"), array("b")
        codes, offsets, sizes, places = array("q"), array("q"), array("q"), array("q")
        names: dict[str | None, int] = {None: 0}
        for row in rows:
            ids.append(hash_of(row.custom_id))
            digests.append(row.digest or 0)
            known.append(row.digest is not None)
            codes.append(names.setdefault(row.code, len(names)))
            offsets.append(row.offset)
            sizes.append(row.size)
            places.append(row.place)
        self._names = [str(name) for name in names]
        self.ids: Hashes = hashes(ids)
        self._digests: Hashes = hashes(digests)
        self._is_known: Flags = numpy.array(known, dtype=numpy.bool_)
        self._codes: Numbers = _numbers(codes)
        self.offsets: Numbers = _numbers(offsets)
        self.sizes: Numbers = _numbers(sizes)
        self._places: Numbers = _numbers(places)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_unknown(self) -> bool:
        """Whether an earlier version wrote some of them, so that what they asked for is not known."""
        return not self._is_known.all()

    def compare(self, asked: Asked, *, retry_errors: bool, by_id: bool = False) -> Standing:
        """Where a run stands; `by_id` takes what is there for answered, whatever it asked for."""
        is_error = self._codes > 0
        stays = ~is_error if retry_errors else numpy.ones(len(self), numpy.bool_)
        is_there = numpy.isin(asked.ids, self.ids[stays])
        matched = stays & self._is_known
        done = numpy.isin(asked.pairs, (self.ids ^ self._digests)[matched])
        done |= numpy.isin(asked.ids, self.ids[stays & ~self._is_known])
        if by_id:
            done = is_there
        changed = is_there & ~done
        lasting = is_error & stays & ~numpy.isin(self.ids, self.ids[~is_error])
        lasting &= ~numpy.isin(self.ids, asked.ids[changed])
        n_ids = len(numpy.unique(self.ids))
        return Standing(
            done,
            changed,
            ~numpy.isin(self.ids, asked.ids),
            self._count(lasting),
            is_untidy=n_ids < len(self) or bool(changed.any()) or bool((~stays).any()),
        )

    def _count(self, chosen: Flags) -> Counter[str]:
        """How many ids have an error row of each code."""
        _, first = numpy.unique(self.ids[chosen], return_index=True)
        return Counter(self._names[code] for code in self._codes[chosen][first])

    def best(self, asked: Asked) -> Numbers:
        """One row for each id, in the order of their indexes.

        Of several rows, those that answer what is asked for now are better than others; then answers are better than
        errors; then later rows are better than earlier ones.
        """
        is_current = numpy.isin(self.ids ^ self._digests, asked.pairs)
        order = numpy.lexsort((self.offsets, self._codes == 0, is_current, self.ids))
        is_last = numpy.append(self.ids[order][1:] != self.ids[order][:-1], True)[: len(order)]
        kept = order[is_last]
        chosen: Numbers = kept[numpy.lexsort((self.offsets[kept], self._places[kept]))]
        return chosen


def hashes(values: array[int]) -> Hashes:
    """An array of 64-bit numbers as numpy has it."""
    return numpy.array(values, dtype=numpy.uint64)


def _numbers(values: array[int]) -> Numbers:
    return numpy.array(values, dtype=numpy.int64)
