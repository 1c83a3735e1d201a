"""Rows of the embedding behind the tokenizer's last: padding, or tokens that somebody added and trained. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from ..files.json_file import read_object
from .header import TensorHeader
from .mapped_file import MappedFile

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
        is_split_on_columns = n_columns != dim
        start = begin if is_split_on_columns else max(begin - first, 0)
        stop = min(end if is_split_on_columns else end - first, n_rows)
        rows = MappedFile(path).rows(part, start, stop)
        halves = [*halves, rows] if is_split_on_columns else [[*(halves[0] if halves else []), *rows]]
        first += n_rows
    return [b"".join(row) for row in zip(*halves, strict=False)]


def added_names(folder: Path, tokenizer_size: int) -> list[str]:
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
        behind = sorted((number, word) for word, number in named.items() if word and tokenizer_size <= number)
        if behind:
            return [word for _, word in behind]
    return []


def _content(entry: Any) -> str:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    return content if isinstance(content, str) else ""
