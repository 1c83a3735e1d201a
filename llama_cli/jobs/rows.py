"""Input rows: what is asked, or what is wrong with the asking. A bad row never stops the others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..engine.request import Sampling
from ..files.json_file import nests_deeper
from ..tokenizer.chat import Message
from .fields import IGNORED_FIELDS, Content, Defaults, ErrorCode, RowError, content_of, shorten, suffix_of, whole
from .lines import MAX_LINE_BYTES, Format, Line

ID_FIELDS = {"id", "custom_id"}
OUTER_FIELDS = ID_FIELDS | {"method", "url", "body"}
# Where OpenAI sends a row, and what it then has to hold.
URLS = {"/v1/completions": "prompt", "/v1/chat/completions": "messages"}

CustomId = str | int


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shorten(twice)} is there twice")
    return fields


SORTED_JSON = json.JSONEncoder(sort_keys=True)
MAX_DEPTH = 100  # of lists and objects in each other: what shows or hashes them calls itself once for each
STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object_of)


@dataclasses.dataclass(frozen=True)
class RowKey:
    """Which row it is, and a hash of what it asks for."""

    index: int  # counted from 0 over all rows of the input
    custom_id: CustomId
    digest: int


@dataclasses.dataclass(frozen=True)
class BatchRow(RowKey):
    """A good row. `content` is text, ids or a dialog."""

    content: Content
    sampling: Sampling
    suffix: str | None = None  # what comes behind the answer, where that is to be filled in
    seed: int | None = None  # the row's own
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what a chat noted of its conversation

    @property
    def is_chat(self) -> bool:
        return not isinstance(self.content, str) and any(isinstance(part, Message) for part in self.content)


@dataclasses.dataclass(frozen=True)
class BadRow(RowKey):
    """A row that cannot run, and why."""

    code: ErrorCode
    message: str

    @classmethod
    def of(cls, row: RowKey, code: ErrorCode, message: str) -> BadRow:
        """What becomes of a row that cannot go on."""
        return cls(row.index, row.custom_id, row.digest, code, message)


Row = BatchRow | BadRow


def hash_of(custom_id: CustomId) -> int:
    """64 bits that stand for an id: a million ids take 8 MB, and two alike turn up once in 30 million runs."""
    return _hash(str(custom_id).encode("utf-8", "surrogatepass"))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def seed_of(run_seed: int, custom_id: CustomId) -> int:
    """The seed of a row: the same wherever and whenever the row runs."""
    return hash_of(f"{run_seed}:{custom_id}") >> 1


def usual_id(number: int) -> str:
    """The id of the row on a line, counted from 1, that has none of its own."""
    return f"line-{number:06d}"


def parse_row(line: Line, format_: Format, defaults: Defaults, digest: int | None = None) -> Row:
    """One line; `auto` is either of the JSON forms. `digest` is what `identify` has found, where that was asked."""
    custom_id: CustomId = usual_id(line.number)
    try:
        text = decode_line(line.data)
        if format_ == "text":
            digest = raw_digest(line) if digest is None else digest
            return BatchRow(line.place, custom_id, digest, text, defaults.sampling)
        fields = parse_object(text)
        if digest is None:
            digest = digest_of(fields)
        custom_id = id_of(fields, custom_id)
        body = _body_of(fields, format_)
        about = notes_of(fields)
        content = content_of(body, with_ids=bool(about))
        _check_url(fields, body)
        sampling = defaults.sampling_of(body)
        own_seed = None if body.get("seed") is None else sampling.seed
        suffix = suffix_of(body, content)
        return BatchRow(line.place, custom_id, digest, content, sampling, suffix, own_seed, about)
    except RowError as error:
        digest = raw_digest(line) if digest is None else digest
        return BadRow(line.place, custom_id, digest, error.code, error.message)


def identify(line: Line, format_: Format) -> RowKey:
    """The key of the row of a line, good or bad: as `parse_row`, with less work."""
    usual = usual_id(line.number)
    if format_ == "text":
        return RowKey(line.place, usual, raw_digest(line))
    try:
        fields = parse_object(decode_line(line.data))
    except RowError:
        return RowKey(line.place, usual, raw_digest(line))
    digest = digest_of(fields)
    try:
        return RowKey(line.place, id_of(fields, usual), digest)
    except RowError:
        return RowKey(line.place, usual, digest)


def raw_digest(line: Line) -> int:
    """What stands for a line of text, and for one that cannot be read."""
    return _hash(line.data or b"")


def decode_line(line: bytes | None) -> str:
    """The text of what `read_lines` gave."""
    if line is None:
        raise RowError("line_too_long", f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("invalid_unicode", f"byte {error.start} is not UTF-8") from None


def parse_object(text: str) -> dict[str, Any]:
    """Strict JSON: an object, without NaN, each key once."""
    too_deep = RowError("invalid_json", "the line is nested too deeply")
    try:
        fields = STRICT_JSON.decode(text)
    except RecursionError:
        raise too_deep from None
    except MemoryError:
        raise RowError("out_of_memory", "memory ran out while the line was read") from None
    except ValueError as error:
        raise RowError("invalid_json", f"the line is no JSON: {str(error).split(';')[0]}") from None
    if not isinstance(fields, dict):
        raise RowError("invalid_json", f"the line must be an object, is a {type(fields).__name__}")
    if text.count("[") + text.count("{") > MAX_DEPTH and nests_deeper(fields, MAX_DEPTH):
        raise too_deep
    return fields


def id_of(fields: Mapping[str, Any], default: CustomId) -> CustomId:
    """`custom_id` or `id`, a text or a whole number."""
    given = whole(fields.get("custom_id", fields.get("id", default)))
    if "id" in fields and "custom_id" in fields and whole(fields["id"]) != given:
        raise RowError("invalid_request", f"custom_id is {shorten(given)} and id is {shorten(fields['id'])}: give one")
    if type(given) not in (str, int) or not 1 <= len(str(given)) <= 512:
        raise RowError(
            "invalid_request", f"custom_id must be a whole number or a text of 1 to 512 characters, is {shorten(given)}"
        )
    text = str(given)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError("invalid_unicode", "custom_id has a lone surrogate")
    return given  # type: ignore[no-any-return]


def digest_of(fields: Mapping[str, Any]) -> int:
    """64 bits that stand for what a row asks for: in whatever order its keys are, whatever it is called."""
    body = fields["body"] if isinstance(fields.get("body"), dict) else fields
    asked: dict[str, Any] = {
        name: whole(value)
        for name, value in body.items()
        if value is not None and name not in IGNORED_FIELDS and name not in ID_FIELDS
    }
    if notes := notes_of(fields):
        asked["metadata"] = notes
    return _hash(SORTED_JSON.encode(asked).encode())


def _body_of(fields: dict[str, Any], format_: Format) -> dict[str, Any]:
    """The settings of a row: OpenAI's `body`, or the short row itself without its id."""
    if format_ == "openai" or (format_ != "prompts" and "body" in fields):
        body = fields.get("body")
        if not isinstance(body, dict):
            raise RowError("invalid_request", f"body must be an object, is {shorten(body)}")
        unknown = fields.keys() - OUTER_FIELDS
        if unknown:
            raise RowError("invalid_request", f"unknown field {shorten(min(unknown))}")
        return body
    return {key: value for key, value in fields.items() if key not in ID_FIELDS}


def notes_of(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `metadata` of a row that a chat wrote; nothing where it is somebody else's."""
    metadata = fields.get("metadata")
    return metadata if isinstance(metadata, dict) and isinstance(metadata.get("fingerprint"), str) else {}


def _check_url(fields: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """RowError if an OpenAI row is sent elsewhere than where such a body goes."""
    if "body" not in fields:
        return
    url, method = fields.get("url"), fields.get("method")
    if url is not None and (not isinstance(url, str) or url not in URLS):
        raise RowError("invalid_request", f"url must be one of {', '.join(sorted(URLS))}, is {shorten(url)}")
    if url is not None and body.get(URLS[url]) is None:
        raise RowError("invalid_request", f"a body for {url} has {URLS[url]}")
    if method not in (None, "POST"):
        raise RowError("invalid_request", f"method must be POST, is {shorten(method)}")
