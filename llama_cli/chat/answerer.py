"""Answers conversations: messages become a prompt, what the model says becomes a message."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..answers.completion import Chunk
from ..engine.engine import Stats
from ..engine.request import Request, Sampling, TokenLogprob
from ..errors import ContextTooLong, InputRejected
from ..llm import LLM
from ..tokenizer import EncodeError
from ..tokenizer.chat import Message, PlainFormat, ToolCall
from ..tokenizer.tool_calls import find_calls
from .conversation import Conversation

Overflow = Literal["error", "truncate", "shift"]
FinishedBy = Literal["stop", "length", "interrupted", "tool_calls"]

BROKEN = "\ufffd"  # what bytes become that are no character

KEY = 0  # of the one request that runs

# Where turns have to be dropped, they make room for a while: the prompt changes near its beginning each time, and
# all behind that place is computed again.
FILLED_AFTER_DROPPING = 0.75
NEXT_MESSAGE = 1024  # tokens, and a usual one has fewer
LARGEST_ROOM = 0.25  # of the context, kept free for an answer


class Begun(NamedTuple):
    """How an answer begins before the model says more: the prefill, or what an earlier turn has left unfinished."""

    text: str
    ids: tuple[int, ...]
    is_shown: bool = False


@dataclass
class Turn:
    """One answer, and what it took."""

    prompt: tuple[int, ...]
    seed: int
    begun: Begun
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishedBy = "interrupted"
    n_dropped: int = 0  # messages that are not sent any more since this turn
    stats: Stats = field(default_factory=Stats)
    first_token_seconds: float | None = None


class Answerer:
    """A conversation with a model. `sampling` and `overflow` may be changed between turns."""

    def __init__(
        self,
        session: LLM,
        conversation: Conversation,
        sampling: Sampling,
        *,
        overflow: Overflow = "error",
        prefill: str = "",
    ) -> None:
        self.session = session
        self.conversation = conversation
        self.sampling = sampling
        self.overflow = overflow
        self.prefill = prefill
        self.form = session.template.format or PlainFormat(session.tokenizer)
        self.turn: Turn | None = None  # the last one
        self._n_answers = 0
        self._is_running = self._interrupted = False

    @property
    def n_used(self) -> int:
        """Tokens of the context that the conversation takes now."""
        return len(self.encode(self.conversation.branch.sent))

    def encode(self, dialog: Sequence[Message]) -> list[int]:
        """The prompt of a dialog, however long; InputRejected if it cannot be written in this format."""
        try:
            return self.form.encode(dialog)
        except EncodeError as error:
            raise InputRejected(error.message, error.hint) from None

    def interrupt(self) -> None:
        """End the running answer before the next step. May be called by a signal handler."""
        if self._is_running:
            self._interrupted = True
            self.session.cancel(KEY, 0)

    def make_room_ahead(self) -> None:
        """Let the cache grow now, while nobody waits, to what the next turn may need."""
        if self.turn is not None:
            n_tokens = len(self.turn.prompt) + len(self.turn.token_ids) + self.sampling.max_tokens
            self.session.engine.reserve(n_tokens + NEXT_MESSAGE)

    def prepare(self, unfinished: Message | None = None) -> Turn:
        """The turn that answers the conversation as it stands: its prompt, and what was dropped to make it fit.

        The answer goes on with `unfinished`, if that is given, which the conversation holds no longer.
        ContextTooLong if it does not fit, and nothing may be dropped or that is not enough.
        """
        before = self.conversation.branch
        try:
            begun = (
                Begun(self.prefill, self._ids_of_begun(self.prefill)) if unfinished is None else self._left(unfinished)
            )
            n_dropped = self._make_room(begun) if self.overflow != "error" else 0
            prompt = self._prompt(begun.ids)
        except InputRejected:
            self.conversation.branch = before
            raise
        seed = self.sampling.seed
        # Each answer has a seed of its own, so that /retry says something else.
        seed = secrets.randbits(63) if seed is None else (seed + self._n_answers) % 2**64
        self._n_answers += 1
        self.turn = Turn(prompt, seed, begun, n_dropped=n_dropped)
        return self.turn

    def _ids_of_begun(self, text: str) -> tuple[int, ...]:
        """The ids of how an answer is to begin, behind those of the dialog."""
        before = self.form.before_answer if text else ""
        return tuple(self.session.tokenize_more(before + text.removeprefix(before)))

    def _left(self, unfinished: Message) -> Begun:
        """An answer that was cut, without a character that was cut in two."""
        text, ids = unfinished.content, unfinished.token_ids
        if ids is None:
            return Begun(text, self._ids_of_begun(text), is_shown=True)
        while ids and text.endswith(BROKEN):
            ids = ids[:-1]
            text = self.session.tokenizer.decode(ids)
        return Begun(text, ids, is_shown=True)

    def _prompt(self, begun: Sequence[int]) -> tuple[int, ...]:
        sent = self.conversation.branch.sent
        try:
            ids = self.session.encode_dialog(sent, form=self.form)
            return self.session.encode([*ids, *begun], 1)
        except ContextTooLong as error:
            hint = "--on-overflow truncate, /clear, or a larger context with --max-seq-len"
            raise ContextTooLong(error.message, hint if len(sent) > 2 else error.hint) from None

    def _make_room(self, begun: Begun) -> int:
        """Drop the oldest turns if the prompt leaves too little room for an answer."""
        context = self.session.max_seq_len
        room = min(self.sampling.max_tokens, int(context * LARGEST_ROOM)) + len(begun.ids)
        if len(self.encode(self.conversation.branch.sent)) + room <= context:
            return 0
        limit = FILLED_AFTER_DROPPING * context - room
        return self.conversation.drop_turns(lambda sent: len(self.encode(sent)) <= limit)

    def answer(self, turn: Turn) -> Iterator[Chunk]:
        """Run a prepared turn. What was said is added to the conversation, also where it is broken off."""
        before = dataclasses.replace(self.session.stats)
        began = time.perf_counter()
        self._is_running, self._interrupted = True, False
        turn.text = turn.begun.text
        try:
            if turn.text and not turn.begun.is_shown:
                yield Chunk(KEY, 0, turn.text)
            for chunk in self._chunks(turn):
                if turn.first_token_seconds is None and chunk.token_ids:
                    turn.first_token_seconds = time.perf_counter() - began
                turn.text += chunk.text
                turn.token_ids += chunk.token_ids
                turn.logprobs += chunk.logprobs
                if chunk.finish_reason in ("stop", "length"):
                    turn.finish_reason = "interrupted" if self._interrupted else chunk.finish_reason
                    self._finish(turn)
                    if turn.tool_calls:
                        chunk = dataclasses.replace(chunk, tool_calls=turn.tool_calls, finish_reason="tool_calls")
                yield chunk
        finally:
            self._is_running = False
            self._finish(turn)
            turn.stats = _difference(self.session.stats, before)

    def _chunks(self, turn: Turn) -> Iterator[Chunk]:
        """The chunks of an answer, which with `shift` goes on where the context is full."""
        prompt, sampling, seed = turn.prompt, self.sampling, turn.seed
        while True:
            held = None
            for chunk in self.session.run([Request(KEY, prompt, sampling, seed)]):
                if chunk.error is not None:
                    raise chunk.error
                if chunk.finish_reason is None:
                    yield chunk
                else:
                    held = chunk
            assert held is not None, "every request ends with a chunk that says so"
            left = self.sampling.max_tokens - len(turn.token_ids)
            if not self._should_shift(held, prompt, turn, left):
                yield held
                return
            yield dataclasses.replace(held, text=self._without_half_character(held.text, turn), finish_reason=None)
            prompt = self._prompt([*turn.begun.ids, *turn.token_ids])
            sampling = dataclasses.replace(self.sampling, max_tokens=left)
            seed = (seed + len(turn.token_ids)) % 2**64

    def _should_shift(self, last: Chunk, prompt: Sequence[int], turn: Turn, left: int) -> bool:
        """Whether the context ended the answer, and dropping turns makes room for more of it."""
        is_full = last.finish_reason == "length" and left > 0
        if not is_full or self.overflow != "shift" or self._interrupted:
            return False
        said = len(turn.token_ids) + len(turn.begun.ids)
        limit = FILLED_AFTER_DROPPING * self.session.max_seq_len - said
        dropped = self.conversation.drop_turns(lambda sent: len(self.encode(sent)) <= limit)
        turn.n_dropped += dropped
        return dropped > 0

    def _without_half_character(self, text: str, turn: Turn) -> str:
        """Take back the ids of a character that the full context cut in two: it is made anew behind the cut."""
        if not text.endswith(BROKEN):
            return text
        while turn.token_ids and self.session.tokenizer.decode(turn.token_ids).endswith(BROKEN):
            turn.token_ids.pop()
        return text.rstrip(BROKEN)

    def _finish(self, turn: Turn) -> None:
        """Add what was said to the conversation, once; nothing where the model was stopped before its first token."""
        if not turn.token_ids or not self.conversation.awaits_answer:
            return
        tokenizer, form = self.session.tokenizer, self.form
        ids = [*turn.begun.ids, *turn.token_ids]
        awaits_tool = tokenizer.special_tokens.get("<|eom_id|>") == ids[-1]
        if ids[-1] in self.session.engine.stop_tokens and not self.sampling.ignore_eos:
            ids.pop()
        content: str = turn.text
        if turn.finish_reason == "stop":
            content, turn.tool_calls = find_calls(turn.text, ids, form.python_tag, self.conversation.system)
            turn.finish_reason = "tool_calls" if turn.tool_calls else "stop"
        # Ids that say something else, as behind a stop string, are not what the conversation goes on with.
        before = form.before_answer
        says_the_same = tokenizer.decode(ids).removeprefix(before) == turn.text.removeprefix(before)
        kept = tuple(ids) if says_the_same else None
        self.conversation.add(Message("assistant", content, turn.tool_calls, awaits_tool, kept))


def _difference(after: Stats, before: Stats) -> Stats:
    names = [each.name for each in dataclasses.fields(Stats)]
    return Stats(**{name: getattr(after, name) - getattr(before, name) for name in names})
