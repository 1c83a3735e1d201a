"""What every tokenizer is, and how ids become text one at a time."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

# How SentencePiece's decoder shows the unknown piece.
UNKNOWN = " \u2047 ".encode()


class TokenizerError(ValueError):
    """A tokenizer file cannot be used."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class EncodeError(ValueError):
    """A text, or an id, is outside the vocabulary."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def kind(self) -> str:
        """`tiktoken`, `char` or `sentencepiece`."""

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, special tokens included."""

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int | None: ...

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The ids with which the family's models end what they say."""

    @property
    def special_tokens(self) -> Mapping[str, int]: ...

    @property
    def max_token_bytes(self) -> int:
        """Length of the longest token: a text of B bytes has at least B / max_token_bytes tokens."""

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of `text`. Text that looks like a special token stays text. EncodeError if it cannot be."""

    def encode_more(self, text: str) -> list[int]:
        """Ids of a text that goes on where other ids end: no space of its own is put before it."""

    @property
    def puts_space(self) -> bool:
        """Whether `encode` puts a space before a text, which belongs to its first id."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids as part of a longer text; bytes that are no UTF-8 become U+FFFD.

        Special tokens show what Meta's tokenizers show: tiktoken's their names, SentencePiece's control pieces nothing.
        """

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of one id, often a part of a character."""


def decode_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text that was encoded to ids: without the space that the tokenizer puts before it."""
    text = tokenizer.decode(ids)
    first = next((raw for raw in map(tokenizer.token_bytes, ids) if raw), b"")
    return text[1:] if tokenizer.puts_space and first.startswith(b" ") and first != UNKNOWN else text


def names_of(tokenizer: Tokenizer) -> dict[int, str]:
    """Special ids; of two names for one id the first."""
    return {token_id: name for name, token_id in reversed(list(tokenizer.special_tokens.items()))}


class StreamDecoder:
    """Decodes one id at a time and never shows half a character.

    What `feed` and `finish` return adds up to `tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that is certain after one more id."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """The rest: bytes that never became a character, as U+FFFD."""
        return self._decoder.decode(b"", final=True)
