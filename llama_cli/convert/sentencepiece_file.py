"""Llama 2's tokenizer.model: written from a vocabulary as GGUF files hold it, and taken apart again.

The file is a protobuf of a few fields (sentencepiece_model.proto), which takes less to write than to depend on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import ModelRejected

UNKNOWN, CONTROL = 2, 3  # types of pieces, the same numbers in GGUF and in SentencePiece
USER_DEFINED, BYTE = 4, 6
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


class Pieces(NamedTuple):
    """A vocabulary, and what becomes of a text before it is cut."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    add_prefix: bool
    charsmap: bytes  # SentencePiece's own table of characters that are replaced; empty: none is


def read_pieces(data: bytes) -> Pieces | None:
    """The pieces and settings of a tokenizer.model; None where a tokenizer.json of merges cannot do the same.

    It cannot where the algorithm is not byte pairs, or where white space is not kept as it is.
    """
    found = Pieces([], [], [], add_prefix=True, charsmap=b"")
    for field, value in _fields(data):
        inner: dict[int, Any] = dict(_fields(value)) if isinstance(value, bytes) else {}
        if field == 1:
            found.pieces.append(inner[1].decode())
            found.scores.append(struct.unpack("<f", inner.get(2, bytes(4)))[0])
            found.types.append(inner.get(3, 1))
        elif field == 2 and inner.get(3, 1) != BPE_MODEL:
            return None
        elif field == 3:
            if inner.get(4, 1) or not inner.get(5, 1):
                return None
            found = found._replace(add_prefix=bool(inner.get(3, 1)), charsmap=inner.get(2, b""))
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf, one after the other; of numbers with a point the bytes."""
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        field, kind = key >> 3, key & 7
        if kind == 0:
            number, place = _read_varint(data, place)
            yield field, number
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, place = _read_varint(data, place)
        yield field, data[place : place + size]
        place += size


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[place] & 0x7F) << shift
        if data[place] < 0x80:
            return value, place + 1
        place, shift = place + 1, shift + 7
