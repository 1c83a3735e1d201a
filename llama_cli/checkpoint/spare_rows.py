"""Rows of the embedding behind the tokenizer's last: padding, or tokens that somebody added and trained. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from ..files.json_file import read_object
from ..files.regular_file import unreadable
from .header import TensorHeader, item_size

MOST = 1024  # programs pad to a multiple of that at most
ID = re.compile(r"\d{1,9}", re.ASCII)
ADDED_TOKENS = ("added_tokens.json", "tokenizer_config.json")  # Hugging Face's


def n_trained(rows: Iterable[bytes]) -> int:
    """How many rows hold something of their own: neither zeros nor, as padding does, what another one holds."""
    counts = Counter(rows)
    return sum(count == 1 and bool(row.strip(b"\0")) for row, count in counts.items())


def stored_rows(parts: Mapping[Path, TensorHeader], begin: int, end: int, dim: int) -> list[bytes]:
    """Rows [begin, end) of a matrix, read from the files that hold it between them; `dim` is its whole width."""
    halves: list[list[bytes]] = []
    first = 0
    for path, part in parts.items():
        n_rows, n_columns = part.shape
        n_bytes = n_columns * item_size(part.dtype)
        is_split_on_columns = n_columns != dim
        start = begin if is_split_on_columns else max(begin - first, 0)
        stop = min(end if is_split_on_columns else end - first, n_rows)
        read = _read(path, part.offset + start * n_bytes, max(stop - start, 0) * n_bytes)
        rows = [read[at : at + n_bytes] for at in range(0, len(read), n_bytes)]
        halves = [*halves, rows] if is_split_on_columns else [[*(halves[0] if halves else []), *rows]]
        first += n_rows
    return [b"".join(row) for row in zip(*halves, strict=False)]


def _read(path: Path, offset: int, n_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(n_bytes)
    except OSError as error:
        raise unreadable(path, error) from None


def added_names(folder: Path, n_words: int) -> list[str]:
    """Tokens that Hugging Face's files beside the weights name for ids behind the tokenizer's."""
    for name in ADDED_TOKENS:
        try:
            found = read_object(folder / name)
        except ModelRejected:
            continue
        decoder = found.get("added_tokens_decoder", {})
        named = {word: number for word, number in found.items() if type(number) is int and name == ADDED_TOKENS[0]}
        if isinstance(decoder, Mapping):
            named |= {_content(entry): int(number) for number, entry in decoder.items() if ID.fullmatch(number)}
        behind = sorted((number, word) for word, number in named.items() if word and n_words <= number)
        if behind:
            return [word for _, word in behind]
    return []


def _content(entry: Any) -> str:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    return content if isinstance(content, str) else ""
