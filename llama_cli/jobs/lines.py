"""The lines of an input that are rows, and whether they are JSON or text."""

from __future__ import annotations

import logging
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from .other_formats import parse_json, refuse_documents, refuse_other_bytes

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 16 << 20
SKIP_BYTES = 1 << 20

Format = Literal["auto", "openai", "prompts", "text"]

MARK_BYTES = 8  # what programs put before JSON: a record separator, `data: `, a space that JSON does not know

ROW_KEYS = {"prompt", "messages", "body"}


class Line(NamedTuple):
    """A line that is a row."""

    place: int  # of the row, counted from 0: blank lines are none
    number: int  # of the line in the file, counted from 1
    data: bytes | None  # without its end; None for one that is too long

    @property
    def mark(self) -> int:
        """64 bits by which this process knows the line again; a tenth of the time of any hash that lasts."""
        return hash(self.data or b"")


class Readable(Protocol):
    """What lines are read from: a Source."""

    name: str

    def rewind(self) -> None: ...

    def peek(self) -> bytes: ...

    def readline(self, most_bytes: int, /) -> bytes: ...


def read_lines(file: Readable) -> Iterator[bytes | None]:
    """The lines of a file without their ends; None for one that is too long, which is never held whole."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (more := file.readline(SKIP_BYTES)) and not more.endswith(b"\n"):
                pass
            yield None
        else:
            yield line.removesuffix(b"\n").removesuffix(b"\r")


class Lines:
    """The rows of an input, those of one shard only: no blank lines, no byte-order marks.

    Going through them begins at the beginning, where the source allows that. For `auto` the first row is an example
    of all. InputRejected says what the input is if it holds no rows. A line is parsed when its row is asked for.
    """

    def __init__(self, source: Readable, format_: Format, shard: tuple[int, int] = (0, 1)) -> None:
        self.format: Format = format_
        self._source = source
        self._part, self._whole = shard
        self._watches = False  # for JSON among lines that are taken for text

    def __iter__(self) -> Iterator[Line]:
        self._source.rewind()
        beginning = self._source.peek().removeprefix(BOM_UTF8)
        refuse_other_bytes(beginning, self._source.name)
        place = 0
        for number, data in enumerate(read_lines(self._source), 1):
            data = data and data.removeprefix(BOM_UTF8)  # files that are put together have one before each
            if data is not None and not data.strip():
                continue
            if place == 0:
                self._settle_format(beginning if data is None else data)
            elif self._watches and data is not None and _is_row(data):
                self._tell_of_json(number)
            if place % self._whole == self._part:
                yield Line(place, number, data)
            place += 1

    def _settle_format(self, first: bytes) -> None:
        """Look at the first row for what all are."""
        if self.format == "text":
            return
        is_auto = self.format == "auto"
        refuse_documents(first, self._source.peek(), self._source.name, is_json=not is_auto)
        if is_auto and not first.lstrip().startswith(b"{"):
            self.format = "text"
            self._watches = not _tells_of_wrapped_json(first)

    def _tell_of_json(self, number: int) -> None:
        self._watches = False
        logger.warning(
            "line %d is a row in JSON, but the first one is not: every line is taken for a prompt as it stands;"
            " give --format prompts, or --format text if that is meant",
            number,
        )


def _tells_of_wrapped_json(first: bytes) -> bool:
    """Whether a line of text holds a row or a text in JSON, which is told: as it stands it is hardly a prompt."""
    before, brace, rest = first.partition(b"{")
    if len(before) <= MARK_BYTES and _is_row(brace + rest):
        what = f"begins with {before.decode('utf-8', 'replace')!a} before a row in JSON: take that away"
    elif first.lstrip().startswith(b'"') and isinstance(parse_json(first), str):
        what = "is a text in JSON, quotes and all: jq -r writes it without"
    else:
        return False
    logger.warning("the first line %s. Every line is taken for a prompt as it stands; --format text if so meant", what)
    return True


def _is_row(data: bytes) -> bool:
    fields = parse_json(data) if data.lstrip().startswith(b"{") else None
    return isinstance(fields, dict) and not ROW_KEYS.isdisjoint(fields)
