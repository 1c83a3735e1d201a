"""Messages that come in lines, one in each: as text of the user, or as JSON that says whose it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from ..errors import InputRejected
from ..tokenizer import EncodeError
from ..tokenizer.message import IGNORED_MESSAGE_FIELDS, MESSAGE_FIELDS, Message


def read_messages(lines: Iterable[str], *, as_json: bool) -> Iterator[Message]:
    """The messages of lines, read as needed; blank lines are none. InputRejected names the line that is no message."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _message_of(line, number) if as_json else Message("user", line)


def _message_of(line: str, number: int) -> Message:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InputRejected(f"line {number} is no JSON object", '{"role": "user", "content": "Hello"}')
    unknown = sorted(fields.keys() - MESSAGE_FIELDS - IGNORED_MESSAGE_FIELDS)
    if unknown:
        raise InputRejected(f"line {number}: {unknown[0][:40]} is no part of a message", "settings are flags")
    try:
        return Message.of(fields)
    except EncodeError as error:
        raise InputRejected(f"line {number}: {error.message}", error.hint) from None
