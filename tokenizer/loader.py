"""Which tokenizer a file holds: decided by looking into it, not by its name."""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path
from typing import Literal

from .base import Tokenizer, TokenizerError
from .char import CharTokenizer
from .marks import NO_MARKS, Marks, check_ids

MAX_FILE_BYTES = 64 << 20

SENTENCEPIECE_BEGINNING = b"\n"  # field 1 of the protobuf: the first piece
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} 0\r?\n")

# What else lies under this name on people's disks, by its first bytes.
FOREIGN = {
    b"version https://git-lfs": ("a git-lfs pointer, not the file itself", "git lfs pull"),
    b"<": ("a web page, not a tokenizer", "download the file again, signed in"),
    b"\x1f\x8b": ("compressed with gzip", "gunzip it"),
    b"PK\x03\x04": ("a zip archive, not a tokenizer", "give Meta's tokenizer.model with --tokenizer"),
}


Kind = Literal["tiktoken", "char", "sentencepiece", "tokenizer.json"]


def load_tokenizer(path: str | Path, marks: Marks = NO_MARKS) -> Tokenizer:
    """Read chars.json, Meta's tiktoken file, a SentencePiece model or a tokenizer.json of byte pairs.

    `marks` is what the model's other files say about it. TokenizerError says what else a file is.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "tiktoken":
        from .bpe import BPETokenizer, metas_vocabulary

        return BPETokenizer(path.name, metas_vocabulary(path, marks.cuts), marks)
    if kind == "tokenizer.json":
        from .tokenizer_json import open_tokenizer_json

        return open_tokenizer_json(path, marks)
    if kind == "char":
        tokenizer = CharTokenizer.from_file(path)
        check_ids(marks, tokenizer.vocab_size)
        tokenizer.stop_tokens = marks.stop_ids
        return tokenizer
    from .spm import SentencePieceTokenizer

    return SentencePieceTokenizer(path, marks)


def kind_of(path: Path) -> Kind:
    """Which kind of tokenizer a file begins like; TokenizerError says what else it is."""
    head = _read_head(path).removeprefix(codecs.BOM_UTF8)  # which an editor may have put before JSON
    if TIKTOKEN_LINE.match(head):
        return "tiktoken"
    if head.lstrip().startswith(b"["):
        return "char"
    if head.startswith(SENTENCEPIECE_BEGINNING):
        return "sentencepiece"
    if head.lstrip().startswith(b"{"):
        return "tokenizer.json"
    for beginning, (what, hint) in FOREIGN.items():
        if head.lstrip().startswith(beginning):
            raise TokenizerError(f"{path} is {what}", hint)
    if not head.strip(b"\0"):
        raise TokenizerError(f"{path} is {'full of zeros' if head else 'empty'}", "download it again")
    raise TokenizerError(
        f"{path} is no tokenizer this program knows; it begins with {head[:16]!r}",
        "give Meta's tokenizer.model, or the chars.json of a toy, with --tokenizer",
    )


def _read_head(path: Path) -> bytes:
    """The first bytes of a regular file; a pipe or a device is not even opened."""
    try:
        status = path.stat()
        mode = status.st_mode
        if status.st_size > MAX_FILE_BYTES:
            raise TokenizerError(
                f"{path} has {status.st_size:,} bytes; a tokenizer has fewer than {MAX_FILE_BYTES:,}",
                "give Meta's tokenizer.model with --tokenizer",
            )
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise TokenizerError(f"{path} is {kind}", "give the tokenizer file itself")
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror or error}", "give another file with --tokenizer") from None
