"""Several ranks run as one: whatever the leader's runner does, the others repeat on their part of the model."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from itertools import islice
from types import FrameType
from typing import NoReturn

import torch
from torch import Tensor

from ..engine.runner import ModelRunner, Snapshot
from ..engine.scheduler import Copy, Plan
from ..errors import DoesNotFit, InputRejected
from ..model.span import Span

Send = Callable[[Sequence[int]], None]
Receive = Callable[[], list[int]]


class Verb(IntEnum):
    """What an instruction begins with."""

    END = 0
    STEP = 1
    RESERVE = 2
    CLEAR = 3


class Leader:
    """A runner that tells the other ranks before it does anything.

    `send` takes an instruction to all of them. `explain` turns an error of a collective into the reason why the rank
    that caused it has ended.
    """

    def __init__(self, runner: ModelRunner, send: Send, explain: Callable[[Exception], Exception]) -> None:
        self._runner = runner
        self._send = send
        self._explain = explain
        self.in_step = False  # the others would not understand anything else now

    @property
    def n_slots(self) -> int:
        return self._runner.n_slots

    @property
    def max_seq_len(self) -> int:
        return self._runner.max_seq_len

    @property
    def rounds_to(self) -> torch.dtype:
        return self._runner.rounds_to

    def run(self, plan: Plan) -> Tensor:
        """As Runner.run, on all ranks."""
        with self._together(encode_plan(plan)):
            return self._runner.run(plan)

    def reserve(self, length: int) -> None:
        """As Runner.reserve, on all ranks."""
        if not self._runner.has_room(length):
            with self._together([Verb.RESERVE, length]):
                self._runner.reserve(length)

    def clear(self, slot: int, start: int = 0) -> None:
        """As Runner.clear, on all ranks."""
        with self._together([Verb.CLEAR, slot, start]):
            self._runner.clear(slot, start)

    def snapshot(self, slot: int, ids: list[int]) -> NoReturn:
        """As Runner.snapshot: always refused."""
        raise InputRejected("several processes have the cache, each a part of it")

    def restore(self, slot: int, snapshot: Snapshot) -> NoReturn:
        """As Runner.restore: always refused."""
        raise InputRejected("several processes have the cache, each a part of it")

    def end(self) -> None:
        """Let the others go."""
        with self._together([Verb.END]):
            pass

    @contextmanager
    def _together(self, instruction: Sequence[int]) -> Iterator[None]:
        """Send an instruction and carry it out here too. Ctrl-C waits for both, or the others would hang."""
        self.in_step = True
        with _interrupts_wait():
            try:
                self._send(instruction)
                yield
                self.in_step = False
            except torch.OutOfMemoryError as error:
                raise DoesNotFit(
                    "the memory of a device ran out on rank 0", "give a smaller --batch-size or --max-seq-len"
                ) from error
            except RuntimeError as error:
                raise self._explain(error) from error


def repeat(runner: ModelRunner, receive: Receive) -> None:
    """Do what the leader does, until it ends."""
    while True:
        verb, *numbers = receive()
        if verb == Verb.END:
            return
        if verb == Verb.STEP:
            runner.run(decode_plan(numbers))
        elif verb == Verb.RESERVE:
            runner.reserve(numbers[0])
        else:
            runner.clear(*numbers)


def encode_plan(plan: Plan) -> list[int]:
    """A plan as one list: how many copies, spans and scored spans, then the copies, the spans and the tokens."""
    counts = [len(plan.copies), len(plan.spans), plan.n_scored]
    fields = [number for each in (*plan.copies, *plan.spans) for number in each]
    return [Verb.STEP, *counts, *fields, *plan.tokens]


def decode_plan(numbers: Sequence[int]) -> Plan:
    """What `encode_plan` gave, without its verb."""
    n_copies, n_spans, n_scored, *rest = numbers
    coming = iter(rest)
    copies = [Copy(*islice(coming, len(Copy._fields))) for _ in range(n_copies)]
    spans = [Span(*islice(coming, len(Span._fields))) for _ in range(n_spans)]
    return Plan(copies, spans, list(coming), n_scored)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let the first Ctrl-C come at the end; a second one comes at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[FrameType | None] = []

    def wait(number: int, frame: FrameType | None) -> None:
        waiting.append(frame)
        if len(waiting) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if len(waiting) == 1:
        before(signal.SIGINT, waiting[0])
