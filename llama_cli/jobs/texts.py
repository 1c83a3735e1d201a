"""Input rows of `score --rows`: a text, or a beginning with its possible continuations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .fields import RowError, shorten, whole
from .lines import Lines
from .rows import BadRow, RowKey, decode_line, digest_of, id_of, parse_object, usual_id
from .source import Source

FIELDS = {"id", "custom_id", "text", "prompt", "choices"}
MOST_CHOICES = 1024


@dataclass(frozen=True)
class TextRow(RowKey):
    """A good row. `content` is text or ids; with `choices` what comes before each of them."""

    content: str | tuple[int, ...]
    choices: tuple[str, ...] = ()


def read_text_rows(source: Source) -> Iterator[TextRow | BadRow]:
    """Every line as a row or as what is wrong with it, read as needed."""
    for line in Lines(source, "prompts"):
        key = RowKey(line.place, usual_id(line.number), 0)
        try:
            fields = parse_object(decode_line(line.data))
            key = RowKey(line.place, id_of(fields, key.custom_id), digest_of(fields))
            content, choices = _content_of(fields), _choices_of(fields)
            yield TextRow(key.index, key.custom_id, key.digest, content, choices)
        except RowError as error:
            yield BadRow.of(key, error.code, error.message)


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
