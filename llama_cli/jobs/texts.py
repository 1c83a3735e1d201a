"""Input rows of `score --rows`: a text, or a beginning with its possible continuations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .fields import RowError, shorten, whole
from .lines import Line
from .rows import BadRow, CustomId, RowKey, decode_line, digest_of, id_of, parse_object, raw_digest, usual_id

FIELDS = {"id", "custom_id", "text", "prompt", "choices"}
MOST_CHOICES = 1024


@dataclass(frozen=True)
class TextRow(RowKey):
    """A good row. `content` is text or ids; with `choices` what comes before each of them."""

    content: str | tuple[int, ...]
    choices: tuple[str, ...] = ()


def parse_text_row(line: Line, digest: int | None = None) -> TextRow | BadRow:
    """The row of a line; `digest` is what `identify` has found, where that was asked before."""
    custom_id: CustomId = usual_id(line.number)
    try:
        fields = parse_object(decode_line(line.data))
        if digest is None:
            digest = digest_of(fields)
        custom_id = id_of(fields, custom_id)
        return TextRow(line.place, custom_id, digest, _content_of(fields), _choices_of(fields))
    except RowError as error:
        digest = raw_digest(line) if digest is None else digest
        return BadRow(line.place, custom_id, digest, error.code, error.message)


def _content_of(fields: dict[str, Any]) -> str | tuple[int, ...]:
    unknown = fields.keys() - FIELDS
    if unknown:
        raise RowError("invalid_request", f"unknown field {shorten(min(unknown))}")
    if ("text" in fields) == ("prompt" in fields):
        raise RowError("invalid_request", "a row has either text or prompt")
    content = whole(fields.get("text", fields.get("prompt")))
    if isinstance(content, list) and content and all(type(part) is int for part in content):
        return tuple(content)
    if not isinstance(content, str):
        raise RowError("invalid_request", f"text must be a text or a list of ids, is {shorten(content)}")
    return content


def _choices_of(fields: dict[str, Any]) -> tuple[str, ...]:
    choices = fields.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise RowError("invalid_request", f"choices must be a list of texts, is {shorten(choices)}")
    if ("prompt" in fields) != bool(choices) or len(choices) > MOST_CHOICES:
        raise RowError("invalid_request", f"a prompt needs 1 to {MOST_CHOICES} choices, and a text has none")
    return tuple(choices)
