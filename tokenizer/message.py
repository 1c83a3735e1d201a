"""The messages of a dialog, and the tool calls that an answer may hold."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .base import EncodeError

Role = Literal["system", "user", "assistant", "tool", "ipython"]
ROLES = ("system", "user", "assistant", "tool", "ipython")

MESSAGE_FIELDS = {"role", "content", "tool_calls", "awaits_tool", "token_ids"}  # ids count in the rows of a chat
IGNORED_MESSAGE_FIELDS = {"name", "tool_call_id"}  # no chat format has a place for these


def plain_arguments(value: object) -> dict[str, Any] | None:
    """Arguments as JSON gives them back, tuples as lists; None where JSON cannot write them: NaN, sets, bytes."""
    if not isinstance(value, dict):
        return None
    try:
        read: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return None
    return read


def read_arguments(value: object) -> dict[str, Any] | None:
    """Arguments of a call: an object, the text of one, or nothing at all; None where it is something else."""
    if isinstance(value, str):
        try:
            value = json.loads(value.strip() or "{}")
        except (ValueError, RecursionError):
            return None
    return plain_arguments({} if value is None else value)


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class ToolCall:
    """What the model wants to have done. Nothing here ever does it."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_call_id, compare=False)

    @classmethod
    def of(cls, fields: object) -> ToolCall:
        """A call from OpenAI's JSON: `function` with `name` and `arguments`, an object or the text of one."""
        function = fields.get("function") if isinstance(fields, dict) else None
        name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (0, 0)
        found = None if arguments is None else read_arguments(arguments)
        if not isinstance(name, str) or found is None:
            raise EncodeError("a tool call has no function with a name and arguments")
        given = fields.get("id") if isinstance(fields, dict) else None
        return cls(name, found, given if isinstance(given, str) and given else new_call_id())

    def as_json(self) -> dict[str, Any]:
        """The call as OpenAI's API shows it."""
        function = {"name": self.name, "arguments": json.dumps(dict(self.arguments))}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class Message:
    """One message of a dialog."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    awaits_tool: bool = False  # the answer ended with Llama 3.1's end of message, not with the end of its turn
    token_ids: tuple[int, ...] | None = None  # the very ids the model made, for a dialog that goes on with them

    @classmethod
    def of(cls, fields: Mapping[str, object], *, with_ids: bool = False) -> Message:
        """A message from JSON's `role`, `content` and `tool_calls`; EncodeError says what is wrong with it.

        `with_ids` takes an answer's `token_ids` too, as they are: whether they are this model's, and still say what
        the content says, is for the caller to see. Other fields have no place in a prompt, as `tool_call_id`.
        """
        role, content, calls = fields.get("role"), fields.get("content"), fields.get("tool_calls") or []
        if role not in ROLES:
            raise EncodeError(f"a message has the role {str(role)[:40]!r}", f"use one of {', '.join(ROLES)}")
        if not isinstance(calls, list) or (calls and role != "assistant"):
            raise EncodeError(f"tool_calls of a message of the role {role} is no list of an assistant's calls")
        tool_calls = tuple(ToolCall.of(call) for call in calls)
        if content is None and tool_calls:
            content = ""
        if not isinstance(content, str):
            raise EncodeError(f"a message of the role {role} has no text as its content")
        awaits_tool, ids = (
            fields.get("awaits_tool") is True,
            _ids_of(fields) if with_ids and role == "assistant" else None,
        )
        return cls(role, content, tool_calls, awaits_tool, ids)  # type: ignore[arg-type]

    def as_json(self) -> dict[str, Any]:
        """What `of` reads, and the ids."""
        shown: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            shown["tool_calls"] = [call.as_json() for call in self.tool_calls]
        if self.awaits_tool:
            shown["awaits_tool"] = True
        if self.token_ids is not None:
            shown["token_ids"] = list(self.token_ids)
        return shown


def _ids_of(fields: Mapping[str, object]) -> tuple[int, ...] | None:
    ids = fields.get("token_ids")
    return tuple(ids) if isinstance(ids, list) and all(type(token_id) is int for token_id in ids) else None
