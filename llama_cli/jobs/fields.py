"""What the fields of a row ask for: OpenAI's spellings, and the refusal by name of all that is not supported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ..engine.request import Sampling
from ..options import SettingRejected
from ..tokenizer.chat import ROLES, Message
from ..tokenizer.message import IGNORED_MESSAGE_FIELDS, MESSAGE_FIELDS

ErrorCode = Literal[
    "invalid_json",
    "invalid_request",
    "invalid_unicode",
    "line_too_long",
    "duplicate_custom_id",
    "context_length_exceeded",
    "numerical_error",
    "internal_error",
    "crashed",
    "timeout",
    "out_of_memory",
]

Content = str | tuple[int, ...] | tuple[Message, ...]

CONTENT_FIELDS = {"prompt", "messages", "suffix"}
SETTINGS = {each.name for each in dataclasses.fields(Sampling)} | {"max_completion_tokens"}

# OpenAI's request fields that say nothing about the text, or nothing to a program that runs one model.
IGNORED_FIELDS = {
    "model", "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier",
    "prompt_cache_key",
}  # fmt: skip

# Fields that other programs know, and why a row cannot have them; values behind them that ask for nothing.
REFUSED_FIELDS = {
    "stream": "an answer goes into the file when it is whole",
    "stream_options": "an answer goes into the file when it is whole",
    "echo": "an answer does not repeat its prompt: put them together yourself",
    "best_of": "all answers are given: ask for them with n",
    "tools": "rows cannot offer tools: chat --tools does",
    "tool_choice": "rows cannot offer tools: chat --tools does",
    "functions": "rows cannot offer tools: chat --tools does",
    "function_call": "rows cannot offer tools: chat --tools does",
    "response_format": "answers cannot be held to a format",
    "modalities": "answers are text",
    "audio": "answers are text",
    "prediction": "there is no such guess here",
    "reasoning_effort": "there is no such setting here",
    "verbosity": "there is no such setting here",
    "web_search_options": "nothing here goes into the web",
    "input": "give prompt or messages",
    "instructions": "give a message of the role system",
    "max_output_tokens": "give max_tokens",
    "num_samples": "give n",
    "max_gen_len": "give max_tokens",
    "stop_sequences": "give stop",
    "min_tokens": "an answer ends where the model ends it; ignore_eos goes on",
}
ASKS_FOR_NOTHING: dict[str, list[Any]] = {
    "stream": [False],
    "echo": [False],
    "tools": [[]],
    "tool_choice": ["none"],
    "functions": [[]],
    "function_call": ["none"],
    "response_format": [{"type": "text"}],
    "modalities": [["text"]],
    "min_tokens": [0],
}

EXACT_FLOATS = 2**53  # whole numbers beyond may have lost digits on their way through a float


class RowError(Exception):
    """What is wrong with one row."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message


def content_of(body: Mapping[str, Any], *, with_ids: bool = False) -> Content:
    """The prompt or the messages of a row; with the ids of the answers in them, if a chat wrote it."""
    prompt, messages = whole(body.get("prompt")), body.get("messages")
    if (prompt is None) == (messages is None):
        raise RowError("invalid_request", "a row has either prompt or messages")
    if messages is not None:
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise RowError("invalid_request", "messages must be a list of objects with role and content")
        return tuple(_message_of(place, message, with_ids=with_ids) for place, message in enumerate(messages))
    if isinstance(prompt, list) and prompt and all(type(part) is int for part in prompt):
        return tuple(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(part, str | list) for part in prompt):
        raise RowError("invalid_request", "prompt is a list of prompts: give each a row of its own")
    if not isinstance(prompt, str):
        raise RowError("invalid_request", f"prompt must be a text or a list of ids, is {shorten(prompt)}")
    return prompt


def _message_of(place: int, fields: Mapping[str, Any], *, with_ids: bool) -> Message:
    where = f"messages[{place}]"
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES:
        raise RowError("invalid_request", f"{where}.role must be one of {', '.join(ROLES)}, is {shorten(role)}")
    if content is not None and not isinstance(content, str):
        raise RowError("invalid_request", f"{where}.content must be a text, is {shorten(content)}")
    for name, value in fields.items():
        if value and name not in MESSAGE_FIELDS | IGNORED_MESSAGE_FIELDS:
            raise RowError("invalid_request", f"{where}.{name[:40]} is nothing that a message can have here")
    try:
        return Message.of(fields, with_ids=with_ids)
    except ValueError as error:
        raise RowError("invalid_request", f"{where}: {error}") from None


def suffix_of(body: Mapping[str, Any], content: object) -> str | None:
    """What comes behind the answer of a row, where that is to be filled in."""
    suffix = body.get("suffix")
    if suffix is not None and not isinstance(suffix, str):
        raise RowError("invalid_request", f"suffix must be a text, is {shorten(suffix)}")
    if suffix is not None and not isinstance(content, str):
        raise RowError("invalid_request", "suffix needs a prompt that is text")
    return suffix


class Defaults:
    """The settings of a run, which hold for what a row does not say itself."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._last = "{}", sampling  # most rows ask for what the one before asked for: they share what was checked

    def sampling_of(self, body: Mapping[str, Any]) -> Sampling:
        """The row's own settings over these."""
        given = {name: whole(value) for name, value in body.items() if name not in CONTENT_FIELDS and value is not None}
        chosen = {name: value for name, value in given.items() if _is_setting(name, value)}
        _translate(chosen)
        sampling = self._with(chosen)
        best_of = given.get("best_of")
        if best_of is not None and (type(best_of) is not int or best_of != sampling.n):
            raise RowError("invalid_request", f"best_of is not supported: {REFUSED_FIELDS['best_of']}")
        return sampling

    def _with(self, chosen: dict[str, Any]) -> Sampling:
        asked = repr(chosen)  # unlike the values themselves it tells True from 1
        if asked != self._last[0]:
            try:
                self._last = asked, dataclasses.replace(self.sampling, **chosen)
            except SettingRejected as error:
                raise RowError("invalid_request", f"{error.place}: {error.reason}") from None
        return self._last[1]


def _is_setting(name: str, value: Any) -> bool:
    """Whether a field is one of ours, in any spelling; RowError if it asks for what is not supported."""
    if name in SETTINGS:
        return True
    if name in IGNORED_FIELDS or name == "best_of" or any(value == one for one in ASKS_FOR_NOTHING.get(name, ())):
        return False
    if name in REFUSED_FIELDS:
        raise RowError("invalid_request", f"{name} is not supported: {REFUSED_FIELDS[name]}")
    raise RowError("invalid_request", f"unknown field {shorten(name)}")


def _translate(chosen: dict[str, Any]) -> None:
    """OpenAI's spellings into ours. Where one says otherwise than the other, neither is taken."""
    if "max_completion_tokens" in chosen:
        _agree(chosen, "max_completion_tokens", "max_tokens", chosen.pop("max_completion_tokens"))
    if type(chosen.get("logprobs")) is int:  # how many, in OpenAI's older API
        _agree(chosen, "logprobs", "top_logprobs", chosen["logprobs"])
        chosen["logprobs"] = True
    elif chosen.get("logprobs") is False and chosen.get("top_logprobs"):
        raise RowError("invalid_request", "logprobs is false, and top_logprobs asks for some")
    if isinstance(chosen.get("logit_bias"), dict):
        chosen["logit_bias"] = {_as_id(key): value for key, value in chosen["logit_bias"].items()}


def _agree(chosen: dict[str, Any], given: str, name: str, value: Any) -> None:
    if chosen.setdefault(name, value) != value:
        raise RowError(
            "invalid_request", f"{given} is {shorten(value)} and {name} is {shorten(chosen[name])}: give one"
        )


def _as_id(key: str) -> int:
    """The id that a key spells; `05` is refused as well, or it would be the same as another key of the object."""
    try:
        token_id = int(key)
    except ValueError:
        token_id = None
    if token_id is None or str(token_id) != key:
        raise RowError("invalid_request", f"logit_bias: {shorten(key)} is no token id")
    return token_id


def whole(value: Any) -> Any:
    """A number that pandas wrote as `4.0` as the 4 that it was, in lists too."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_FLOATS:
        return int(value)
    return [whole(each) for each in value] if isinstance(value, list) else value


def shorten(value: object) -> str:
    """A value as an error shows it."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
