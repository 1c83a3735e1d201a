"""What a chat is asked to say and to keep: two groups of flags, which are their fields."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..chat.keeping import Keeping, keep_as_last, keep_in_file
from ..errors import InputRejected, UsageError
from ..options import LoadOptions
from ..tokenizer import EncodeError
from ..tokenizer.tool_calls import ToolFormat, read_tools
from .options import KeepSession, MessageOptions
from .panels import CHAT_PANEL
from .prompts import read_text_file


@dataclass(frozen=True)
class Dialog:
    """What is said to the model beside the messages, and where they grow too long."""

    system: Annotated[
        str | None,
        typer.Option("--system", "-s", help="The system prompt: what the model is to be.", rich_help_panel=CHAT_PANEL),
    ] = None
    on_overflow: Annotated[
        Literal["error", "truncate", "shift"],
        typer.Option(
            "--on-overflow",
            help="Full context: error refuses, truncate drops the oldest turns before an answer, shift within one too.",
            rich_help_panel=CHAT_PANEL,
        ),
    ] = "error"
    prefill: Annotated[
        str, typer.Option("--prefill", help="What every answer begins with.", rich_help_panel=CHAT_PANEL)
    ] = ""
    tools: Annotated[
        Path | None,
        typer.Option("--tools", help="JSON with functions the model may call.", rich_help_panel=CHAT_PANEL),
    ] = None
    tool_format: Annotated[
        ToolFormat,
        typer.Option("--tool-format", help="How the model is told to call them.", rich_help_panel=CHAT_PANEL),
    ] = "json"

    def read_tools(self) -> list[dict[str, Any]] | None:
        """The functions that the model may call; InputRejected if the file has none."""
        return None if self.tools is None else _read_tools(self.tools)


@dataclass(frozen=True)
class Kept:
    """Where a conversation is kept."""

    session: Annotated[
        Path | None,
        typer.Option("--session", help="Keep the conversation in this file.", rich_help_panel=CHAT_PANEL),
    ] = None
    keep_session: KeepSession = True
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue",
            help="Go on with the conversation of --session, else with the last one.",
            rich_help_panel=CHAT_PANEL,
        ),
    ] = False
    keep_cache: Annotated[
        bool,
        typer.Option(
            "--save-cache", help="With --session: keep the cache too, in FILE.cache.", rich_help_panel=CHAT_PANEL
        ),
    ] = False

    def check(self) -> None:
        """UsageError if what is to be kept has no place."""
        if self.session is None and self.keep_cache:
            raise UsageError("--save-cache needs the file of the conversation", "--session FILE --save-cache")
        if self.session is None and self.go_on and not self.keep_session:
            raise UsageError(
                "--continue needs a conversation, and --no-session keeps none", "--session FILE --continue"
            )

    def claim(
        self, model: LoadOptions, messages: MessageOptions, *, on_terminal: bool
    ) -> AbstractContextManager[Keeping | None]:
        """The place while the conversation lasts; whether it can be kept there is told before the model is loaded."""
        if self.keep_cache:
            _refuse_ranks(model)
        if self.session is not None:
            return keep_in_file(self.session, go_on=self.go_on, with_cache=self.keep_cache)
        if self.keep_session and (on_terminal or self.go_on):
            return keep_as_last(model.model, go_on=self.go_on, note=messages.note)
        return nullcontext()


def _refuse_ranks(model: LoadOptions) -> None:
    from ..parallel.team import ranks_of_a_group

    if ranks_of_a_group(model) > 1:
        raise UsageError(
            "--save-cache: several ranks have the cache, each a part of it", "leave out --save-cache, or --tp"
        )


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
