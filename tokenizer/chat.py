"""Which chat format a model speaks."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from .base import Tokenizer, TokenizerError
from .chat_formats import ChatFormat, ChatMLFormat, CodeLlama70BFormat, Llama2Format, Llama3Format, PlainFormat
from .message import ROLES, Message, Role, ToolCall
from .tool_calls import PYTHON_TAG

__all__ = [
    "ROLES", "TEMPLATES", "ChatFormat", "Llama3Format", "Message", "PlainFormat", "Role", "Template", "TemplateName",
    "ToolCall", "chat_format", "family_template", "make_template", "recognise_template",
]  # fmt: skip

TemplateName = Literal["llama3", "llama3-strip", "llama2", "codellama-70b", "chatml", "none"]
TEMPLATES: tuple[TemplateName, ...] = get_args(TemplateName)


LLAMA3_TOKENS = {
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", PYTHON_TAG,
}  # fmt: skip
CHATML_TOKENS = {"<|im_start|>", "<|im_end|>"}
CHATML_IN_METAS_NAMES = {"<|start_header_id|>", "<|eot_id|>"}


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
    needed = [LLAMA3_TOKENS] if name in ("llama3", "llama3-strip") else [CHATML_TOKENS, CHATML_IN_METAS_NAMES]
    return name == "none" or any(tokens <= tokenizer.special_tokens.keys() for tokens in needed)


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
    if tokenizer.special_tokens.keys() >= CHATML_TOKENS:
        return "chatml"
    if tokenizer.special_tokens.keys() >= LLAMA3_TOKENS:
        return "llama3"
    if "<step>" in tokenizer.special_tokens:
        return "codellama-70b"
    return "llama2" if tokenizer.kind == "sentencepiece" else "none"


def recognise_template(jinja: str) -> TemplateName | None:
    """Which format the text of a chat template of Hugging Face's writes, told by its marks; None if none of these."""
    # The headers of Llama 3 end with a token, those of ChatML, which may have its names, with a line break.
    if "<|im_start|>" in jinja or ("<|start_header_id|>" in jinja and "<|end_header_id|>" not in jinja):
        return "chatml"
    if "<|start_header_id|>" in jinja:
        return "llama3-strip" if "trim" in jinja or "strip()" in jinja else "llama3"
    if "[INST]" in jinja and "<<SYS>>" in jinja:
        return "llama2"
    return "codellama-70b" if "<step>" in jinja and "Source:" in jinja else None


def chat_format(tokenizer: Tokenizer) -> ChatFormat | None:
    """The format of a tokenizer's family; None where it has none."""
    name = family_template(tokenizer)
    return None if name == "none" else _make(name, tokenizer)
