"""Chat formats: a dialog becomes the ids that a family was trained on.

Headers and ends of turns are ids put in place here; contents are encoded as plain text. No string is ever
formatted into a prompt, so nothing in a message can end its turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .base import EncodeError, Tokenizer

Role = Literal["system", "user", "assistant", "tool", "ipython"]
ROLES = ("system", "user", "assistant", "tool", "ipython")


@dataclass(frozen=True)
class Message:
    """One turn of a dialog."""

    role: Role
    content: str

    @classmethod
    def of(cls, fields: Mapping[str, object]) -> Message:
        """A message from JSON's `role` and `content`; EncodeError says what is wrong with it."""
        role, content = fields.get("role"), fields.get("content")
        if role not in ROLES:
            raise EncodeError(f"a message has the role {str(role)[:40]!r}", f"use one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise EncodeError(f"a message of the role {role} has no text as its content")
        return cls(role, content)  # type: ignore[arg-type]


class ChatFormat(Protocol):
    """Turns dialogs into prompts."""

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        """The ids of a dialog, up to where the assistant's answer begins."""


class Llama3Format:
    """`<|start_header_id|>role<|end_header_id|>`, an empty line, the content, `<|eot_id|>`.

    Contents are taken as they are, as llama-models does; `strip=True` takes off white space around them, as
    the older llama3 repository did.
    """

    def __init__(self, tokenizer: Tokenizer, *, strip: bool = False) -> None:
        self._tokenizer = tokenizer
        self._strip = strip
        names = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
        self._begin, self._start, self._end, self._eot = (tokenizer.special_tokens[name] for name in names)

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        ids = [self._begin]
        for message in dialog:
            content = message.content.strip() if self._strip else message.content
            role = "ipython" if message.role == "tool" else message.role
            ids += [*self._header(role), *self._tokenizer.encode(content), self._eot]
        return [*ids, *self._header("assistant")]

    def _header(self, role: str) -> list[int]:
        return [self._start, *self._tokenizer.encode(role), self._end, *self._tokenizer.encode("\n\n")]


def chat_format(tokenizer: Tokenizer) -> ChatFormat | None:
    """The format of a tokenizer's family; None where it has none, as a toy's."""
    return Llama3Format(tokenizer) if "<|start_header_id|>" in tokenizer.special_tokens else None
