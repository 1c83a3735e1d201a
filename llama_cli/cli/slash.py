"""The commands of a chat: what a line that begins with `/` does."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizer.chat import Message

from ..engine.request import Sampling, SettingRejected
from ..errors import OutputRefused, UsageError
from ..files.write import replace_file
from ..session_file import origin_of, read_conversation, write_conversation
from .chat_run import ChatRun
from .prompts import read_text_file
from .run import describe_timings
from .terminal import format_stats

# A word behind the slash; `/usr/bin` or `/*` begin a message.
COMMAND = re.compile(r"/([a-z]+|\?)(?:\s+(.*))?", re.DOTALL)

# Settings of the run that /set changes beside those of Sampling.
SWITCHES = ("markdown", "show_prompt", "stats")
OVERFLOWS = ("error", "truncate", "shift")
FIXED = {"n", "prompt_logprobs", "logprobs", "top_logprobs"}  # of no use in a chat
SETTINGS = tuple(each.name for each in dataclasses.fields(Sampling) if each.name not in FIXED)


class Outcome(NamedTuple):
    """What the conversation does next."""

    leave: bool = False
    answer: Message | None = None  # a message to be answered
    retry: bool = False  # the last answer is to be made anew
    edit: str | None = None  # the last message, to be typed anew


class Command(NamedTuple):
    """One line of /help."""

    argument: str
    about: str
    act: Callable[[str], Outcome | None]


class Commands:
    """Carries commands out on a chat. Errors are LlamaErrors; nothing is changed where there was one."""

    def __init__(self, run: ChatRun) -> None:
        self.run = run
        self.attached: list[str] = []  # texts of /read, which go with the next message
        self._written: set[Path] = set()
        self.table = {
            "help": Command("", "list the commands", self._help),
            "exit": Command("", "leave; so does Ctrl-D", lambda _: Outcome(leave=True)),
            "clear": Command("", "begin anew; what was said stays as a branch", self._clear),
            "system": Command("[TEXT]", "show or set the system prompt; - takes it away", self._system),
            "set": Command("[NAME VALUE]", "show or change settings, as in /set temperature 0.7", self._set),
            "show": Command("", "show model, format and files", self._show),
            "retry": Command("", "answer the last message anew", lambda _: Outcome(retry=True)),
            "undo": Command("", "take back the last message and its answer", self._undo),
            "edit": Command("", "type the last message anew", self._edit),
            "fork": Command("[NAME]", "go on in a copy of this branch", self._fork),
            "branches": Command("[NAME]", "list the branches, or go to one", self._branches),
            "save": Command("FILE", "write the conversation, as JSONL", self._save),
            "load": Command("FILE", "go on with a conversation, beside this one", self._load),
            "read": Command("FILE", "send a file along with the next message", self._read),
            "tool": Command("TEXT", "answer the model's tool call", self._tool),
            "tokens": Command("", "count the tokens of the context", self._tokens),
            "stats": Command("", "speed and memory of the last answer", self._stats),
            "export": Command("FILE", "write the conversation to be read by people", self._export),
        }

    def execute(self, line: str) -> Outcome:
        """Carry out one line. UsageError if there is no such command."""
        matched = COMMAND.fullmatch(line.strip())
        name = matched[1] if matched else ""
        command = self.table.get({"?": "help", "quit": "exit", "bye": "exit"}.get(name, name))
        if matched is None or command is None:
            raise UsageError(
                f"there is no command /{name}", "/help lists them; a space before the / makes it a message"
            )
        return command.act((matched[2] or "").strip()) or Outcome()

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
        if name == "/set" and " " not in argument:
            return [*SETTINGS, *SWITCHES, "on_overflow", "prefill"]
        return list(self.run.conversation.branches) if name == "/branches" else []

    def _say(self, text: str) -> None:
        self.run.terminal.note(text)

    def _help(self, _: str) -> None:
        for name, command in self.table.items():
            self._say(f"  /{name + ' ' + command.argument:<22} {command.about}")
        self._say('Alt-Enter or \\ at the end of a line goes on in a new one, """ begins and ends a block,')
        self._say("Ctrl-X Ctrl-E opens an editor, Ctrl-R searches what was typed. Ctrl-C stops an answer.")

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
            conversation.set_system(None if text == "-" else text)
        else:
            self._say(conversation.system if conversation.system is not None else "there is no system prompt")

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        name, value, run = name.lstrip("-").replace("-", "_"), value.strip(), self.run
        if not name:
            for each, current in self._settings().items():
                self._say(f"  {each} {json.dumps(current)}")
        elif not value:
            raise UsageError(f"/set {name} needs a value", "/set temperature 0.7")
        elif name in SETTINGS:
            run.answerer.sampling = _changed(run.answerer.sampling, name, value)
        elif name in SWITCHES:
            run.view = dataclasses.replace(run.view, **{name: _as_bool(name, value)})
        elif name == "on_overflow" and value in OVERFLOWS:
            run.answerer.overflow = value  # type: ignore[assignment]
        elif name == "prefill":
            run.answerer.prefill = "" if value == "-" else value
        else:
            raise UsageError(f"there is no setting {name} {value}", "/set lists them")

    def _settings(self) -> dict[str, Any]:
        run, sampling = self.run, dataclasses.asdict(self.run.answerer.sampling)
        shown = {name: sampling[name] for name in SETTINGS} | {"logit_bias": dict(sampling["logit_bias"])}
        shown |= {"on_overflow": run.answerer.overflow, "prefill": run.answerer.prefill}
        return shown | {name: getattr(run.view, name) for name in SWITCHES}

    def _show(self, _: str) -> None:
        session, info = self.run.session, self.run.session.info
        self._say(f"  model     {info.name}, {info.dtype} on {info.device}, in {info.folder}")
        self._say(f"  template  {session.template.name}")
        self._say(f"  context   {session.max_seq_len:,} tokens")
        self._say(f"  branch    {self.run.conversation.current}, {self.run.conversation.n_turns} turns")
        self._say(f"  session   {self.run.file.path if self.run.file else 'not kept; --session FILE keeps it'}")

    def _undo(self, _: str) -> None:
        taken = self.run.conversation.undo()
        if not taken:
            raise UsageError("there is nothing to take back")
        self._say(f"took back: {_short(taken[0].content)}")

    def _edit(self, _: str) -> Outcome:
        last = next((m for m in reversed(self.run.conversation.branch.spoken) if m.role == "user"), None)
        if last is None:
            raise UsageError("there is no message to edit")
        return Outcome(edit=last.content)

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
            self._say(f"{mark} {each}: {len(branch.spoken)} messages, {_short(last)}")

    def _save(self, name: str) -> None:
        path = self._new_file(name)
        write_conversation(path, self.run.conversation, origin_of(self.run.session))
        self._written.add(path)
        self._say(f"wrote {path}")

    def _load(self, name: str) -> None:
        conversation = self.run.conversation
        loaded = read_conversation(_path(name), origin_of(self.run.session))
        for each, branch in loaded.branches.items():
            free = next(n for n in (each, *(f"{each}-{k}" for k in range(2, 10**6))) if n not in conversation.branches)
            conversation.branches[free] = branch
            if each == loaded.current:
                conversation.current = free
        self._say(f"now in {conversation.current}, {conversation.n_turns} turns")

    def _read(self, name: str) -> None:
        text = read_text_file(_path(name))
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
        self._say(f"{used:,} of {context:,} tokens are used, {max(0, context - used):,} are left")
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
        path = _path(name)
        if path.exists() and path not in self._written:
            raise OutputRefused(f"{path} exists", "give another name")
        return path


def _path(name: str) -> Path:
    if not name:
        raise UsageError("a file is missing", "/help shows what a command needs")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~ of a user that does not exist
        return Path(name)


def _changed(sampling: Sampling, name: str, text: str) -> Sampling:
    """`sampling` with one field as it was typed: JSON, or a plain text."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = text
    if name == "logit_bias" and isinstance(value, dict) and all(key.isdigit() for key in value):
        value = {int(key): bias for key, bias in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(getattr(sampling, name), float):
        value = float(value)
    try:
        return dataclasses.replace(sampling, **{name: value})
    except SettingRejected as error:
        raise UsageError(f"{name}: {error.reason}", "/set shows the settings") from None


def _as_bool(name: str, text: str) -> bool:
    known = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
    if text.lower() not in known:
        raise UsageError(f"{name} is on or off, not {text}", f"/set {name} on")
    return known[text.lower()]


def _written(message: Message) -> str:
    calls = [f"{call.name}({json.dumps(dict(call.arguments))})" for call in message.tool_calls]
    return "\n".join(filter(None, [message.content, *calls]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."
