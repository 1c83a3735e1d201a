"""One thread that owns a generator, and many that ask it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from queue import SimpleQueue
from threading import RLock, Thread, current_thread
from typing import NamedTuple

from ..errors import LlamaError, UsageError
from .generator import Generator
from .inbox import Cancel, Orders, serve
from .request import Event, Finish, Request

MOST_WAITING = 64  # requests of one caller that are handed over: of an endless source no more are read ahead

Answers = SimpleQueue[Event | Exception]  # an exception ends what its reader waits for


class Handed(NamedTuple):
    """A request whose answers go to one caller."""

    request: Request
    answers: Answers


class Sharing:
    """Runs the requests of all callers together, in a thread of its own."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._orders: Orders = SimpleQueue()
        self._handed: dict[int, Handed] = {}
        self._tickets = count()
        self._lock = RLock()  # of the three above: what is handed over is known before it can be answered
        self._has_ended = False
        self._thread = Thread(target=self._own, name="llama-cli", daemon=True)
        self._thread.start()

    def hand(self, request: Request, answers: Answers) -> int:
        """Run a request; its ticket is the key of what comes into `answers`. UsageError after the end."""
        with self._lock:
            if self._has_ended:
                raise UsageError("the model has been closed", "load it again")
            ticket = next(self._tickets)
            self._handed[ticket] = Handed(request, answers)
            self._orders.put(request._replace(key=ticket))
        return ticket

    def cancel(self, ticket: int, sample: int) -> None:
        """Stop one sample before the next step."""
        with self._lock:
            self._orders.put(Cancel(ticket, sample))

    def end(self) -> None:
        """Stop the thread. Whoever still waits for an answer gets an error."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
            for ticket, handed in self._handed.items():
                for sample in range(handed.request.sampling.n):
                    self._orders.put(Cancel(ticket, sample))
            self._orders.put(None)
        self._fail(LlamaError("the model was closed before it had answered"))
        if current_thread() is not self._thread:
            self._thread.join()

    def _own(self) -> None:
        while not self._has_ended:
            try:
                serve(self._generator, self._orders, self._deliver)
            except Exception as error:  # it belongs to the threads that wait
                with self._lock:
                    self._orders = SimpleQueue()  # what was handed over fails with what ran
                self._fail(error)
                self._generator.forget()  # a step that broke may not have filled what it promised

    def _fail(self, error: Exception) -> None:
        with self._lock:
            handed, self._handed = self._handed, {}
        for answers in {id(each.answers): each.answers for each in handed.values()}.values():
            answers.put(error)

    def _deliver(self, event: Event) -> None:
        with self._lock:
            handed = self._handed.get(event.key)
        if handed is not None:
            handed.answers.put(event)

    def forget(self, ticket: int) -> None:
        """Nobody reads the answers of a request any more."""
        with self._lock:
            self._handed.pop(ticket, None)


class Caller:
    """`generate` and `cancel` of a Generator, for one thread among those that share it."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._answers: Answers = SimpleQueue()
        self._running: dict[int, tuple[Request, set[int]]] = {}  # by ticket, with the samples that have not ended

    def hand(self, request: Request) -> None:
        """Let a request begin; the next `generate` has its events too."""
        ticket = self._sharing.hand(request, self._answers)
        self._running[ticket] = request, set(range(request.sampling.n))

    def generate(self, requests: Iterable[Request]) -> Iterator[Event]:
        """As Generator.generate."""
        coming = iter(requests)
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._running) < MOST_WAITING:
                    request = next(coming, None)
                    if request is None:
                        exhausted = True
                    else:
                        self.hand(request)
                if not self._running:
                    return
                yield self._take(self._answers.get())
        finally:
            self.abandon()

    def cancel(self, key: int, sample: int) -> None:
        """As Generator.cancel."""
        for ticket, (request, _) in list(self._running.items()):
            if request.key == key:
                self._sharing.cancel(ticket, sample)

    def _take(self, answer: Event | Exception) -> Event:
        if isinstance(answer, Exception):
            raise answer
        request, left = self._running[answer.key]
        if isinstance(answer, Finish):
            left.discard(answer.sample)
            if not left:
                del self._running[answer.key]
                self._sharing.forget(answer.key)
        return answer._replace(key=request.key)

    def abandon(self) -> None:
        """Stop all that still runs; nobody reads it."""
        for ticket, (_, left) in self._running.items():
            self._sharing.forget(ticket)
            for sample in left:
                self._sharing.cancel(ticket, sample)
        self._running.clear()
