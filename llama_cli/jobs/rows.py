"""Input rows: what is asked, or what is wrong with the asking. A bad row never stops the others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Literal

from tokenizer.chat import Message

from ..engine.request import Sampling, SettingRejected

MAX_LINE_BYTES = 16 << 20
SKIP_BYTES = 1 << 20

Format = Literal["auto", "openai", "prompts", "text"]
ErrorCode = Literal[
    "invalid_json",
    "invalid_request",
    "invalid_unicode",
    "line_too_long",
    "duplicate_custom_id",
    "context_length_exceeded",
    "numerical_error",
    "crashed",
    "timeout",
    "out_of_memory",
]

CONTENT_FIELDS = {"prompt", "messages", "suffix"}
SAMPLING_FIELDS = {each.name for each in dataclasses.fields(Sampling)}

# OpenAI's request fields that say nothing about the text, or nothing to a program that runs one model.
IGNORED_FIELDS = {"model", "user", "metadata", "store", "service_tier", "parallel_tool_calls"}
URLS = {"/v1/completions", "/v1/chat/completions"}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclasses.dataclass(frozen=True)
class Job:
    """A good row. `content` is text, ids or a dialog."""

    index: int  # counted from 0 over all rows of the input
    custom_id: str
    content: str | tuple[int, ...] | tuple[Message, ...]
    sampling: Sampling
    suffix: str | None = None  # what comes behind the answer, where that is to be filled in
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what a chat noted of its conversation

    @property
    def is_chat(self) -> bool:
        return not isinstance(self.content, str) and any(isinstance(part, Message) for part in self.content)


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot run, and why."""

    index: int
    custom_id: str
    code: ErrorCode
    message: str


Row = Job | BadRow


class RowError(Exception):
    """What is wrong with one row."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message


def hash_of(custom_id: str) -> int:
    """64 bits that stand for an id: a million ids take 8 MB, and two alike turn up once in 30 million runs."""
    return int.from_bytes(hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def seed_of(run_seed: int, custom_id: str) -> int:
    """The seed of a row: the same wherever and whenever the row runs."""
    return hash_of(f"{run_seed}:{custom_id}") >> 1


def read_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file without their ends; None for one that is too long, which is never held whole."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (more := file.readline(SKIP_BYTES)) and not more.endswith(b"\n"):
                pass
            yield None
        else:
            yield line.removesuffix(b"\n").removesuffix(b"\r")


class Lines:
    """The lines of an input, numbered from 0, those of one shard only; `auto` takes the first for an example of all.

    Reading is cheap: a line is parsed when its row is asked for.
    """

    def __init__(self, file: BinaryIO, format_: Format, shard: tuple[int, int] = (0, 1)) -> None:
        self._file = file
        self._format: Format = format_
        self._part, self._whole = shard

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        for index, line in enumerate(read_lines(self._file)):
            if index == 0 and self._format == "auto" and line is not None and not line.lstrip().startswith(b"{"):
                self._format = "text"
            if index % self._whole == self._part:
                yield index, line

    def custom_id(self, index: int, line: bytes | None) -> str:
        """The id that the row of a line has, good or bad."""
        usual = usual_id(index)
        if self._format == "text":
            return usual
        try:
            return id_of(parse_object(decode_line(line)), usual)
        except RowError:
            return usual

    def row(self, index: int, line: bytes | None, defaults: Sampling) -> Row:
        """The row of a line."""
        return parse_row(index, line, self._format, defaults)


def usual_id(index: int) -> str:
    """The id of a row that has none of its own."""
    return f"line-{index + 1:06d}"


def parse_row(index: int, line: bytes | None, format_: Format, defaults: Sampling) -> Row:
    """One line; `auto` is either of the JSON forms."""
    custom_id = usual_id(index)
    try:
        text = decode_line(line)
        if format_ == "text":
            return Job(index, custom_id, text, defaults)
        fields = parse_object(text)
        custom_id = id_of(fields, custom_id)
        body = _body_of(fields, format_)
        content = _content_of(body, with_ids=bool(_notes_of(fields)))
        suffix, about = _suffix_of(body, content), _notes_of(fields)
        return Job(index, custom_id, content, _sampling_of(body, defaults), suffix, about)
    except RowError as error:
        return BadRow(index, custom_id, error.code, error.message)


def decode_line(line: bytes | None) -> str:
    """The text of what `read_lines` gave."""
    if line is None:
        raise RowError("line_too_long", f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("invalid_unicode", f"byte {error.start} is not UTF-8") from None


def parse_object(text: str) -> dict[str, Any]:
    """Strict JSON: an object, without NaN."""
    try:
        fields = STRICT_JSON.decode(text)
    except RecursionError:
        raise RowError("invalid_json", "the line is nested too deeply") from None
    except ValueError as error:
        raise RowError("invalid_json", f"the line is no JSON: {str(error).split(';')[0]}") from None
    if not isinstance(fields, dict):
        raise RowError("invalid_json", f"the line must be an object, is a {type(fields).__name__}")
    return fields


def id_of(fields: Mapping[str, Any], default: str) -> str:
    """`custom_id` or `id`."""
    given = fields.get("custom_id", fields.get("id", default))
    if not isinstance(given, str) or not 1 <= len(given) <= 512:
        raise RowError("invalid_request", f"custom_id must be a text of 1 to 512 characters, is {shorten(given)}")
    if any("\ud800" <= character <= "\udfff" for character in given):
        raise RowError("invalid_unicode", "custom_id has a lone surrogate")
    return given


def _body_of(fields: dict[str, Any], format_: Format) -> dict[str, Any]:
    """The settings of a row: OpenAI's `body`, or the short row itself without its id."""
    if format_ == "openai" or (format_ != "prompts" and "body" in fields):
        url, body = fields.get("url"), fields.get("body")
        if url is not None and url not in URLS:
            raise RowError("invalid_request", f"url must be one of {', '.join(sorted(URLS))}, is {shorten(url)}")
        if not isinstance(body, dict):
            raise RowError("invalid_request", f"body must be an object, is {shorten(body)}")
        unknown = fields.keys() - {"custom_id", "id", "method", "url", "body"}
        if unknown:
            raise RowError("invalid_request", f"unknown field {shorten(min(unknown))}")
        return body
    return {key: value for key, value in fields.items() if key not in ("id", "custom_id")}


def _notes_of(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `metadata` of a row that a chat wrote; nothing where it is somebody else's."""
    metadata = fields.get("metadata")
    return metadata if isinstance(metadata, dict) and isinstance(metadata.get("fingerprint"), str) else {}


def _content_of(body: Mapping[str, Any], *, with_ids: bool) -> str | tuple[int, ...] | tuple[Message, ...]:
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        raise RowError("invalid_request", "a row has either prompt or messages")
    if messages is not None:
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise RowError("invalid_request", "messages must be a list of objects with role and content")
        try:
            return tuple(Message.of(message, with_ids=with_ids) for message in messages)
        except ValueError as error:
            raise RowError("invalid_request", str(error)) from None
    if isinstance(prompt, list) and prompt and all(type(part) is int for part in prompt):
        return tuple(prompt)
    if not isinstance(prompt, str):
        raise RowError("invalid_request", f"prompt must be a text or a list of ids, is {shorten(prompt)}")
    return prompt


def _suffix_of(body: Mapping[str, Any], content: object) -> str | None:
    suffix = body.get("suffix")
    if suffix is not None and not isinstance(suffix, str):
        raise RowError("invalid_request", f"suffix must be a text, is {shorten(suffix)}")
    if suffix is not None and not isinstance(content, str):
        raise RowError("invalid_request", "suffix needs a prompt that is text")
    return suffix


def _sampling_of(body: Mapping[str, Any], defaults: Sampling) -> Sampling:
    """The row's own settings over the run's. OpenAI's spellings are understood."""
    chosen: dict[str, Any] = {}
    for name, value in body.items():
        if name in CONTENT_FIELDS or name in IGNORED_FIELDS or value is None:
            continue
        if name == "stream" and value is False:
            continue
        if name == "max_completion_tokens":
            name = "max_tokens"
        if name not in SAMPLING_FIELDS:
            raise RowError("invalid_request", f"unknown field {shorten(name)}")
        chosen[name] = value
    if type(chosen.get("logprobs")) is int:  # how many, in OpenAI's older API
        chosen["top_logprobs"], chosen["logprobs"] = chosen["logprobs"], True
    if isinstance(chosen.get("logit_bias"), dict):
        chosen["logit_bias"] = {_as_id(key): value for key, value in chosen["logit_bias"].items()}
    try:
        return dataclasses.replace(defaults, **chosen)
    except SettingRejected as error:
        raise RowError("invalid_request", f"{error.place}: {error.reason}") from None


def _as_id(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise RowError("invalid_request", f"logit_bias: {shorten(key)} is no token id") from None


def shorten(value: object) -> str:
    """A value as an error shows it."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
