"""Who runs, in which cache slot, on which tokens. Integers and lists only: no torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from ..model.span import Span
from .proposer import Proposer
from .request import Request

# A prompt waits for a neighbour that is computing the same beginning if that saves at least so many tokens.
WORTH_WAITING_FOR = 16

# Rows that need the logits of every prompt token take small steps: 64 rows of logits, not a whole prompt's.
SCORING_CHUNK = 64


@dataclass(eq=False)
class Sequence:
    """One sample of one request, while it runs."""

    request: Request
    sample: int
    limit: int  # most tokens, prompt included
    tokens: list[int] = field(default_factory=list)  # prompt and generated
    n_cached: int = 0  # tokens[:n_cached] have their keys and values in the slot
    slot: int | None = None
    proposer: Proposer | None = None
    guessed: list[int] = field(default_factory=list)  # what the running step computes behind `tokens`

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def n_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def n_generated(self) -> int:
        return len(self.tokens) - self.n_prompt

    @property
    def n_pending(self) -> int:
        return len(self.tokens) - self.n_cached

    @property
    def in_prefill(self) -> bool:
        return self.n_cached < self.n_prompt

    @property
    def scores_prompt(self) -> bool:
        """Every sample shares the prompt: the first one scores it."""
        return self.request.sampling.prompt_logprobs and self.sample == 0

    @property
    def is_scoring(self) -> bool:
        """Whether what comes next is part of a prompt whose probabilities are wanted."""
        return self.scores_prompt and self.in_prefill

    @property
    def is_full(self) -> bool:
        return len(self.tokens) >= self.limit

    def span(self, length: int) -> Span:
        """Its next `length` tokens and the guesses behind them, with the number of logits that are wanted."""
        assert self.slot is not None, "it runs"
        end = self.n_cached + length
        n_outputs = 1 + len(self.guessed) if end == len(self.tokens) else 0
        if self.is_scoring:
            n_outputs = end - min(max(self.n_cached, self.request.score_from - 1), end)
        return Span(self.slot, self.n_cached, length + len(self.guessed), n_outputs)

    def guess(self, most: int) -> None:
        """Ask the proposer for at most `most` tokens.

        One fewer than the answer may still get, since each step draws one token without a guess.
        """
        most = min(most, self.limit - len(self.tokens) - 1)
        self.guessed = (
            [] if self.proposer is None or most < 1 else list(self.proposer.propose(self.tokens, most))[:most]
        )

    def keep_guessed(self, token: int) -> bool:
        """Whether `token`, just drawn, was guessed: then it is cached, and the logits behind it are computed."""
        if not self.guessed or self.guessed[0] != token:
            return False
        del self.guessed[0]
        self.n_cached += 1
        return True


class Copy(NamedTuple):
    """Give slot `target` the first `length` positions of slot `source`."""

    source: int
    target: int
    length: int


class Plan(NamedTuple):
    """One step, as nothing but integers: first the copies, then the spans, of which each has a slot of its own.

    Spans of one token come first, in the order of their slots, and those of prompts that are being scored last.
    """

    copies: list[Copy]
    spans: list[Span]
    tokens: list[int]  # of all spans, one after the other
    n_scored: int = 0  # of the spans, the last ones: their logits are not rounded


@dataclass
class Slot:
    """One row of the cache, and what it holds."""

    index: int
    held: list[int] = field(default_factory=list)  # of a sequence that has left
    sequence: Sequence | None = None
    last_used: int = 0

    @property
    def tokens(self) -> list[int]:
        """The ids whose keys and values lie in the slot now."""
        return self.held if self.sequence is None else self.sequence.tokens[: self.sequence.n_cached]


def common_prefix(a: list[int], b: list[int], known: int = 0) -> int:
    """Length of the longest common beginning, of which so much is known."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    place = known
    while a[place] == b[place]:
        place += 1
    return place


class Scheduler:
    """Keeps sequences in slots; slots remember their last sequence, so that a shared beginning is free."""

    def __init__(self, n_slots: int, chunk: int) -> None:
        self.slots = [Slot(index) for index in range(n_slots)]
        self.most_running = n_slots  # fewer after the memory ran out
        self.chunk = chunk  # most prompt tokens in one step
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.n_reused = 0  # prompt tokens that were not computed because a slot held them
        self._clock = 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def has_room(self) -> bool:
        """Whether another request could start now."""
        return len(self.running) + len(self.waiting) < self.most_running

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def plan(self) -> Plan:
        """Admit what fits, then give every decoding row its token and the oldest prompts the rest of the step."""
        copies = self._admit()
        budget = self.chunk
        single: list[Span] = []
        longer: list[Span] = []
        scored: list[Span] = []
        for sequence in self.running:
            if sequence.proposer is not None:
                sequence.guess(0 if self._is_reading else budget)
                budget -= len(sequence.guessed)
            length = 1 if sequence.n_pending == 1 else min(sequence.n_pending, budget, self._most(sequence))
            if length > 0:
                span = sequence.span(length)
                (scored if sequence.is_scoring else single if span.length == 1 else longer).append(span)
            if sequence.n_pending > 1:
                budget -= length
        spans = sorted(single) + longer + scored
        tokens: list[int] = []
        for span in spans:
            sequence = self.sequence_in(span.slot)
            tokens += sequence.tokens[span.start : span.end] + sequence.guessed
        return Plan(copies, spans, tokens, len(scored))

    @property
    def _is_reading(self) -> bool:
        """Whether a prompt takes part in the next step, which has better use for its time than guesses."""
        return any(sequence.in_prefill or sequence.n_pending > 1 for sequence in self.running)

    def sequence_in(self, slot: int) -> Sequence:
        """Whose tokens a slot has, of those that run."""
        sequence = self.slots[slot].sequence
        assert sequence is not None, "it runs"
        return sequence

    def _most(self, sequence: Sequence) -> int:
        """How many tokens of a prompt may run in one step, where it is being scored."""
        if not sequence.scores_prompt:
            return self.chunk
        unscored = sequence.request.score_from - 1 - sequence.n_cached
        return unscored if unscored > 0 else SCORING_CHUNK

    def advance(self, plan: Plan) -> None:
        """`plan` has been carried out: its tokens are cached. What was guessed counts once it is drawn."""
        for span in plan.spans:
            sequence = self.sequence_in(span.slot)
            sequence.n_cached = span.end - len(sequence.guessed)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is; its slot keeps what it computed."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        slot = self.slots[sequence.slot]
        slot.held = sequence.tokens[: sequence.n_cached]
        slot.sequence = None
        self.running.remove(sequence)

    def shrink(self) -> bool:
        """Run half as many from now on: the latest go back to waiting, to be computed again. False if one is left.

        One whose prompt is being scored stays: part of its scores are out already.
        """
        if len(self.running) <= 1:
            return False
        self.most_running = (len(self.running) + 1) // 2
        for sequence in reversed(list(self.running)):
            if len(self.running) > self.most_running and not sequence.scores_prompt:
                self.remove(sequence)
                sequence.slot, sequence.n_cached = None, 0
                self.waiting.appendleft(sequence)
        self.forget()
        return True

    def forget_slot(self, index: int) -> None:
        """Drop what a slot without a sequence remembers."""
        self.slots[index].held = []

    def forget(self) -> None:
        """Drop what free slots remember, and how long each was idle: as when the cache has been made anew."""
        for slot in self.slots:
            slot.held = []
            slot.last_used = 0

    def _admit(self) -> list[Copy]:
        copies: list[Copy] = []
        for sequence in list(self.waiting):
            if len(self.running) >= self.most_running:
                break
            copy = self._place(sequence)
            if copy is not None and copy.length:
                copies.append(copy)
        return copies

    def _place(self, sequence: Sequence) -> Copy | None:
        """Put a sequence into the best free slot, of which there is one, or let it wait for a neighbour's beginning."""
        prompt = sequence.tokens
        usable = len(prompt) - 1  # the last token is computed in any case
        if sequence.scores_prompt:
            usable = min(usable, sequence.request.score_from - 1)
        best, shared = self._closest(prompt, usable)
        if self._should_wait(sequence, usable, shared):
            return None
        # Reuse the best slot in place if it is free, else overwrite the one that was idle longest.
        target = best if best.sequence is None and shared else self._idlest()
        self._clock += 1
        target.last_used = self._clock
        target.held = []
        target.sequence = sequence
        sequence.slot = target.index
        sequence.n_cached = shared
        self.n_reused += sequence.n_cached
        self.waiting.remove(sequence)
        self.running.append(sequence)
        if best is target:
            return None
        return Copy(best.index, target.index, sequence.n_cached)

    def _closest(self, prompt: list[int], usable: int) -> tuple[Slot, int]:
        """The slot that holds most of a prompt's first `usable` tokens, rather a free one, and how many it holds."""
        shared, beginning = 0, prompt[:0]
        closest: list[Slot] = []
        for slot in self.slots:
            held = slot.tokens
            if held[:shared] != beginning:
                continue
            if shared < usable and held[shared : shared + 1] == prompt[shared : shared + 1]:
                shared = min(common_prefix(prompt, held, shared + 1), usable)
                beginning, closest = prompt[:shared], []
            closest.append(slot)
        return max(closest, key=lambda slot: (slot.sequence is None, -slot.last_used)), shared

    def _idlest(self) -> Slot:
        return min((slot for slot in self.slots if slot.sequence is None), key=lambda slot: slot.last_used)

    def _should_wait(self, sequence: Sequence, usable: int, shared_now: int) -> bool:
        for other in self.running:
            least = shared_now + (1 if other.request is sequence.request else WORTH_WAITING_FOR)
            if least <= usable and other.in_prefill and other.tokens[:least] == sequence.tokens[:least]:
                return True
        return False
