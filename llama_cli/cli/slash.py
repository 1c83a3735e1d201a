"""The commands of a chat: what a line that begins with `/` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from ..chat.shapes import describe_timings
from ..chat.transcript import origin_of, read_conversation, write_conversation
from ..errors import OutputRefused, UsageError
from ..files.write import replace_file
from ..tokenizer.chat import Message
from .chat_screen import ChatScreen
from .clipboard import copy_to_clipboard
from .live_settings import NAMES, LiveSettings, values_of
from .prompts import read_text_file
from .terminal import format_stats
from .typed import COMMAND, QUOTES, as_typed, file_of, unquoted

# What /help says of all commands of a kind.
BLOCKS = f"Several lines stand between {QUOTES} and {QUOTES}."
SETTING = "/set NAME shows one, /set NAME VALUE or NAME=VALUE changes it; /set lists them all."
ONE_FILE = 'A name with spaces stands in quotes: "my notes.txt".'

ALIASES = {"": "help", "?": "help", "quit": "exit", "bye": "exit"}


class Outcome(NamedTuple):
    """What the conversation does next."""

    leave: bool = False
    answer: Message | None = None  # a message to be answered
    retry: bool = False  # the last answer is to be made anew
    go_on: bool = False  # or to be gone on with
    edit: str | None = None  # the last message, to be typed anew


class Command(NamedTuple):
    """One line of /help."""

    argument: str  # what follows the name: nothing, or what may be left out in brackets
    about: str
    act: Callable[[str], Outcome | None]
    more: str = ""  # what /help NAME says beside it


class Commands:
    """Carries commands out on a chat. Errors are LlamaErrors; nothing is changed where there was one."""

    def __init__(self, screen: ChatScreen) -> None:
        self.run = screen.run
        self.screen = screen
        self.attached: list[str] = []  # texts of /read, which go with the next message
        self._settings = LiveSettings(screen)
        self._written: set[Path] = set()
        self.table = {
            "help": Command("[COMMAND]", "list the commands, or tell about one", self._help),
            "exit": Command("", "leave; so do /bye and Ctrl-D", lambda _: Outcome(leave=True)),
            "clear": Command("", "begin anew; what was said stays as a branch", self._clear),
            "system": Command("[TEXT]", "show or set the system prompt; - takes it away", self._system, BLOCKS),
            "set": Command("[NAME [VALUE]]", "show or change settings, as in /set temperature 0.7", self._set, SETTING),
            "show": Command("", "show model, format and files", self._show),
            "retry": Command("", "answer the last message anew", lambda _: Outcome(retry=True)),
            "continue": Command("", "go on with an answer that was cut", lambda _: Outcome(go_on=True)),
            "copy": Command("", "put the last answer on the clipboard", self._copy),
            "undo": Command("[N]", "take back the last turn, or the last N", self._undo),
            "edit": Command("", "type the last message anew", self._edit),
            "fork": Command("[NAME]", "go on in a copy of this branch", self._fork),
            "branches": Command("[NAME]", "list the branches, or go to one", self._branches),
            "save": Command("FILE", "write the conversation, as JSONL", self._save, ONE_FILE),
            "load": Command("FILE", "go on with a conversation, beside this one", self._load, ONE_FILE),
            "read": Command("FILE", "send a file with the next message; - takes it back", self._read, ONE_FILE),
            "tool": Command("TEXT", "answer the model's tool call", self._tool, BLOCKS),
            "tokens": Command("", "count the tokens of the context", self._tokens),
            "stats": Command("", "speed and memory of the last answer", self._stats),
            "export": Command("FILE", "write the conversation to be read by people", self._export, ONE_FILE),
        }

    def execute(self, line: str) -> Outcome:
        """Carry out one line. UsageError if there is no such command, or not with such an argument."""
        matched = COMMAND.fullmatch(line.strip())
        assert matched is not None, "the caller has told it from a message"
        name, command = self._find(matched[1] or "")
        argument = unquoted((matched[2] or "").strip())
        if matched[2] and not command.argument:
            raise UsageError(f"/{name} takes no argument", f"/{name}; a space before the / makes it a message")
        if not matched[2] and command.argument and not command.argument.startswith("["):
            raise UsageError(f"/{name} needs {command.argument}", f"/help {name}")
        return command.act(argument) or Outcome()

    def _find(self, typed: str) -> tuple[str, Command]:
        lowered = typed.lower()
        name = ALIASES.get(lowered, lowered)
        if name in self.table:
            return name, self.table[name]
        close = get_close_matches(name, [*self.table, *ALIASES], n=1)
        way = f"/{close[0]}" if close else f"/set {lowered}" if lowered in NAMES else "/help lists them"
        raise UsageError(f"there is no command /{typed}", f"{way}; a space before the / makes it a message")

    def complete(self, text: str) -> Sequence[str] | None:
        """What may stand at the end of a line; None where it is the name of a file."""
        name, space, argument = text.partition(" ")
        if not text.startswith("/"):
            return []
        if not space:
            return [f"/{command}" for command in self.table]
        command = self.table.get(name[1:])
        if command is not None and command.argument == "FILE":
            return None
        setting, space, _ = argument.partition(" ")
        words: dict[str, Sequence[str]] = {
            "/set": values_of(setting) if space else NAMES,
            "/branches": list(self.run.conversation.branches),
            "/help": list(self.table),
        }
        return words.get(name, [])

    def _say(self, text: str) -> None:
        for line in text.split("\n"):
            self.screen.terminal.note(line)

    def _help(self, name: str) -> None:
        if name:
            name, command = self._find(name.removeprefix("/"))
            self._say(f"  /{name} {command.argument}".rstrip() + f": {command.about}")
            if command.more:
                self._say(f"  {command.more}")
            return
        for name, command in self.table.items():
            self._say(f"  /{name + ' ' + command.argument:<22} {command.about}")
        self._say('Alt-Enter or \\ at the end goes on in a new line, """ begins and ends a block,')
        self._say("Ctrl-X Ctrl-E opens an editor, Ctrl-R searches history, Ctrl-C ends an answer")

    def _clear(self, _: str) -> None:
        conversation = self.run.conversation
        if conversation.branch.spoken:
            left = conversation.current
            conversation.fork()
            conversation.clear()
            self._say(f"a new branch, {conversation.current}; what was said stays in {left}")

    def _system(self, text: str) -> None:
        conversation = self.run.conversation
        if text:
            before = conversation.system
            conversation.set_system(None if text == "-" else text)
            self._say(_what_became_of(before, conversation.system))
        else:
            self._say(conversation.system if conversation.system is not None else "there is no system prompt")

    def _set(self, typed: str) -> None:
        if typed:
            self._say(self._settings.set(typed))
        else:
            for name in NAMES:
                self._say(f"  {self._settings.describe(name)}")

    def _show(self, _: str) -> None:
        session, info = self.run.session, self.run.session.info
        self._say(f"  model     {info.name}, {info.dtype} on {info.device}, in {info.folder}")
        self._say(f"  {self.run.describe_template().replace('template', 'template ', 1)}")
        self._say(f"  context   {session.max_seq_len:,} tokens")
        self._say(f"  branch    {self.run.conversation.current}, {counted(self.run.conversation.n_turns, 'turn')}")
        self._say(f"  session   {self.run.file.path if self.run.file else 'not kept; --session FILE keeps it'}")

    def _undo(self, number: str) -> None:
        conversation = self.run.conversation
        if number and not (number.isdecimal() and int(number[:9]) > 0):
            raise UsageError(f"/undo takes a number of turns, not {_short(number)}", "/undo 2")
        if not conversation.branch.spoken:
            raise UsageError("there is nothing to take back")
        n_turns, there = int(number[:9] or 1), max(conversation.n_turns, 1)
        if n_turns > there:
            raise UsageError(
                f"only {counted(there, 'turn')} can be taken back, not {n_turns}", f"/undo {there}, or /clear"
            )
        for _ in range(n_turns):
            taken = conversation.undo()
            self._say(f"took back: {_short(taken[0].content)}")

    def _copy(self, _: str) -> None:
        last = next((m for m in reversed(self.run.conversation.branch.spoken) if m.role == "assistant"), None)
        if last is None:
            raise UsageError("there is no answer yet")
        text = _written(last)
        way = copy_to_clipboard(text, self.screen.terminal)
        self._say(f"copied {counted(len(text), 'character')} {way}")

    def _edit(self, _: str) -> Outcome:
        last = next((m for m in reversed(self.run.conversation.branch.spoken) if m.role == "user"), None)
        if last is None:
            raise UsageError("there is no message to edit")
        return Outcome(edit=as_typed(last.content))

    def _fork(self, name: str) -> None:
        left = self.run.conversation.current
        self._say(f"now in {self.run.conversation.fork(name or None)}; {left} stays as it is")

    def _branches(self, name: str) -> None:
        conversation = self.run.conversation
        if name:
            conversation.switch(name)
        for each, branch in conversation.branches.items():
            mark = "*" if each == conversation.current else " "
            last = branch.spoken[-1].content if branch.spoken else ""
            self._say(f"{mark} {each}: {counted(len(branch.spoken), 'message')}, {_short(last)}")

    def _save(self, name: str) -> None:
        path = self._new_file(name)
        write_conversation(path, self.run.conversation, origin_of(self.run.session))
        self._written.add(path)
        self._say(f"wrote {path}")

    def _load(self, name: str) -> None:
        conversation = self.run.conversation
        loaded = read_conversation(file_of(name), origin_of(self.run.session))
        for each, branch in loaded.branches.items():
            free = next(n for n in (each, *(f"{each}-{k}" for k in range(2, 10**6))) if n not in conversation.branches)
            conversation.branches[free] = branch
            if each == loaded.current:
                conversation.current = free
        self._say(f"now in {conversation.current}, {counted(conversation.n_turns, 'turn')}")

    def _read(self, name: str) -> None:
        if name == "-":
            if not self.attached:
                raise UsageError("no file waits to be sent", "/read FILE")
            self._say(f"{counted(len(self.attached), 'file')} not sent")
            self.attached.clear()
            return
        text = read_text_file(file_of(name))
        self.attached.append(text)
        self._say(f"{name}: {len(text):,} characters go with the next message")

    def _tool(self, text: str) -> Outcome:
        spoken = self.run.conversation.branch.spoken
        if not spoken or spoken[-1].role != "assistant":
            raise UsageError("the model has called no tool")
        return Outcome(answer=Message("tool", text))

    def _tokens(self, _: str) -> None:
        answerer, tokenizer = self.run.answerer, self.run.session.tokenizer
        used, context = answerer.n_used, self.run.session.max_seq_len
        if used < context:
            self._say(f"{used:,} of {context:,} tokens are used, {context - used:,} are left")
        else:
            self._say(f"the conversation takes {used:,} tokens; the context holds {context:,}: it is full")
        for message in self.run.conversation.branch.sent:
            n_tokens = len(tokenizer.encode(message.content)) if message.token_ids is None else len(message.token_ids)
            self._say(f"  {message.role:<9} {n_tokens:>7,}  {_short(message.content)}")

    def _stats(self, _: str) -> None:
        turn = self.run.answerer.turn
        if turn is None:
            raise UsageError("there is no answer yet")
        self._say(format_stats(describe_timings(self.run.session.info, turn.stats, turn.first_token_seconds)))

    def _export(self, name: str) -> None:
        path = self._new_file(name)
        parts = [f"## {message.role}\n\n{_written(message)}\n" for message in self.run.conversation.branch.messages]
        replace_file(path, iter(["\n".join(parts).encode("utf-8", "replace")]))
        self._written.add(path)
        self._say(f"wrote {path}")

    def _new_file(self, name: str) -> Path:
        """A file that is not there yet, or that this chat wrote."""
        path = file_of(name)
        if path.exists() and path not in self._written:
            raise OutputRefused(f"{path} exists", "give another name")
        return path


def _what_became_of(before: str | None, system: str | None) -> str:
    """What /system did, on one line."""
    if system == before:
        return "there was no system prompt" if system is None else "the system prompt is what it was"
    if system is None:
        return "the system prompt is taken away"
    return f"the system prompt is now: {_short(system)}"


def counted(number: int, thing: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _written(message: Message) -> str:
    calls = [f"{call.name}({json.dumps(dict(call.arguments))})" for call in message.tool_calls]
    return "\n".join(filter(None, [message.content, *calls]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."
