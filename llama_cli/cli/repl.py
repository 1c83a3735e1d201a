"""The conversation on a terminal: read, answer, and again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..chat.answerer import Turn
from ..errors import ContextTooLong, LlamaError, UsageError
from ..files.user_folders import NoHome, user_folder
from ..tokenizer.chat import Message
from .chat_screen import ChatScreen
from .interrupt import on_interrupt
from .line_editor import PROMPT, LineEditor
from .slash import Commands, Outcome, counted
from .terminal import one_line, quiet_keyboard
from .typed import as_typed, is_command, unquoted

INTERRUPTED = 130
LINES_SHOWN = 20  # of each message of the turn that a conversation goes on from


def talk(screen: ChatScreen, first: str | None, *, history: bool) -> int:
    """Talk until the person leaves: the exit code."""
    return Repl(screen, history=_history_file() if history else None).loop(first)


def _history_file() -> Path | None:
    try:
        return user_folder("state") / "chat_history"
    except NoHome:
        return None


def format_turn(messages: Sequence[Message]) -> str:
    """What was said last, as it stood on the screen; of long texts the end."""
    parts = []
    for message in messages:
        calls = [f"calls {call.name} {json.dumps(dict(call.arguments))}" for call in message.tool_calls]
        text = "\n".join(filter(None, [message.content, *calls]))
        lines = (f"{PROMPT}{text}" if message.role == "user" else text).split("\n")
        left_out = len(lines) - LINES_SHOWN
        parts += [f"[{left_out:,} lines]", *lines[-LINES_SHOWN:]] if left_out > 0 else lines
    return "\n".join([*parts, "", ""])


class Repl:
    """One person, one conversation."""

    def __init__(self, screen: ChatScreen, *, history: Path | None) -> None:
        self.screen = screen
        self.run = screen.run
        screen.prefix = ""
        self.commands = Commands(screen)
        self.editor = LineEditor(history, self.commands.complete, lambda: self._status_line)
        self._draft = ""  # what the next line begins with
        self._edits = False  # whether it takes the place of the last message
        self._status_line = ""
        self._trouble = ""  # the error that the next line's draft stands below

    def loop(self, first: str | None) -> int:
        """Read and answer until the end: the exit code."""
        self._greet()
        if first is not None:
            self._guard(lambda: self._say(first, typed=as_typed(first)))
        asked_to_leave = False
        while True:
            self._refresh_status()
            draft, self._draft = self._draft, ""
            trouble, self._trouble = self._trouble, ""
            try:
                line = self.editor.read(draft, trouble)
            except EOFError:
                return 0
            except KeyboardInterrupt:
                if asked_to_leave and not self.editor.typed:
                    return INTERRUPTED
                asked_to_leave = not self.editor.typed
                self._edits = False
                if asked_to_leave:
                    self.screen.terminal.note("Ctrl-C again, Ctrl-D or /exit leaves")
                continue
            asked_to_leave = False
            if self._handle(line).leave:
                return 0

    def _greet(self) -> None:
        if self.screen.messages.quiet:
            return
        session, conversation, note = self.run.session, self.run.conversation, self.screen.terminal.note
        context = f"{session.max_seq_len:,} tokens of context"
        note(f"chat with {session.info.name}, {self.run.describe_template()}, {context}")
        note("/help lists the commands, Ctrl-D leaves")
        if self.run.keeping is not None and self.run.keeping.is_last:
            note("kept until your next conversation with it: chat --continue goes on; --no-session keeps nothing")
        if conversation.branch.spoken:
            note(f"going on with {conversation.current}, {counted(conversation.n_turns, 'turn')}")
            with self.screen.terminal.answer(wrap=self.screen.view.wrap) as write:
                write(format_turn(conversation.last_turn))

    def _handle(self, line: str) -> Outcome:
        """One line: a command, or a message to be answered."""
        if is_command(line):
            return self._guard(lambda: self._command(line))
        if line.strip() or self.commands.attached:
            return self._guard(lambda: self._say(unquoted(line), typed=line))
        return Outcome()

    def _guard(self, act: Callable[[], Outcome]) -> Outcome:
        """Errors are told, and the conversation goes on. What is typed meanwhile waits for the next prompt."""
        try:
            with quiet_keyboard():
                return act()
        except ContextTooLong as error:
            self._draft, self._edits = "", False  # the history has it
            self._complain(error.message, self._way_out())
        except LlamaError as error:
            self._complain(error.message, error.hint)
        return Outcome()

    def _complain(self, message: str, hint: str | None) -> None:
        self._trouble = f"error: {message}"
        self.screen.terminal.complain(message, hint)

    def _way_out(self) -> str:
        """What to type where the context is full."""
        ways = ["send less (the Up key brings the message back)"]
        if self.commands.attached:
            ways.append("/read - to send no file along")
        if self.run.conversation.branch.spoken:
            ways.append("/clear")
            if self.run.answerer.overflow == "error":
                ways.insert(0, "/set on_overflow truncate")
        return ", or ".join(ways)

    def _command(self, line: str) -> Outcome:
        outcome = self.commands.execute(line)
        self._edits = outcome.edit is not None
        if outcome.answer is not None:
            self._answer(outcome.answer)
        elif outcome.retry:
            self._retry()
        elif outcome.go_on:
            self._go_on()
        elif outcome.edit is not None:
            self._draft = outcome.edit
        else:
            self.run.save()
        return outcome

    def _say(self, text: str, typed: str) -> Outcome:
        """Answer a message. Where that fails all is as before, and the line is there to be changed."""
        conversation = self.run.conversation
        before = conversation.branch
        if self._edits:
            conversation.undo()
        unanswered = conversation.branch
        parts = [*self.commands.attached, *([text] if text.strip() else [])]
        try:
            self._answer(Message("user", "\n\n".join(parts)))
        finally:  # an answer stays, also where only keeping it failed
            if conversation.branch is unanswered:
                conversation.branch = before
                self._draft = typed
            else:
                self._edits = False
                self.commands.attached.clear()
        return Outcome()

    def _retry(self) -> None:
        conversation = self.run.conversation
        before = conversation.branch
        conversation.take_back_answer()
        unanswered = conversation.branch
        try:
            if not conversation.awaits_answer:
                raise UsageError("there is no message to answer")
            self._answer(None)
        finally:
            if conversation.branch is unanswered:
                conversation.branch = before

    def _go_on(self) -> None:
        conversation = self.run.conversation
        before = conversation.branch
        unfinished = conversation.take_back_unfinished()
        unanswered = conversation.branch
        try:
            self._answer(None, unfinished)
        finally:
            if conversation.branch is unanswered:
                conversation.branch = before

    def _answer(self, message: Message | None, unfinished: Message | None = None) -> None:
        """Answer a message, or the conversation as it stands. Ctrl-C ends the answer and keeps what was said."""
        before, answerer = self.run.conversation.branch, self.run.answerer
        # A second Ctrl-C raises KeyboardInterrupt: the step itself is broken off.
        with on_interrupt(answerer.interrupt), suppress(KeyboardInterrupt):
            self.screen.answer(message, unfinished)
        said = self.run.conversation.branch is not before
        if answerer.turn is not None:
            self._tell(answerer.turn, said=said)
        self.screen.terminal.write("\n")
        answerer.make_room_ahead()

    def _tell(self, turn: Turn, *, said: bool) -> None:
        """Why an answer ended, where the model did not simply end it."""
        note = self.screen.terminal.note
        if turn.finish_reason == "interrupted":
            note("stopped; what was said is kept" if said else "stopped before the first word; Enter sends it again")
        elif turn.finish_reason == "length":
            is_full = len(turn.prompt) + len(turn.token_ids) >= self.run.session.max_seq_len
            note(
                "stopped: the context is full"
                if is_full
                else f"stopped after {len(turn.token_ids)} tokens (max_tokens); /continue goes on"
            )
        for call in turn.tool_calls:
            note(f"calls {call.name} {json.dumps(dict(call.arguments))}; /tool TEXT gives it the result")

    def _refresh_status(self) -> None:
        answerer = self.run.answerer
        context = self.run.session.max_seq_len
        try:
            is_full = answerer.n_used >= context  # the marks of the next turn do not fit any more
            parts = [
                f"{context:,} of {context:,} tokens, full" if is_full else f"{answerer.n_used:,} of {context:,} tokens"
            ]
        except LlamaError:  # a conversation that this model's format cannot write
            parts = []
        stats = answerer.turn.stats if answerer.turn else None
        if stats is not None and stats.n_decoded:
            parts.append(f"{stats.n_decoded / stats.decode_seconds:.1f} tokens/s")
        if len(self.run.conversation.branches) > 1:
            parts.append(f"branch {self.run.conversation.current}")
        self._status_line = one_line(" · ".join(parts))
