"""The text of bytes that a user gives, from a file or a pipe: UTF-8, with a byte-order mark or without."""

from __future__ import annotations

import codecs

from ..errors import InputRejected

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's little-endian one begins like the first
LOOKED_AT = 64  # bytes in which UTF-16 without a mark shows


def text_of(data: bytes, what: str, *, begins: bool = True) -> str:
    """The text, without the mark that editors of Windows put before it; InputRejected if it is no UTF-8.

    `begins` says that these are the first bytes of the file or pipe called `what`.
    """
    if begins:
        if is_utf_16(data):
            raise InputRejected(f"{what} is UTF-16, not UTF-8", "convert it: iconv -f utf-16 -t utf-8")
        data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputRejected(
            f"{what} is not valid UTF-8 at byte {error.start}", "convert it: iconv -f latin1 -t utf-8"
        ) from None


def is_utf_16(data: bytes) -> bool:
    """Whether a mark says so, or every second byte of the first ones is zero as in Latin letters."""
    head = data[:LOOKED_AT]
    halves = [half.strip(b"\0") for half in (head[0::2], head[1::2])]
    return head.startswith(UTF_16_MARKS) or (len(head) >= 8 and bool(halves[0]) != bool(halves[1]))
