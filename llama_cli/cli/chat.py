"""`llama-cli chat`: talk with a model."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated

import typer

from ..chat.message_lines import read_messages
from ..engine.request import Sampling
from ..errors import UsageError
from .dialog import Dialog, Kept
from .options import (
    ChatModelOptions,
    FromFile,
    MessageOptions,
    OneRow,
    Raw,
    UseStdin,
    with_options,
)
from .panels import CHAT_PANEL, INPUT_PANEL, OUTPUT_PANEL
from .progress import PATIENCE_SECONDS, Loading
from .prompts import is_piped, read_prompt, stdin_text_lines
from .view import View

# An answer ends when the model ends it; this bounds one that never does.
CHAT_SAMPLING = Sampling(max_tokens=2048)


@with_options("model", "system", "go_on")
def chat(
    message: Annotated[
        str | None, typer.Argument(metavar="MESSAGE", help="What to say first; - reads standard input.")
    ] = None,
    *,
    file: FromFile = None,
    stdin: UseStdin = True,
    stdin_lines: Annotated[
        bool,
        typer.Option("--stdin", help="Each line of standard input is a message.", rich_help_panel=INPUT_PANEL),
    ] = False,
    stdin_json: Annotated[
        bool,
        typer.Option(
            "--stdin-json", help='The same, each line {"role": ..., "content": ...}.', rich_help_panel=INPUT_PANEL
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
    dialog: Dialog,
    kept: Kept,
    view: View,
    model: ChatModelOptions,
    sampling: Sampling = CHAT_SAMPLING,
    messages: MessageOptions,
) -> None:
    """Talk with a model.

    On a terminal a conversation, which is kept until the next one: /help lists its commands. Elsewhere the message
    is the argument, -f FILE and what is piped in; it is answered once, or line by line with --stdin.

    Examples:
      llama-cli chat -m Llama3.2-1B-Instruct
      llama-cli chat -m Llama3.2-1B-Instruct "Why is the sky blue?"
      llama-cli chat -m Llama3.2-1B-Instruct --session talk.jsonl "Hello"
    """
    messages.apply()
    in_lines = stdin_lines or stdin_json
    on_terminal = _on_terminal() and not as_json and not in_lines
    _check(sampling, as_json=as_json)
    kept.check()
    if in_lines and (message is not None or file is not None):
        raise UsageError("--stdin reads the messages from standard input", "give no other message")
    first = None
    if message is not None or file is not None or (stdin and not in_lines and is_piped()):
        first = str(read_prompt(message, file, None, stdin=stdin, note=messages.note))
    elif not on_terminal and not in_lines:
        raise UsageError("no message", 'llama-cli chat "Hello", or pipe it in, or run it on a terminal')
    messages.doubt(f"{dialog.system or ''}\n{dialog.prefill}")
    messages.tell_of_toy(model.model)

    with ExitStack() as stack:
        with Loading(model.model, quiet=messages.quiet, patience=0 if on_terminal else PATIENCE_SECONDS) as loading:
            from ..chat.run import ChatRun, ChatSettings
            from ..loader import load_model
            from .chat_screen import ChatScreen

            keeping = stack.enter_context(kept.claim(model, messages, on_terminal=on_terminal))
            settings = ChatSettings(
                system=dialog.system,
                go_on=kept.go_on,
                keep_cache=kept.keep_cache,
                on_overflow=dialog.on_overflow,
                prefill=dialog.prefill,
                tools=dialog.read_tools(),
                tool_format=dialog.tool_format,
            )
            loaded = load_model(replace(model, on_layer=loading.on_layer))
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


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty()


def _check(sampling: Sampling, *, as_json: bool) -> None:
    if sampling.n != 1:
        raise UsageError("a chat has one answer to each message", "leave out --num-samples")
    if sampling.prompt_logprobs:
        raise UsageError("a chat does not score its prompts", "llama-cli score does")
    if sampling.wants_logprobs and not as_json:
        raise UsageError("--logprobs and --top-logprobs need --json", "add --json")
