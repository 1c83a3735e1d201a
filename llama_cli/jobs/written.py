"""Reads the rows of an output again: those that we wrote, and the same as another program wrote them anew."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

# How every row of ours begins; anything else is read as JSON.
NAME_MARK = "batch_req_"
PLAIN_ID = rb'(?:"(?P<text>[^"\\]*)"|(?P<number>-?\d+)), "index": (?P<index>\d+)[,}]'
OWN_ROWS = (
    re.compile(rb'\{"id": "batch_req_[0-9a-f]{16}(?P<digest>[0-9a-f]{16})?", "custom_id": ' + PLAIN_ID),
    re.compile(rb'\{"id": ' + PLAIN_ID + rb'(?: "row_hash": "(?P<digest>[0-9a-f]{16})")?'),
)
PRINTED = re.compile(rb"[ -~]*\}\r?\n?")  # a disk that failed leaves zeros
ERROR_MARK = re.compile(rb'"error": \{"code": "([a-z_]+)", "message": "[^"]*(?:\\"[^"]*)*"\}\}$')


MOST_BYTES = 1 << 30  # of a row; a file without line ends is not held whole


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of an output with their ends; ValueError at one that is longer than any row of ours."""
    while line := file.readline(MOST_BYTES):
        if len(line) == MOST_BYTES:
            raise ValueError("no row is so long")
        yield line


class WrittenRow(NamedTuple):
    """A row found in an output."""

    custom_id: str
    place: int  # its index: which row of the input, counted from 0
    digest: int | None  # of what the row asked for; None in an output that an earlier version wrote
    code: str | None  # of an error
    offset: int
    size: int


def read_written(line: bytes, offset: int) -> WrittenRow:
    """The row of a line; ValueError if no batch wrote it."""
    row = _read(line, offset)
    if not 0 <= row.place < 2**63 or not 0 <= (row.digest or 0) < 2**64:
        raise ValueError("no row has such numbers")
    return row


def _read(line: bytes, offset: int) -> WrittenRow:
    error = ERROR_MARK.search(line.rstrip(b"\r\n"))
    code = None if error is None else error[1].decode()
    for form in OWN_ROWS:
        if match := form.match(line):
            if not PRINTED.fullmatch(line):
                raise ValueError("a row is one line of plain ASCII")
            custom_id, digest = match["text"] if match["number"] is None else match["number"], match["digest"]
            known = None if digest is None else int(digest, 16)
            return WrittenRow(custom_id.decode(), int(match["index"]), known, code, offset, len(line))
    try:
        return _read_json_row(json.loads(line), offset, len(line))
    except (KeyError, TypeError, AttributeError, RecursionError) as reason:
        raise ValueError("this is no row of a batch") from reason


def _read_json_row(fields: dict[str, Any], offset: int, size: int) -> WrittenRow:
    """A row that another program has written anew, with its keys in another order or other spaces."""
    custom_id, name = (fields["custom_id"], fields["id"]) if "custom_id" in fields else (fields["id"], "")
    digest = fields.get("row_hash") or name.removeprefix(NAME_MARK)[16:]
    error = fields.get("error")
    code = str(error["code"]) if error else None
    return WrittenRow(str(custom_id), int(fields["index"]), int(digest, 16) if digest else None, code, offset, size)
