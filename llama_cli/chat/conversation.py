"""The messages of a chat: turns, branches, and what is left out where the context is full. No torch, no terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..tokenizer.chat import Message

FIRST_BRANCH = "main"


@dataclass(frozen=True)
class Branch:
    """One line of a conversation. Messages that are no longer sent to the model are still here."""

    messages: tuple[Message, ...] = ()
    n_dropped: int = 0  # messages after the system prompt that are not sent

    @property
    def system(self) -> Message | None:
        """The system prompt, which is always sent."""
        return self.messages[0] if self.messages and self.messages[0].role == "system" else None

    @property
    def spoken(self) -> tuple[Message, ...]:
        """All messages but the system prompt."""
        return self.messages[1:] if self.system else self.messages

    @property
    def sent(self) -> tuple[Message, ...]:
        """The messages that make the prompt."""
        return (*self.messages[: 1 if self.system else 0], *self.spoken[self.n_dropped :])

    def with_spoken(self, spoken: Sequence[Message]) -> Branch:
        """The same system prompt with other messages behind it."""
        messages = (*self.messages[: 1 if self.system else 0], *spoken)
        return Branch(messages, self.n_dropped if self.n_dropped < len(spoken) else 0)


def turn_starts(spoken: Sequence[Message]) -> list[int]:
    """Where turns begin: at each message of the user."""
    return [place for place, message in enumerate(spoken) if message.role == "user"]


class Conversation:
    """Branches of messages, one of them the current."""

    def __init__(self, branches: dict[str, Branch] | None = None, current: str | None = None) -> None:
        self.branches = branches or {FIRST_BRANCH: Branch()}
        self.current = current or next(iter(self.branches))

    @property
    def branch(self) -> Branch:
        return self.branches[self.current]

    @branch.setter
    def branch(self, branch: Branch) -> None:
        self.branches[self.current] = branch

    @property
    def system(self) -> str | None:
        return self.branch.system.content if self.branch.system else None

    @property
    def awaits_answer(self) -> bool:
        """Whether somebody has spoken, and the model has not yet answered."""
        spoken = self.branch.spoken
        return bool(spoken) and spoken[-1].role != "assistant"

    @property
    def n_turns(self) -> int:
        return len(turn_starts(self.branch.spoken))

    @property
    def last_turn(self) -> tuple[Message, ...]:
        """The last message of the user, and what came behind it."""
        spoken = self.branch.spoken
        return spoken[(turn_starts(spoken) or [0])[-1] :]

    def add(self, message: Message) -> None:
        self.branch = dataclasses.replace(self.branch, messages=(*self.branch.messages, message))

    def set_system(self, text: str | None) -> None:
        """Replace the system prompt, or take it away."""
        message = () if text is None else (Message("system", text),)
        self.branch = Branch((*message, *self.branch.spoken), self.branch.n_dropped)

    def clear(self) -> None:
        """Forget all messages but the system prompt."""
        self.branch = self.branch.with_spoken(())

    def undo(self) -> tuple[Message, ...]:
        """Take back the last turn, question and answer: what was taken back."""
        taken, spoken = self.last_turn, self.branch.spoken
        self.branch = self.branch.with_spoken(spoken[: len(spoken) - len(taken)])
        return taken

    def take_back_answer(self) -> tuple[Message, ...]:
        """Take back what the model said last, so that it can say something else: what was taken back."""
        spoken = self.branch.spoken
        end = len(spoken)
        while end and spoken[end - 1].role == "assistant":
            end -= 1
        self.branch = self.branch.with_spoken(spoken[:end])
        return spoken[end:]

    def take_back_unfinished(self) -> Message:
        """Take back the last answer, so that it can go on; UsageError if there is none to go on with."""
        spoken = self.branch.spoken
        if len(spoken) < 2 or spoken[-1].role != "assistant" or spoken[-2].role == "assistant":
            raise UsageError("there is no answer to go on with", "/retry answers the last message")
        if spoken[-1].tool_calls:
            raise UsageError("the answer is a tool call", "/tool TEXT gives it the result")
        self.branch = self.branch.with_spoken(spoken[:-1])
        return spoken[-1]

    def fork(self, name: str | None = None) -> str:
        """Go on in a copy of this branch, and leave this one as it is: the copy's name."""
        free = (f"{FIRST_BRANCH}-{number}" for number in range(2, len(self.branches) + 3))
        name = name or next(candidate for candidate in free if candidate not in self.branches)
        if name in self.branches:
            raise UsageError(f"there is a branch {name} already", f"/branches {name}")
        self.branches[name] = self.branch
        self.current = name
        return name

    def switch(self, name: str) -> None:
        """Go on with another branch."""
        if name not in self.branches:
            raise UsageError(f"there is no branch {name}; there are {', '.join(self.branches)}", "/branches")
        self.current = name

    def drop_turns(self, fits: Callable[[Sequence[Message]], bool]) -> int:
        """Leave out the oldest turns until what is sent fits, or only the last turn is left: messages left out."""
        before = self.branch.n_dropped
        starts = [start for start in turn_starts(self.branch.spoken) if start > before]
        for start in starts:
            if fits(self.branch.sent):
                break
            self.branch = dataclasses.replace(self.branch, n_dropped=start)
        return self.branch.n_dropped - before
