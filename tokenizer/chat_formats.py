"""The chat formats: a dialog becomes the ids that a family was trained on.

Control tokens are ids put in place here; contents are encoded as plain text. No string of a message is ever read
for control tokens, so nothing in it can end its turn. Answers that the model made go back as the ids it made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Protocol

from .base import EncodeError, Tokenizer, decode_text, names_of
from .message import Message
from .tool_calls import CODE_INTERPRETER, PYTHON_TAG, format_call


class ChatFormat(Protocol):
    """Turns dialogs into prompts."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The ids that end an answer in this format."""

    @property
    def python_tag(self) -> int | None:
        """The id with which an answer that is a tool call begins, where the format has tools."""

    @property
    def names(self) -> Mapping[int, str]:
        """The model's own names, by id, of special tokens that stand in the places of Meta's."""

    @property
    def before_answer(self) -> str:
        """What an answer has to begin with, as text."""

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        """The ids of a dialog, up to where the assistant's answer begins. EncodeError if it cannot be."""


NO_NAMES: Mapping[int, str] = MappingProxyType({})


def spell_prompt(tokenizer: Tokenizer, form: ChatFormat, ids: Sequence[int]) -> str:
    """The text of a prompt, its control tokens by the names that the model knows them under."""
    names = names_of(tokenizer) | dict(form.names)
    parts: list[str] = []
    for name, run in groupby(ids, key=names.get):
        alike = list(run)
        text = tokenizer.decode(alike) if parts else decode_text(tokenizer, alike)
        parts.append(text if name is None else name * len(alike))
    return "".join(parts)


def plain_ids(tokenizer: Tokenizer, text: str, *, begins: bool = True) -> list[int]:
    """The ids of a text that must hold no control token; some SentencePiece models read them out of the text.

    With `begins=False` it goes on behind other ids.
    """
    ids = tokenizer.encode(text) if begins else tokenizer.encode_more(text)
    control = set(tokenizer.special_tokens.values())
    if not control.isdisjoint(ids):
        name = next(name for name, token_id in tokenizer.special_tokens.items() if token_id in ids)
        raise EncodeError(f"a message holds {name}, which this tokenizer cannot write as plain text")
    return ids


class Llama3Format:
    """`<|start_header_id|>role<|end_header_id|>`, an empty line, the content, `<|eot_id|>`.

    Contents are taken as they are, as llama-models does; `strip=True` takes off white space around them, as
    the older llama3 repository did.
    """

    before_answer = ""

    names = NO_NAMES

    def __init__(self, tokenizer: Tokenizer, *, strip: bool = False) -> None:
        self._tokenizer = tokenizer
        self._strip = strip
        ids = tokenizer.special_tokens
        self._begin, self._start, self._end = (
            ids[name] for name in ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
        )
        self._eot, self._eom, self.python_tag = (ids[name] for name in ("<|eot_id|>", "<|eom_id|>", PYTHON_TAG))
        self.stop_tokens = frozenset({self._eot, self._eom})

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        ids = [self._begin]
        for message in dialog:
            role = "ipython" if message.role == "tool" else message.role
            end = self._eom if message.awaits_tool else self._eot
            ids += [*self._header(role), *self._content(message), end]
        return [*ids, *self._header("assistant")]

    def _header(self, role: str) -> list[int]:
        return [self._start, *self._tokenizer.encode(role), self._end, *self._tokenizer.encode("\n\n")]

    def _content(self, message: Message) -> list[int]:
        if message.token_ids is not None:
            return list(message.token_ids)
        content = message.content.strip() if self._strip else message.content
        ids = plain_ids(self._tokenizer, content)
        if message.tool_calls and message.tool_calls[0].name == CODE_INTERPRETER:
            ids = [self.python_tag, *ids]
        for call in message.tool_calls:
            ids += plain_ids(self._tokenizer, format_call(call))
        return ids


class ChatMLFormat:
    """`<|im_start|>role`, a line break, the content, `<|im_end|>`, a line break; no begin token.

    In Meta's layout the tokens have Llama 3's names: `<|start_header_id|>` and `<|eot_id|>`.
    """

    python_tag = None
    before_answer = ""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        ids = tokenizer.special_tokens
        self.start = ids["<|im_start|>"] if "<|im_start|>" in ids else ids["<|start_header_id|>"]
        self.end = ids["<|im_end|>"] if "<|im_end|>" in ids else ids["<|eot_id|>"]
        self.stop_tokens = frozenset({self.end})
        self.names = {self.start: "<|im_start|>", self.end: "<|im_end|>"}

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        ids: list[int] = []
        newline = self._tokenizer.encode("\n")
        for message in dialog:
            role = "tool" if message.role == "ipython" else message.role
            if message.token_ids is None:
                body = plain_ids(self._tokenizer, f"{role}\n{_with_calls(message)}")
            else:
                body = [*self._tokenizer.encode(f"{role}\n"), *message.token_ids]
            ids += [self.start, *body, self.end, *newline]
        return [*ids, self.start, *self._tokenizer.encode("assistant\n")]


LLAMA2_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


class Llama2Format:
    """`[INST] <<SYS>> system <</SYS>> user [/INST] answer`, each pair between a begin and an end token.

    These tags are plain text to the tokenizer, so what others say must not hold one, as in Meta's code. What the
    model itself said is not searched: it has ended its turn already, whatever is in it.
    """

    python_tag = None
    names = NO_NAMES
    before_answer = " "

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.bos_id is not None, "SentencePiece models have one"
        assert tokenizer.eos_id is not None, "SentencePiece models have one"
        self._tokenizer = tokenizer
        self._begin, self._end = tokenizer.bos_id, tokenizer.eos_id
        self.stop_tokens = frozenset({self._end})

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        system, turns = _alternating(dialog, LLAMA2_TAGS)
        ids: list[int] = []
        for place in range(0, len(turns), 2):
            content = turns[place].content
            if place == 0 and system is not None:
                content = f"<<SYS>>\n{system}\n<</SYS>>\n\n{content}"
            question = f"[INST] {content.strip()} [/INST]"
            answer = turns[place + 1] if place + 1 < len(turns) else None
            ids += [self._begin, *(self._pair(question, answer) if answer else plain_ids(self._tokenizer, question))]
        return ids

    def _pair(self, question: str, answer: Message) -> list[int]:
        """Meta's code ends an answer with a space; behind the model's own ids its tokens come last as well."""
        text = f"{question} {_with_calls(answer).strip()}"
        if answer.token_ids is None:
            return [*plain_ids(self._tokenizer, f"{text} "), self._end]
        before, whole = self._tokenizer.encode(text), self._tokenizer.encode(f"{text} ")
        space = whole[len(before) :] if whole[: len(before)] == before else []
        return [*plain_ids(self._tokenizer, question), *answer.token_ids, *space, self._end]


CODE_LLAMA_70B_TAGS = (*LLAMA2_TAGS, "<step>")


class CodeLlama70BFormat:
    """`Source: role`, for answers `Destination: user`, an empty line, the content, `<step>`.

    Meta's code refuses Llama 2's tags here too.
    """

    python_tag = None
    names = NO_NAMES
    before_answer = ""

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.bos_id is not None, "SentencePiece models have one"
        self._tokenizer = tokenizer
        self._begin, self._step = tokenizer.bos_id, tokenizer.special_tokens["<step>"]
        self.stop_tokens = frozenset({self._step})

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        system, turns = _alternating(dialog, CODE_LLAMA_70B_TAGS)
        ids = [self._begin]
        for message in (Message("system", system or ""), *turns):
            if message.token_ids is not None:
                ids += [*self._answer_header(), *message.token_ids, self._step]
                continue
            ids += self._header(message.role)
            if message.content:
                ids += plain_ids(self._tokenizer, f"\n\n {message.content.strip()}")
            ids.append(self._step)
        return [*ids, *self._answer_header()]

    def _header(self, role: str) -> list[int]:
        destination = "\nDestination: user" if role == "assistant" else ""
        return self._tokenizer.encode(f" Source: {role}{destination}")

    def _answer_header(self) -> list[int]:
        return [*self._header("assistant"), *self._tokenizer.encode("\n\n ")]


class PlainFormat:
    """No format: the model continues what was written, each message of the user on a line of its own."""

    python_tag = None
    names = NO_NAMES
    before_answer = ""
    stop_tokens: frozenset[int] = frozenset()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        first = [] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id]
        ids, text = list(first), ""  # what is text becomes ids as one, since these hang on what lies beside them
        for place, message in enumerate(dialog):
            if message.token_ids is None:
                text += "\n" if place and message.role != "assistant" else ""
                text += _with_calls(message)
            else:
                ids += [*plain_ids(self._tokenizer, text, begins=ids == first), *message.token_ids]
                text = ""
        return [*ids, *plain_ids(self._tokenizer, text, begins=ids == first)]


def _with_calls(message: Message) -> str:
    return "\n".join(filter(None, [message.content, *map(format_call, message.tool_calls)]))


def _alternating(dialog: Sequence[Message], tags: Sequence[str]) -> tuple[str | None, Sequence[Message]]:
    """The system prompt, and the turns of user and assistant as the formats of Llama 2 need them."""
    for message in dialog:
        found = next((tag for tag in tags if tag in message.content), None)
        if found and message.role != "assistant":
            what = "the system prompt" if message.role == "system" else "a message"
            hint = f"take it out, or put a space into it: {found[0]} {found[1:]}"
            raise EncodeError(f"{what} holds {found}, with which this format marks its turns", hint)
    system = dialog[0].content if dialog and dialog[0].role == "system" else None
    turns = dialog if system is None else dialog[1:]
    expected = ["user" if place % 2 == 0 else "assistant" for place in range(len(turns))]
    if [message.role for message in turns] != expected or len(turns) % 2 == 0:
        raise EncodeError("this format takes user and assistant in turns after an optional system message, user last")
    return system, turns
