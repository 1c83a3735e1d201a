"""Meta's byte-pair tokenizer of Llama 3 and later: a file of `base64(token) rank` lines, run by tiktoken."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import tiktoken

from .base import EncodeError, TokenizerError

T = TypeVar("T")

# The pattern that cuts text into words before merging; a fact of the trained vocabulary.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Meta feeds tiktoken slices of this many characters, cut again inside runs of (non-)whitespace this long;
# the cuts change the ids around them, so parity needs the same ones.
SLICE_CHARACTERS = 400_000
RUN_CHARACTERS = 25_000
LONG_RUN = re.compile(rf"\s{{{RUN_CHARACTERS + 1},}}|\S{{{RUN_CHARACTERS + 1},}}")

N_SPECIAL = 256
NAMED_SPECIAL = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|finetune_right_pad_id|>": 4,
    "<|step_id|>": 5,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "<|eom_id|>": 8,
    "<|eot_id|>": 9,
    "<|python_tag|>": 10,
    "<|image|>": 11,
}


def special_names() -> list[str]:
    """The 256 names of Llama 3.1 and later, in the order of their ids."""
    by_place = {place: name for name, place in NAMED_SPECIAL.items()}
    unnamed = iter(range(N_SPECIAL))
    return [by_place.get(place) or f"<|reserved_special_token_{next(unnamed)}|>" for place in range(N_SPECIAL)]


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the file strictly: a line that is skipped would shift the id of every special token."""
    data = path.read_bytes()
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.rstrip(b"\n\r ").split(b"\n"), 1):
        where = f"{path.name} line {number}"
        encoded, _, rank = line.rstrip(b"\r").partition(b" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise TokenizerError(f"{where}: {encoded[:40]!r} is not base64") from None
        if not token:
            raise TokenizerError(f"{where}: the token is empty")
        if rank != str(len(ranks)).encode():
            raise TokenizerError(f"{where}: the rank must be {len(ranks)}, is {rank[:20]!r}")
        if token in ranks:
            raise TokenizerError(f"{where}: token {token[:40]!r} is there already, as {ranks[token]}")
        ranks[token] = len(ranks)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(f"{path.name}: no token for {len(missing)} of the 256 bytes, 0x{missing[0]:02x} first")
    return ranks


def slices(text: str) -> Iterator[str]:
    """Cut text where Meta cuts it."""
    for start in range(0, len(text), SLICE_CHARACTERS):
        piece = text[start : start + SLICE_CHARACTERS]
        begin = 0
        for run in LONG_RUN.finditer(piece):
            for cut in range(run.start() + RUN_CHARACTERS, run.end(), RUN_CHARACTERS):
                yield piece[begin:cut]
                begin = cut
        yield piece[begin:]


def _without_panic(call: Callable[[], T]) -> T:
    """Rust's panics reach Python as a BaseException of their own; Ctrl-C must not be taken for one."""
    try:
        return call()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise EncodeError("the tokenizer library gave up on this text") from None


class BPETokenizer:
    """Ranks first, then 256 special tokens. Only `encode(bos=..., eos=...)` makes special tokens, never text."""

    kind = "tiktoken"
    puts_space = False

    def __init__(self, path: Path) -> None:
        ranks = read_ranks(path)
        self._n_ranks = len(ranks)
        names = special_names()
        self._primary = {name: self._n_ranks + place for place, name in enumerate(names)}
        # Llama 3's own file counted four reserved names more, to 250. Where both count, 3.1's meaning stands;
        # the names that only Llama 3 has are the last five ids.
        older = {f"<|reserved_special_token_{k}|>": self._n_ranks + 5 + k for k in range(246, 251)}
        self.special_tokens = {**self._primary, **older}
        self.max_token_bytes = max(map(len, ranks))
        self._name, self._ranks = path.name, ranks

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        """Made at the first use: who only asks for sizes and special tokens need not wait for it."""
        return tiktoken.Encoding(self._name, pat_str=PATTERN, mergeable_ranks=self._ranks, special_tokens=self._primary)

    @property
    def n_words(self) -> int:
        return self._n_ranks + N_SPECIAL

    @property
    def bos_id(self) -> int:
        return self.special_tokens["<|begin_of_text|>"]

    @property
    def eos_id(self) -> int:
        return self.special_tokens["<|end_of_text|>"]

    @property
    def stop_tokens(self) -> frozenset[int]:
        names = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
        return frozenset(self.special_tokens[name] for name in names)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of `text`, the same as Meta's; a lone surrogate is an EncodeError that says where."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(f"character {error.start} is a lone surrogate, {text[error.start]!r}") from None
        ids = [self.bos_id] if bos else []
        for piece in slices(text):
            ids += _without_panic(lambda piece=piece: self._encoding.encode_ordinary(piece))  # type: ignore[misc]
        return [*ids, self.eos_id] if eos else ids

    def encode_more(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes(token_id) for token_id in ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.n_words:
            raise EncodeError(f"id {token_id} is outside the vocabulary of {self.n_words}")
        return self._encoding.decode_single_token_bytes(token_id)
