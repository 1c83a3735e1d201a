"""Byte-pair tokenizers, run by tiktoken; Llama 3's own is a file of `base64(token) rank` lines."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import tiktoken

from .base import EncodeError, TokenizerError
from .marks import NO_MARKS, Cuts, Marks, check_ids

T = TypeVar("T")

# The patterns that cut text into words before merging.
PATTERNS: Mapping[Cuts, str] = {
    "llama3": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Each digit is cut out first, and GPT-2's pattern cuts what lies between: white space before a digit ends a part.
    "smollm": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
}

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

FAMILY_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


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


@dataclass(frozen=True)
class BytePairs:
    """A vocabulary in the order of merging, which need not be that of its ids."""

    ranks: Mapping[bytes, int]  # every byte is there
    specials: Mapping[str, int]  # names of ids that text never becomes; of two for one id the first is shown
    cuts: Cuts = "llama3"
    ids: Sequence[int | None] | None = None  # of each rank, None: text loses it; no list: the rank is the id
    unmerged: Mapping[int, bytes] = field(default_factory=dict)  # ids of tokens that no merge makes
    bos_id: int | None = None
    eos_id: int | None = None


def metas_vocabulary(path: Path, cuts: Cuts) -> BytePairs:
    """A file of Meta's: the ranks, then 256 special tokens."""
    ranks = read_ranks(path)
    primary = metas_specials(len(ranks))
    begin, end = (primary[name] for name in ("<|begin_of_text|>", "<|end_of_text|>"))
    return BytePairs(ranks, primary, cuts, bos_id=begin, eos_id=end)


def metas_specials(n_ranks: int) -> dict[str, int]:
    """Meta's names behind so many ranks.

    Llama 3's own file counted four reserved names more, to 250. Where both count, 3.1's meaning stands;
    the names that only Llama 3 has are the last five ids.
    """
    names = {name: n_ranks + place for place, name in enumerate(special_names())}
    return names | {f"<|reserved_special_token_{k}|>": n_ranks + 5 + k for k in range(246, 251)}


class BPETokenizer:
    """Byte pairs and special tokens. Only `encode(bos=..., eos=...)` makes special tokens, never text."""

    kind = "tiktoken"
    puts_space = False

    def __init__(self, name: str, vocabulary: BytePairs, marks: Marks = NO_MARKS) -> None:
        self._name, self.vocabulary = name, vocabulary
        self.special_tokens: dict[str, int] = {**marks.names, **_without(vocabulary.specials, marks.names)}
        ranked = (len(vocabulary.ranks) - 1,) if vocabulary.ids is None else filter(None, vocabulary.ids)
        self.vocab_size = 1 + max(*self.special_tokens.values(), *vocabulary.unmerged, *ranked, 0)
        self.max_token_bytes = max(map(len, vocabulary.ranks))
        check_ids(marks, self.vocab_size)
        own = vocabulary.bos_id if marks.bos_token is None else self.special_tokens.get(marks.bos_token)
        self.bos_id = {None: vocabulary.bos_id, True: own, False: None}[marks.adds_bos]
        self.eos_id = vocabulary.eos_id if marks.eos_token is None else self.special_tokens.get(marks.eos_token)
        ends = (self.special_tokens.get(name) for name in FAMILY_ENDS)
        said = [self.eos_id, vocabulary.eos_id, *ends]
        self.stop_tokens = marks.stop_ids.union(number for number in said if number is not None)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        """Made at the first use: who only asks for sizes and special tokens need not wait for it."""
        ranks = dict(self.vocabulary.ranks)
        pattern = PATTERNS[self.vocabulary.cuts]
        return tiktoken.Encoding(self._name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    @cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of each id; empty for an id that no file names."""
        found = [b""] * self.vocab_size
        ids = self.vocabulary.ids
        for rank, token in enumerate(self.vocabulary.ranks):
            number = rank if ids is None else ids[rank]
            if number is not None:
                found[number] = token
        for number, token in self.vocabulary.unmerged.items():
            found[number] = token
        for name, number in reversed(self.special_tokens.items()):
            found[number] = name.encode()
        return found

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of `text`, the same as Meta's; a lone surrogate is an EncodeError that says where."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(f"character {error.start} is a lone surrogate, {text[error.start]!r}") from None
        ids: list[int] = []
        for piece in slices(text):
            ids += _without_panic(lambda piece=piece: self._encoding.encode_ordinary(piece))  # type: ignore[misc]
        if self.vocabulary.ids is not None:
            numbers = self.vocabulary.ids
            ids = [number for rank in ids if (number := numbers[rank]) is not None]
        begin = [self.bos_id] if bos and self.bos_id is not None else []
        return [*begin, *ids, *([self.eos_id] if eos and self.eos_id is not None else [])]

    def encode_more(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.token_bytes(token_id) for token_id in ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise EncodeError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token_id]


def _without(specials: Mapping[str, int], names: Mapping[str, int]) -> dict[str, int]:
    """The names that the model itself does not use for another id."""
    return {name: number for name, number in specials.items() if name not in names}
