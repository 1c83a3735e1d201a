"""A SentencePiece vocabulary as GGUF files hold it becomes Llama 2's tokenizer.model again.

The file is a protobuf of a few fields (sentencepiece_model.proto), which takes less to write than to depend on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..errors import ModelRejected

UNKNOWN, CONTROL = 2, 3  # types of pieces, the same numbers in GGUF and in SentencePiece
BYTE = 6
BPE_MODEL = 2


def sentencepiece_model(
    pieces: Sequence[str], scores: Sequence[float], types: Sequence[int], *, add_prefix: bool
) -> bytes:
    """The content of tokenizer.model. `add_prefix`: a text begins with a space that it does not have."""
    if UNKNOWN not in types:
        raise ModelRejected("the tokenizer has no unknown token", "give the model's tokenizer.model with --tokenizer")
    entries = zip(pieces, scores, types, strict=True)
    body = b"".join(_message(1, _piece(piece, score, kind)) for piece, score, kind in entries)
    ids = {piece: number for number, (piece, kind) in enumerate(zip(pieces, types, strict=True)) if kind == CONTROL}
    trainer = (
        _number(3, BPE_MODEL)
        + _number(4, len(pieces))
        + _number(35, BYTE in types)  # a character without a piece is spelt in bytes
        + _number(40, types.index(UNKNOWN))
        + _number(41, ids.get("<s>", -1))
        + _number(42, ids.get("</s>", -1))
        + _number(43, -1)  # padding: none
    )
    # Text stays as it is, but for spaces, which are written U+2581.
    normalizer = _message(1, b"identity") + _number(3, add_prefix) + _number(4, False) + _number(5, True)
    return body + _message(2, trainer) + _message(3, normalizer)


def _piece(piece: str, score: float, kind: int) -> bytes:
    return _message(1, piece.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, kind)


def _message(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits."""
    value &= (1 << 64) - 1
    low = b""
    while value >= 0x80:
        low += bytes([value & 0x7F | 0x80])
        value >>= 7
    return low + bytes([value])
