"""Several ranks run as one: whatever the leader's runner does, the others repeat on their part of the model."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import NoReturn

import torch
from torch import Tensor

from ..engine.runner import ModelRunner, Snapshot, Step
from ..engine.scheduler import Copy, Plan
from ..errors import DoesNotFit, InputRejected
from ..model.llama import Row

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

    `send` takes an instruction to all of them, `explain` makes of an error what ended the rank that caused it.
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
        step = Step.of(plan)
        with self._together(encode_step(step)):
            return self._runner.compute(step)

    def reserve(self, length: int) -> None:
        """As Runner.reserve, on all ranks."""
        if not self._runner.has_room(length):
            with self._together([Verb.RESERVE, length]):
                self._runner.reserve(length)

    def clear(self, slot: int) -> None:
        """As Runner.clear, on all ranks."""
        with self._together([Verb.CLEAR, slot]):
            self._runner.clear(slot)

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
        """Send, and do the same. Ctrl-C waits until that is done: half a step would leave the others in it."""
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
            runner.compute(decode_step(numbers))
        elif verb == Verb.RESERVE:
            runner.reserve(numbers[0])
        else:
            runner.clear(numbers[0])


def encode_step(step: Step) -> list[int]:
    """A step as one list: how many copies, rows, tokens and scored rows, then these, then the outputs."""
    counts = [len(step.copies), len(step.rows), len(step.tokens), step.n_scored]
    triples = [number for triple in (*step.copies, *step.rows) for number in triple]
    return [Verb.STEP, *counts, *triples, *step.tokens, *step.outputs]


def decode_step(numbers: Sequence[int]) -> Step:
    """What `encode_step` gave, without its verb."""
    n_copies, n_rows, n_tokens, n_scored, *rest = numbers
    triples = [(rest[at], rest[at + 1], rest[at + 2]) for at in range(0, 3 * (n_copies + n_rows), 3)]
    rest = rest[3 * (n_copies + n_rows) :]
    copies, rows = triples[:n_copies], triples[n_copies:]
    return Step(
        [Copy(*copy) for copy in copies], [Row(*row) for row in rows], rest[:n_tokens], rest[n_tokens:], n_scored
    )


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
