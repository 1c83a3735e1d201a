"""Byte-pair vocabularies as Hugging Face and GGUF write them: tokens spelt in letters, and a list of merges."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cache


@cache
def letters() -> Mapping[int, str]:
    """GPT-2's spelling of bytes as letters: printable ones as themselves, the others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(0x100 + place) for place, byte in enumerate(others)}


def spell(token: bytes) -> str:
    """A token in letters."""
    known = letters()
    return "".join(known[byte] for byte in token)


@cache
def _bytes_by_letter() -> Mapping[str, int]:
    return {letter: byte for byte, letter in letters().items()}


def unspell(word: str) -> bytes:
    """The bytes that letters spell; KeyError for a letter that stands for none."""
    known = _bytes_by_letter()
    return bytes([known[letter] for letter in word])


def in_order_of_merging(normal: Mapping[int, bytes], merged: Iterable[int]) -> list[int]:
    """Ids in the order in which tiktoken has to rank them: as they are, if that is the order of the merges.

    `merged` has for each merge, first to last, the id that it makes.
    """
    first: dict[int, int] = {}
    for place, number in enumerate(merged):
        first.setdefault(number, place)
    if list(first) == sorted(first):
        return list(normal)
    # Single bytes, then what is merged of them, then what no merge makes.
    return sorted(normal, key=lambda number: first.get(number, -1 if len(normal[number]) == 1 else len(first)))


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two parts that are joined last in making each token, in the order of the ranks.

    A token that merging never makes has none: it is found as a whole word alone.
    """
    return [parts for token, rank in ranks.items() if len(token) > 1 and (parts := _last_parts(token, rank, ranks))]


def _last_parts(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    parts: Sequence[bytes] = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
        best = min(pairs)
        if best >= rank:
            return None
        place = pairs.index(best)
        parts = [*parts[:place], parts[place] + parts[place + 1], *parts[place + 2 :]]
    return parts[0], parts[1]
