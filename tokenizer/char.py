"""The tokenizer of toy models: one id for each character of a fixed list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType

from .base import EncodeError, TokenizerError

MAX_SYMBOLS = 65536
MAX_FILE_BYTES = 1 << 20


class CharTokenizer:
    """Ids are places in `symbols`; there are no special tokens."""

    kind = "char"
    puts_space = False
    bos_id: int | None = None
    eos_id: int | None = None
    stop_tokens: frozenset[int] = frozenset()
    special_tokens = MappingProxyType[str, int]({})
    max_token_bytes = 4

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._ids = {symbol: place for place, symbol in enumerate(self.symbols)}

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The vocabulary of a text: its distinct characters, sorted."""
        symbols = sorted(set(text))
        if not 1 <= len(symbols) <= MAX_SYMBOLS:
            raise TokenizerError(f"a text of {len(symbols)} distinct characters; 1 to {MAX_SYMBOLS} are possible")
        return cls(symbols)

    @classmethod
    def from_file(cls, path: Path) -> CharTokenizer:
        """Read chars.json: a JSON list of distinct single characters, sorted."""
        data = path.read_bytes()
        if len(data) > MAX_FILE_BYTES:
            raise TokenizerError(f"{path.name} has {len(data):,} bytes; a list of characters has fewer")
        try:
            symbols = json.loads(data)
        except (ValueError, RecursionError):
            raise TokenizerError(f"{path.name} is not JSON") from None
        if not isinstance(symbols, list) or not 1 <= len(symbols) <= MAX_SYMBOLS:
            raise TokenizerError(f"{path.name} must be a list of 1 to {MAX_SYMBOLS} characters")
        for place, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or len(symbol) != 1 or "\ud800" <= symbol <= "\udfff":
                raise TokenizerError(f"{path.name}: entry {place} must be one character, is {str(symbol)[:20]!r}")
            if place and symbols[place - 1] >= symbol:
                raise TokenizerError(f"{path.name}: entry {place}, {symbol!r}, is out of order or there twice")
        return cls(symbols)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.symbols) + "\n")

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of `text`; a character outside the vocabulary is an EncodeError that says which and where."""
        try:
            return [self._ids[symbol] for symbol in text]
        except KeyError as error:
            raise self._unknown(text, error.args[0]) from None

    def encode_more(self, text: str) -> list[int]:
        return self.encode(text)

    def _unknown(self, text: str, symbol: str) -> EncodeError:
        at = text.index(symbol)
        line = text.count("\n", 0, at) + 1
        column = at - (text.rfind("\n", 0, at) + 1) + 1
        known = "".join(symbol for symbol in self.symbols if symbol.isprintable())
        shown = known if len(known) <= 80 else known[:77] + "..."
        return EncodeError(
            f"{symbol!r} at character {at} (line {line}, column {column}) is not in the vocabulary of this model",
            f"its {len(self.symbols)} characters are: {shown}",
        )

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self._symbol(token_id) for token_id in ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._symbol(token_id).encode()

    def _symbol(self, token_id: int) -> str:
        if not 0 <= token_id < len(self.symbols):
            raise EncodeError(f"id {token_id} is outside the vocabulary of {len(self.symbols)}")
        return self.symbols[token_id]
