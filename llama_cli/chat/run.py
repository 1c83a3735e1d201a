"""One conversation with one model: messages in, answers out, its file and its cache kept. Shows nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..answers.completion import Chunk
from ..engine.request import Sampling
from ..errors import InputRejected, UsageError
from ..llm import LLM
from ..tokenizer.chat import Message
from ..tokenizer.tool_calls import ToolFormat, tools_prompt
from .answerer import Answerer, Overflow, Turn
from .cache_file import load_cache, save_cache
from .conversation import Conversation
from .keeping import Keeping, cache_beside
from .kept_conversations import forget_older
from .transcript import SessionFile, origin_of

logger = logging.getLogger(__name__)

Note = Callable[[str], None]  # tells a person a line
Show = Callable[[Turn, Iterator[Chunk]], None]  # takes the chunks of a turn as they are made, all of them


@dataclass(frozen=True)
class ChatSettings:
    """What is asked of a conversation."""

    system: str | None = None
    go_on: bool = False  # with what is kept
    keep_cache: bool = False
    on_overflow: Overflow = "error"
    prefill: str = ""
    tools: Sequence[Mapping[str, Any]] | None = None  # functions that are offered
    tool_format: ToolFormat = "json"


class ChatRun:
    """A conversation that is going on. `keeping` is None where nothing is kept."""

    def __init__(
        self, session: LLM, settings: ChatSettings, sampling: Sampling, keeping: Keeping | None, note: Note
    ) -> None:
        self.session = session
        self.keeping = keeping
        self._keep_cache = settings.keep_cache
        self._note = note
        if session.template.warning:
            note(session.template.warning)
        logger.info("%s", self.describe_template())
        self.file = None if keeping is None else SessionFile(keeping.claim.path, origin_of(session), keeping.claim)
        conversation = self._begin(go_on=settings.go_on)
        self.answerer = Answerer(
            session, conversation, sampling, overflow=settings.on_overflow, prefill=settings.prefill
        )
        system = self._system_of(settings)
        if system is not None:
            conversation.set_system(system)

    def _begin(self, *, go_on: bool) -> Conversation:
        """The conversation that is kept, if it is to go on, else a new one."""
        if self.file is not None and go_on and self.file.path.exists():
            conversation = self.file.load()
            self._load_cache()
            return conversation
        if self.file is not None:
            self.file.begin_anew()
        return Conversation()

    def _system_of(self, settings: ChatSettings) -> str | None:
        if settings.tools is None:
            return settings.system
        if self.answerer.form.python_tag is None:
            raise UsageError(
                f"the chat template {self.session.template.name} has no tools",
                "leave --tools out, or give a model that was trained for them; --chat-template llama3 insists",
            )
        return tools_prompt(list(map(dict, settings.tools)), settings.tool_format, settings.system)

    @property
    def conversation(self) -> Conversation:
        return self.answerer.conversation

    def describe_template(self) -> str:
        """Which format the dialogs get, and why."""
        template = self.session.template
        return f"template {template.name}{f' ({template.reason})' if template.reason else ''}"

    def answer(self, message: Message | None, unfinished: Message | None, show: Show) -> Turn:
        """Answer a message, or the conversation as it stands, or say the rest of an unfinished answer.

        What was said is kept, whatever ends the answer. Where nothing was said the message is not kept either.
        """
        before = self.conversation.branch
        if message is not None:
            self.conversation.add(message)
        try:
            turn = self.answerer.prepare(unfinished)
            show(turn, self.answerer.answer(turn))
        finally:
            if self.conversation.awaits_answer:
                self.conversation.branch = before
            else:
                self.save()
        return turn

    def take(self, messages: Iterable[Message], answer: Callable[[Message], object]) -> None:
        """Take messages in, one after the other: those of users and tools are handed to `answer`, others are noted."""
        for message in messages:
            if message.role == "system":
                self.conversation.set_system(message.content)
            elif message.role == "assistant":
                self.conversation.add(message)
            else:
                answer(message)
        self.save()

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

    def _load_cache(self) -> None:
        assert self.file is not None, "it is the file's"
        path = cache_beside(self.file.path)
        if not path.is_file():
            return
        try:
            load_cache(path, self.session)
        except InputRejected as error:
            self._note(f"{error.message}: {error.hint}")
