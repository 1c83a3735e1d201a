"""A conversation as it is seen: answers while they are made, as text or JSON, and what is told beside them."""

from __future__ import annotations

from collections.abc import Iterator

from ..answers.completion import Chunk
from ..chat.answerer import Turn
from ..chat.run import ChatRun
from ..chat.shapes import describe_timings, describe_turn
from ..tokenizer.chat import Message
from .options import MessageOptions
from .progress import shown_while_read
from .terminal import Terminal, format_stats, write_stderr_text
from .view import View


class ChatScreen:
    """Shows one conversation. `view` may be replaced between answers."""

    def __init__(
        self, run: ChatRun, messages: MessageOptions, view: View, *, as_json: bool = False, raw: bool = False
    ) -> None:
        self.run = run
        self.messages = messages
        self.view = view
        self.as_json = as_json
        self.prefix = "llama-cli: "  # of notes; a person in a conversation knows whom they talk to
        self.terminal = Terminal(raw=raw)

    def say(self, text: str) -> Turn:
        """Answer a message of the user."""
        return self.answer(Message("user", text))

    def answer(self, message: Message | None = None, unfinished: Message | None = None) -> Turn:
        """Show the answer to a message, or to the conversation as it stands, or the rest of an unfinished one."""
        if message is not None:
            self.messages.doubt(message.content)
        turn = self.run.answer(message, unfinished, self._show)
        if turn.n_dropped and not self.messages.quiet:
            self.terminal.note(
                f"{self.prefix}the context is full: the oldest {turn.n_dropped} messages are not sent any more"
            )
        if self.view.stats:
            timings = describe_timings(self.run.session.info, turn.stats, turn.first_token_seconds)
            self.terminal.note(f"{self.prefix}{format_stats(timings)}")
        return turn

    def _show(self, turn: Turn, chunks: Iterator[Chunk]) -> None:
        self._show_prompt(turn)
        if self.as_json:
            for _ in chunks:
                pass
            self.terminal.write_json(describe_turn(self.run.session, turn, self.run.conversation.n_turns))
        else:
            self._show_text(turn, chunks)

    def _show_text(self, turn: Turn, chunks: Iterator[Chunk]) -> None:
        is_drawn_again = self.view.markdown and self.terminal.is_tty
        n_prompt, stats = len(turn.prompt), self.run.session.stats
        try:
            with self.terminal.markdown() if is_drawn_again else self.terminal.answer(wrap=self.view.wrap) as write:
                for chunk in shown_while_read(chunks, n_prompt, stats, quiet=self.messages.quiet):
                    write(chunk.text)
        finally:
            if self.terminal.is_tty or turn.token_ids:
                self.terminal.write("\n")

    def _show_prompt(self, turn: Turn) -> None:
        if self.view.show_prompt:
            ids = " ".join(map(str, turn.prompt))
            text = self.run.session.decode(turn.prompt, self.run.answerer.form)
            write_stderr_text(f"llama-cli: the prompt, {len(turn.prompt)} tokens:\n{text}\nllama-cli: its ids: {ids}")
