"""Replicas of one model that answer as one engine: a request goes to whichever has room, events come back.

A replica is an engine with a copy of the model of its own. Those of other processes are reached by links, that of this
process runs in a thread, and the caller's thread does nothing but hand out and collect, so that it notices at once
when a link breaks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from threading import Thread
from typing import NoReturn, Protocol

from ..engine.engine import END, Engine, Stats
from ..engine.inbox import Cancel, Forget, Order, Orders, serve
from ..engine.limits import Limits
from ..engine.request import Event, Finish, PromptScored, Request, Sampling, Token, TokenLogprob
from ..engine.runner import Snapshot
from ..errors import DoesNotFit, InputRejected, LlamaError, NumericalError

Report = Event | Exception

GOODBYE = "goodbye"  # the last that a replica reports


class TextLink(Protocol):
    """Text to and from another process."""

    def send(self, text: str) -> None: ...

    def receive(self) -> str: ...


@dataclass
class Replica:
    """One engine, as the thread sees it that hands out requests."""

    give: Callable[[Order], None]
    n_slots: int
    n_running: int = 0  # samples

    @property
    def has_room(self) -> bool:
        return self.n_running < self.n_slots


@dataclass
class Handed:
    """A request that a replica has."""

    replica: Replica
    request: Request
    n_left: int  # samples
    is_abandoned: bool = False


class Replicas:
    """A Generator made of this process's `engine` and of those that `links` lead to.

    `explain` turns the error of a broken link into the reason why the process at its other end has ended.
    """

    def __init__(self, engine: Engine, links: Sequence[TextLink], explain: Callable[[Exception], Exception]) -> None:
        self._reports: SimpleQueue[Report] = SimpleQueue()
        self._explain = explain
        self._engine = engine
        n_slots = engine.runner.n_slots
        orders: Orders = SimpleQueue()
        self._replicas = [Replica(orders.put, n_slots), *(Replica(_giver(link, explain), n_slots) for link in links)]
        self._handed: dict[int, Handed] = {}
        self._n_handed = 0
        self._threads = [self._begin(lambda: serve(engine, orders, self._reports.put))]
        for link in links:
            self._threads.append(self._begin(lambda link=link: self._listen(link)))  # type: ignore[misc]

    @property
    def is_busy(self) -> bool:
        return bool(self._handed)

    @property
    def limits(self) -> Limits:
        return self._engine.limits

    @property
    def stop_tokens(self) -> frozenset[int]:
        return self._engine.stop_tokens

    @property
    def stats(self) -> Stats:
        """Those of this process's engine alone."""
        return self._engine.stats

    def _begin(self, work: Callable[[], None]) -> Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # it belongs to the thread that waits for reports
                self._reports.put(error)

        thread = Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _listen(self, link: TextLink) -> None:
        while True:
            try:
                text = link.receive()
            except RuntimeError as error:
                self._reports.put(self._explain(error))
                return
            if text == GOODBYE:
                return
            self._reports.put(read_report(text))

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Event]:
        """As Generator.generate, on all replicas at once."""
        coming = iter(requests)
        exhausted = False
        try:
            while True:
                while not exhausted and (replica := max(self._replicas, key=_room)).has_room:
                    request = next(coming, END)
                    if request is None:
                        break
                    if not isinstance(request, Request):
                        exhausted = True
                    elif refused := self._engine.refuse(request):
                        yield from refused
                    else:
                        self._hand(request, replica)
                if exhausted and all(handed.is_abandoned for handed in self._handed.values()):
                    return
                if self._handed:
                    yield from self._take(self._reports.get())
        finally:
            for ticket in self._handed:
                self._abandon(ticket)

    def cancel(self, key: int, sample: int) -> None:
        """As Generator.cancel."""
        for ticket, handed in self._handed.items():
            if handed.request.key == key and not handed.is_abandoned:
                handed.replica.give(Cancel(ticket, sample))

    def reserve(self, length: int) -> None:
        """Nothing: each replica lets its cache grow when a request comes that needs it."""

    def forget(self) -> None:
        """As Generator.forget, before any request that comes from now on."""
        for replica in self._replicas:
            replica.give(Forget())

    def snapshot(self) -> NoReturn:
        """As Generator.snapshot: always refused."""
        raise InputRejected("several processes have a cache, each one of its own")

    def restore(self, snapshot: Snapshot) -> NoReturn:
        """As Generator.restore: always refused."""
        raise InputRejected("several processes have a cache, each one of its own")

    def end(self) -> None:
        """Let the replicas go."""
        for replica in self._replicas:
            with suppress(Exception):  # whoever is gone need not be told
                replica.give(None)

    def wait(self, seconds: float) -> bool:
        """Whether they have come to their end within so many seconds."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    def _hand(self, request: Request, replica: Replica) -> None:
        ticket = self._n_handed
        self._n_handed += 1
        replica.n_running += request.sampling.n
        self._handed[ticket] = Handed(replica, request, request.sampling.n)
        replica.give(request._replace(key=ticket))

    def _take(self, report: Report) -> Iterator[Event]:
        if isinstance(report, Exception):
            raise report
        handed = self._handed[report.key]
        if isinstance(report, Finish):
            handed.n_left -= 1
            handed.replica.n_running -= 1
            if not handed.n_left:
                del self._handed[report.key]
        if not handed.is_abandoned:
            yield report._replace(key=handed.request.key)

    def _abandon(self, ticket: int) -> None:
        handed = self._handed[ticket]
        if not handed.is_abandoned:
            handed.is_abandoned = True
            for sample in range(handed.request.sampling.n):
                handed.replica.give(Cancel(ticket, sample))


def _room(replica: Replica) -> int:
    return replica.n_slots - replica.n_running


def _giver(link: TextLink, explain: Callable[[Exception], Exception]) -> Callable[[Order], None]:
    def give(order: Order) -> None:
        try:
            link.send(write_order(order))
        except RuntimeError as error:
            raise explain(error) from error

    return give


KINDS = {"token": Token, "scored": PromptScored, "finish": Finish}
ERRORS = {"does not fit": DoesNotFit, "numerical": NumericalError, "input": InputRejected}


def write_order(order: Order) -> str:
    """An order as text."""
    if order is None:
        return "end"
    if isinstance(order, Cancel):
        return json.dumps(["cancel", *order])
    if isinstance(order, Forget):
        return json.dumps(["forget"])
    return json.dumps(["request", *order._replace(sampling=asdict(order.sampling))])  # type: ignore[arg-type]


def read_order(text: str) -> Order:
    """What `write_order` wrote."""
    if text == "end":
        return None
    kind, *values = json.loads(text)
    if kind == "cancel":
        return Cancel(*values)
    if kind == "forget":
        return Forget()
    key, prompt, settings, *rest = values
    biases = {int(token_id): bias for token_id, bias in settings["logit_bias"].items()}  # JSON's keys are texts
    return Request(key, tuple(prompt), Sampling(**settings | {"logit_bias": biases}), *rest)


def write_report(report: Report) -> str:
    """An event, or the error that ends a replica, as text."""
    if isinstance(report, Exception):
        message, hint, code = str(report), getattr(report, "hint", None), getattr(report, "exit_code", 1)
        return json.dumps(["error", message, hint, code])
    if isinstance(report, Finish):
        error = report.error and [_kind_of(report.error), report.error.message, report.error.hint]
        return json.dumps(["finish", *report[:3], error])
    return json.dumps(["token" if isinstance(report, Token) else "scored", *report])


def read_report(text: str) -> Report:
    """What `write_report` wrote."""
    kind, *values = json.loads(text)
    if kind == "error":
        message, hint, code = values
        error = LlamaError(message, hint)
        error.exit_code = code
        return error
    if kind == "finish":
        key, sample, reason, failure = values
        return Finish(key, sample, reason, failure and ERRORS.get(failure[0], LlamaError)(*failure[1:]))
    if kind == "scored":
        key, scores = values
        return PromptScored(key, tuple(map(_read_score, scores)))
    key, sample, token_id, score, is_stop = values
    return Token(key, sample, token_id, score and _read_score(score), is_stop)


def _kind_of(error: LlamaError) -> str:
    return next((kind for kind, of in ERRORS.items() if isinstance(error, of)), "other")


def _read_score(values: Sequence[object]) -> TokenLogprob:
    token_id, logprob, top = values
    return TokenLogprob(token_id, logprob, tuple(map(tuple, top)))  # type: ignore[call-overload,arg-type]
