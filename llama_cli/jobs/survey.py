"""Reads an input once before anything runs: every id once, every row good where that is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress, islice

import numpy

from ..errors import InputRejected
from .finished import Asked, Flags, Hashes, hashes
from .lines import Format, Line, Lines
from .rows import BadRow, CustomId, RowKey, hash_of, identify

SHOWN = 5  # of what is wrong or differs


@dataclass(frozen=True)
class Surveyed(Asked):
    """The rows of an input with the marks of their lines, by which a changed one is found when it runs."""

    marks: array[int]


def survey(lines: Lines, parse: Callable[[Line, Format], RowKey] | None, *, unique_ids: bool = True) -> Surveyed:
    """What an input asks for. InputRejected names ids that are there twice, if each must be there once.

    With `parse` every row must be good, as it reads them; without it rows are only identified, which is less work.
    """
    ids, digests, marks = array("Q"), array("Q"), array("q")
    bad: list[str] = []
    n_bad = 0
    for line in lines:
        key = (parse or identify)(line, lines.format)
        if isinstance(key, BadRow):
            n_bad += 1
            bad += [f"line {line.number}: {key.message}"][: SHOWN - len(bad)]
        ids.append(hash_of(key.custom_id))
        digests.append(key.digest)
        marks.append(line.mark)
    if n_bad:
        rows = "row is" if n_bad == 1 else "rows are"
        raise InputRejected(
            f"{n_bad:,} {rows} bad: {listed(bad, n_bad, '; ')}", "mend what is wrong, or leave out --strict"
        )
    asked = Surveyed(hashes(ids), hashes(digests), marks)
    if unique_ids and len(numpy.unique(asked.ids)) < len(asked.ids):
        _refuse_duplicates(lines, asked.ids)
    return asked


def _refuse_duplicates(lines: Lines, ids: Hashes) -> None:
    _, first, counts = numpy.unique(ids, return_index=True, return_counts=True)
    n_several = int((counts > 1).sum())
    alike = list(compress(lines, ids == ids[first[counts > 1].min()]))
    numbers = listed([str(line.number) for line in alike[:SHOWN]], len(alike))
    name = _quoted(identify(alike[0], lines.format).custom_id)
    more = "" if n_several == 1 else f", and {n_several - 1:,} more ids are there several times"
    raise InputRejected(f"the same custom_id on lines {numbers} ({name}){more}", "give every row an id of its own")


def names_of(lines: Lines, chosen: Flags) -> str:
    """The first ids of the rows that are chosen, and how many more there are."""
    keys = (identify(line, lines.format) for line in compress(lines, chosen))
    return name_ids((key.custom_id for key in keys), int(chosen.sum()))


def name_ids(ids: Iterator[CustomId], n_ids: int) -> str:
    """The first of so many ids, as an error shows them."""
    return listed([_quoted(custom_id) for custom_id in islice(ids, SHOWN)], n_ids)


def listed(shown: list[str], n_all: int, separator: str = ", ") -> str:
    """Some of all things, and how many more there are."""
    more = f" and {n_all - len(shown):,} more" if n_all > len(shown) else ""
    return separator.join(shown) + more


def _quoted(custom_id: CustomId) -> str:
    text = str(custom_id)
    return text if len(text) <= 60 else text[:57] + "..."
