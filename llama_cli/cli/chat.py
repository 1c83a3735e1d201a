"""`llama-cli chat`: talk with a model."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..chat.keeping import Keeping, keep_as_last, keep_in_file
from ..chat.message_lines import read_messages
from ..engine.request import Sampling
from ..errors import InputRejected, UsageError
from ..options import LoadOptions
from ..tokenizer import EncodeError
from ..tokenizer.tool_calls import ToolFormat, read_tools
from .options import (
    OUTPUT_PANEL,
    ChatModelOptions,
    KeepSession,
    MessageOptions,
    OneRow,
    Raw,
    UseStdin,
    with_options,
)
from .progress import PATIENCE_SECONDS, Loading
from .prompts import is_piped, read_prompt, read_text_file, stdin_text_lines
from .view import View

CHAT_PANEL = "Conversation"

# An answer ends when the model ends it; this bounds one that never does.
CHAT_SAMPLING = Sampling(max_tokens=2048)


@with_options
def chat(
    message: Annotated[str | None, typer.Argument(help="What to say first; - reads standard input.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the message from a file.")] = None,
    stdin: UseStdin = True,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="The system prompt.", rich_help_panel=CHAT_PANEL)
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option("--session", help="Keep the conversation in this file.", rich_help_panel=CHAT_PANEL),
    ] = None,
    keep_session: KeepSession = True,
    go_on: Annotated[
        bool,
        typer.Option(
            "--continue", help="Go on with the session's, or with the last conversation.", rich_help_panel=CHAT_PANEL
        ),
    ] = False,
    keep_cache: Annotated[
        bool,
        typer.Option("--save-cache", help="Keep the cache too, in FILE.cache.", rich_help_panel=CHAT_PANEL),
    ] = False,
    on_overflow: Annotated[
        Literal["error", "truncate", "shift"],
        typer.Option(
            "--on-overflow",
            help="Where the context is full: refuse, drop the oldest turns before an answer, or within one too.",
            rich_help_panel=CHAT_PANEL,
        ),
    ] = "error",
    prefill: Annotated[
        str, typer.Option("--prefill", help="What every answer begins with.", rich_help_panel=CHAT_PANEL)
    ] = "",
    tools: Annotated[
        Path | None,
        typer.Option("--tools", help="JSON with functions the model may call.", rich_help_panel=CHAT_PANEL),
    ] = None,
    tool_format: Annotated[
        ToolFormat,
        typer.Option("--tool-format", help="How it is told to call them.", rich_help_panel=CHAT_PANEL),
    ] = "json",
    stdin_lines: Annotated[
        bool,
        typer.Option("--stdin", help="Each line of standard input is a message.", rich_help_panel=CHAT_PANEL),
    ] = False,
    stdin_json: Annotated[
        bool,
        typer.Option(
            "--stdin-json", help='The same, each line {"role": ..., "content": ...}.', rich_help_panel=CHAT_PANEL
        ),
    ] = False,
    history: Annotated[
        bool,
        typer.Option("--history/--no-history", help="Remember what was typed.", rich_help_panel=CHAT_PANEL),
    ] = True,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object for each answer.", rich_help_panel=OUTPUT_PANEL),
    ] = False,
    raw: Raw = False,
    batch_size: OneRow = None,
    view: View,
    model: ChatModelOptions,
    sampling: Sampling = CHAT_SAMPLING,
    messages: MessageOptions,
) -> None:
    """Talk with a model.

    On a terminal a conversation, which is kept until the next one: /help lists its commands. Elsewhere the message
    is the argument, -f FILE and what is piped in; it is answered once, or line by line with --stdin.
    """
    messages.apply()
    in_lines = stdin_lines or stdin_json
    on_terminal = _on_terminal() and not as_json and not in_lines
    _check(sampling, as_json=as_json)
    if session is None and keep_cache:
        raise UsageError("--save-cache needs the file of the conversation", "--session FILE --save-cache")
    if session is None and go_on and not keep_session:
        raise UsageError("--continue needs a conversation, and --no-session keeps none", "--session FILE --continue")
    if in_lines and (message is not None or file is not None):
        raise UsageError("--stdin reads the messages from standard input", "give no other message")
    first = None
    if message is not None or file is not None or (stdin and not in_lines and is_piped()):
        first = str(read_prompt(message, file, None, stdin=stdin, note=messages.note))
    elif not on_terminal and not in_lines:
        raise UsageError("no message", 'llama-cli chat "Hello", or pipe it in, or run it on a terminal')
    messages.doubt(f"{system or ''}\n{prefill}")
    messages.tell_of_toy(model.model)

    with ExitStack() as stack:
        with Loading(model.model, quiet=messages.quiet, patience=0 if on_terminal else PATIENCE_SECONDS) as loading:
            from ..chat.run import ChatRun, ChatSettings
            from ..loader import load_model
            from .chat_screen import ChatScreen

            keep_last = keep_session and (on_terminal or go_on)
            keep = _keep_in(session, model, messages, go_on=go_on, with_cache=keep_cache, keep_last=keep_last)
            keeping = stack.enter_context(keep)
            if keep_cache:
                _refuse_ranks(model)
            functions = None if tools is None else _read_tools(tools)
            loaded = load_model(replace(model, on_layer=loading.on_layer))
            settings = ChatSettings(system, go_on, keep_cache, on_overflow, prefill, functions, tool_format)
            run = ChatRun(loaded, settings, sampling, keeping, messages.note)
        screen = ChatScreen(run, messages, view, as_json=as_json, raw=raw)
        code = 0
        if on_terminal:
            from .repl import talk

            code = talk(screen, first, history=history)
        elif in_lines:
            run.take(read_messages(stdin_text_lines(messages.note), as_json=stdin_json), screen.answer)
        else:
            screen.say(str(first))
        run.close()
    if code:
        raise typer.Exit(code)


def _keep_in(
    file: Path | None, model: LoadOptions, messages: MessageOptions, *, go_on: bool, with_cache: bool, keep_last: bool
) -> AbstractContextManager[Keeping | None]:
    """Where the conversation is kept while it lasts; whether it can be is told before the model is loaded."""
    if file is not None:
        return keep_in_file(file, go_on=go_on, with_cache=with_cache)
    return keep_as_last(model.model, go_on=go_on, note=messages.note) if keep_last else nullcontext()


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


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty()


def _check(sampling: Sampling, *, as_json: bool) -> None:
    if sampling.n != 1:
        raise UsageError("a chat has one answer to each message", "leave out --num-samples")
    if sampling.prompt_logprobs:
        raise UsageError("a chat does not score its prompts", "llama-cli score does")
    if sampling.wants_logprobs and not as_json:
        raise UsageError("--logprobs and --top-logprobs need --json", "add --json")
