"""Which chat format a model speaks."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from .base import Tokenizer, TokenizerError
from .chat_formats import ChatFormat, ChatMLFormat, CodeLlama70BFormat, Llama2Format, Llama3Format, PlainFormat
from .message import ROLES, Message, Role, ToolCall

__all__ = [
    "ROLES", "TEMPLATES", "ChatFormat", "Llama3Format", "Message", "PlainFormat", "Role", "Template", "TemplateName",
    "ToolCall", "chat_format", "family_template", "make_template",
]  # fmt: skip

TemplateName = Literal["llama3", "llama3-strip", "llama2", "codellama-70b", "chatml", "none"]
TEMPLATES: tuple[TemplateName, ...] = get_args(TemplateName)


class Template(NamedTuple):
    """A format that was chosen, and the reason. `warning` says why its answers may be none."""

    name: TemplateName
    format: ChatFormat | None  # None where the model has no format and nobody asked for plain text
    warning: str | None = None
    reason: str | None = None  # None where the warning says it


def make_template(name: TemplateName, tokenizer: Tokenizer, reason: str | None = None) -> Template:
    """A format by its name; TokenizerError if the tokenizer lacks the tokens it is made of."""
    if not _can_make(name, tokenizer):
        raise TokenizerError(
            f"the chat template {name} needs tokens that this {tokenizer.kind} tokenizer lacks",
            f"--chat-template {family_template(tokenizer)}",
        )
    return Template(name, _make(name, tokenizer), reason=reason)


def _can_make(name: TemplateName, tokenizer: Tokenizer) -> bool:
    if name == "llama2":
        return tokenizer.kind == "sentencepiece"
    if name == "codellama-70b":
        return "<step>" in tokenizer.special_tokens
    starts = {"<|start_header_id|>"} | ({"<|im_start|>"} if name == "chatml" else set())
    return name == "none" or not starts.isdisjoint(tokenizer.special_tokens)


def _make(name: TemplateName, tokenizer: Tokenizer) -> ChatFormat:
    if name in ("llama3", "llama3-strip"):
        return Llama3Format(tokenizer, strip=name == "llama3-strip")
    if name == "chatml":
        return ChatMLFormat(tokenizer)
    if name == "llama2":
        return Llama2Format(tokenizer)
    return CodeLlama70BFormat(tokenizer) if name == "codellama-70b" else PlainFormat(tokenizer)


def family_template(tokenizer: Tokenizer) -> TemplateName:
    """The format of the family whose vocabulary this is; `none` where it has none, as a toy's."""
    if "<|im_start|>" in tokenizer.special_tokens:
        return "chatml"
    if "<|start_header_id|>" in tokenizer.special_tokens:
        return "llama3"
    if "<step>" in tokenizer.special_tokens:
        return "codellama-70b"
    return "llama2" if tokenizer.kind == "sentencepiece" else "none"


def chat_format(tokenizer: Tokenizer) -> ChatFormat | None:
    """The format of a tokenizer's family; None where it has none."""
    name = family_template(tokenizer)
    return None if name == "none" else _make(name, tokenizer)
