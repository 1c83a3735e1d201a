"""Carries out `llama-cli chat`: a conversation, its file, and answers as they are shown. Imports torch."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..chat.answerer import Answerer, Overflow, Turn
from ..chat.cache_file import load_cache, save_cache
from ..chat.conversation import Conversation
from ..chat.kept_conversations import claim_last, claim_new, forget_older
from ..chat.shapes import describe_timings, describe_turn
from ..chat.template import TemplateChoice
from ..chat.transcript import SessionFile, origin_of
from ..checkpoint.catalog import TOY
from ..checkpoint.installed import find_model
from ..engine.request import Sampling
from ..errors import InputRejected, LlamaError, OutputRefused, UsageError
from ..files.claim import Claim, ensure_writable
from ..jobs.fields import IGNORED_MESSAGE_FIELDS, MESSAGE_FIELDS
from ..llm import Chunk
from ..loader import OnLayer
from ..tokenizer import EncodeError
from ..tokenizer.chat import Message
from ..tokenizer.tool_calls import ToolFormat, read_tools, tools_prompt
from .options import MessageOptions, ModelOptions
from .progress import shown_while_read
from .prompts import read_text_file, stdin_text_lines
from .run import load_model, ranks_of_a_group
from .terminal import Terminal, format_stats, write_stderr_text

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class View:
    """How answers are shown."""

    markdown: bool = False
    show_prompt: bool = False
    stats: bool = False
    wrap: bool = True


@dataclasses.dataclass(frozen=True)
class ChatSettings:
    """What the flags say about the conversation."""

    system: str | None
    chat_template: TemplateChoice
    session: Path | None
    go_on: bool
    keep_cache: bool
    on_overflow: Overflow
    prefill: str
    tools: Path | None
    tool_format: ToolFormat
    as_json: bool
    raw: bool
    view: View


class Keeping(NamedTuple):
    """Where a conversation is kept. `is_last`: nobody named the file, it takes the place of the last one."""

    claim: Claim
    is_last: bool


@contextmanager
def keep_conversation(
    settings: ChatSettings, model: ModelOptions, messages: MessageOptions, *, keep_last: bool
) -> Iterator[Keeping | None]:
    """The place for a conversation while it lasts; whether it can be kept there is told before the model is loaded."""
    with ExitStack() as stack:
        if settings.session is not None:
            claim = stack.enter_context(Claim(settings.session))
            if settings.session.exists() and not settings.go_on:
                hint = "add --continue to go on with it, or give another file"
                raise OutputRefused(f"{settings.session} exists", hint)
            if settings.keep_cache:
                ensure_writable(cache_beside(settings.session))
            yield Keeping(claim, is_last=False)
            return
        last = _claim_last(settings, model, messages) if keep_last else None
        yield None if last is None else Keeping(stack.enter_context(last), is_last=True)


def _claim_last(settings: ChatSettings, model: ModelOptions, messages: MessageOptions) -> Claim | None:
    folder = TOY if model.model is None else find_model(model.model)
    if settings.go_on:
        return claim_last(folder)
    try:
        return claim_new(folder)
    except LlamaError as error:
        messages.note(f"this conversation is not kept: {error.message}")
        return None


class ChatRun:
    """One conversation with one model. `view` may be replaced between answers."""

    def __init__(
        self,
        settings: ChatSettings,
        model: ModelOptions,
        sampling: Sampling,
        messages: MessageOptions,
        keeping: Keeping | None = None,
        on_layer: OnLayer | None = None,
    ) -> None:
        self.as_json, self.view, self._keep_cache = settings.as_json, settings.view, settings.keep_cache
        self.messages = messages
        self.prefix = "llama-cli: "  # of notes; a person in a conversation knows whom they talk to
        self.terminal = Terminal(raw=settings.raw)
        if settings.keep_cache and ranks_of_a_group(model) > 1:
            raise UsageError(
                "--save-cache: several ranks have the cache, each a part of it", "leave out --save-cache, or --tp"
            )
        functions = None if settings.tools is None else _read_tools(settings.tools)
        self.session = load_model(model, batch_size=1, chat_template=settings.chat_template, on_layer=on_layer)
        if self.session.template.warning:
            messages.note(self.session.template.warning)
        logger.info("%s", self.describe_template())
        self.keeping = keeping
        self.file: SessionFile | None = None
        conversation = Conversation()
        if keeping is not None:
            self.file = SessionFile(keeping.claim.path, origin_of(self.session), keeping.claim)
            if settings.go_on and keeping.claim.path.exists():
                conversation = self.file.load()
                self._load_cache(cache_beside(keeping.claim.path))
            else:
                self.file.begin_anew()
        self.answerer = Answerer(
            self.session, conversation, sampling, overflow=settings.on_overflow, prefill=settings.prefill
        )
        system = settings.system
        if functions is not None:
            if self.answerer.form.python_tag is None:
                raise UsageError(
                    f"the chat template {self.session.template.name} has no tools", "--chat-template llama3 has"
                )
            system = tools_prompt(functions, settings.tool_format, system)
        if system is not None:
            conversation.set_system(system)

    @property
    def conversation(self) -> Conversation:
        return self.answerer.conversation

    def describe_template(self) -> str:
        """Which format the dialogs get, and why."""
        template = self.session.template
        return f"template {template.name}{f' ({template.reason})' if template.reason else ''}"

    def say(self, text: str) -> Turn:
        """Answer a message of the user."""
        return self.answer(Message("user", text))

    def answer_lines(self, *, as_messages: bool) -> None:
        """Answer standard input line by line. Messages of other roles than user and tool get no answer."""
        for number, line in enumerate(stdin_text_lines(self.messages.note), 1):
            if not line.strip():
                continue
            message = _message_of(line, number) if as_messages else Message("user", line)
            if message.role == "system":
                self.conversation.set_system(message.content)
            elif message.role == "assistant":
                self.conversation.add(message)
            else:
                self.answer(message)
        self.save()

    def answer(self, message: Message | None = None, unfinished: Message | None = None) -> Turn:
        """Show the answer to a message, or to the conversation as it stands, or the rest of an unfinished one.

        What was said is kept, whatever ends the answer. Where nothing was said the message is not kept either.
        """
        before = self.conversation.branch
        if message is not None:
            self.messages.doubt(message.content)
            self.conversation.add(message)
        try:
            turn = self.answerer.prepare(unfinished)
            self._show_prompt(turn)
            if self.as_json:
                for _ in self.answerer.answer(turn):
                    pass
                self.terminal.write_json(describe_turn(self.session, turn, self.conversation.n_turns))
            else:
                self._show(turn)
        finally:
            if self.conversation.awaits_answer:
                self.conversation.branch = before
            else:
                self.save()
        if turn.n_dropped and not self.messages.quiet:
            self.terminal.note(
                f"{self.prefix}the context is full: the oldest {turn.n_dropped} messages are not sent any more"
            )
        if self.view.stats:
            timings = describe_timings(self.session.info, turn.stats, turn.first_token_seconds)
            self.terminal.note(f"{self.prefix}{format_stats(timings)}")
        return turn

    def _show(self, turn: Turn) -> None:
        is_drawn_again = self.view.markdown and self.terminal.is_tty
        try:
            with self.terminal.markdown() if is_drawn_again else self.terminal.answer(wrap=self.view.wrap) as write:
                for chunk in self._read_first(turn):
                    write(chunk.text)
        finally:
            if self.terminal.is_tty or turn.token_ids:
                self.terminal.write("\n")

    def _read_first(self, turn: Turn) -> Iterator[Chunk]:
        n_prompt, quiet = len(turn.prompt), self.messages.quiet
        return shown_while_read(self.answerer.answer(turn), n_prompt, self.session.stats, quiet=quiet)

    def _show_prompt(self, turn: Turn) -> None:
        if self.view.show_prompt:
            ids = " ".join(map(str, turn.prompt))
            text = self.session.decode(turn.prompt, self.answerer.form)
            write_stderr_text(f"llama-cli: the prompt, {len(turn.prompt)} tokens:\n{text}\nllama-cli: its ids: {ids}")

    def save(self) -> None:
        """Bring the session's file up to date."""
        if self.file is not None:
            self.file.save(self.conversation)
        if self.keeping is not None and self.keeping.is_last and self.conversation.n_turns:
            forget_older(self.keeping.claim)

    def close(self) -> None:
        """Keep the cache where that was asked for. ModelRejected if the model's files are no longer the same."""
        self.session.ensure_unchanged()
        if self.file is not None and self._keep_cache and self.answerer.turn is not None:
            save_cache(cache_beside(self.file.path), self.session)

    def _load_cache(self, path: Path) -> None:
        if not path.is_file():
            return
        try:
            load_cache(path, self.session)
        except InputRejected as error:
            self.messages.note(f"{error.message}: {error.hint}")


def cache_beside(path: Path) -> Path:
    """Where the cache of a session lies."""
    return path.with_name(f"{path.name}.cache")


def _read_tools(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(read_text_file(path))
    except (ValueError, RecursionError):
        raise InputRejected(
            f"{path} is not JSON", "give a list of functions with name, description, parameters"
        ) from None
    try:
        return read_tools(value)
    except EncodeError as error:
        raise InputRejected(f"{path}: {error.message}", error.hint) from None


def _message_of(line: str, number: int) -> Message:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InputRejected(f"line {number} is no JSON object", '{"role": "user", "content": "Hello"}')
    unknown = sorted(fields.keys() - MESSAGE_FIELDS - IGNORED_MESSAGE_FIELDS)
    if unknown:
        raise InputRejected(f"line {number}: {unknown[0][:40]} is no part of a message", "settings are flags")
    try:
        return Message.of(fields)
    except EncodeError as error:
        raise InputRejected(f"line {number}: {error.message}", error.hint) from None
