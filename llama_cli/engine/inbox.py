"""Requests and cancellations as they come from other threads or processes, in the order that an engine takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import NamedTuple

from .generator import Generator
from .request import Event, Request


class Cancel(NamedTuple):
    """Stop one sample of a request."""

    key: int
    sample: int


class Forget(NamedTuple):
    """Drop what free slots of the cache remember."""


Order = Request | Cancel | Forget | None  # None: no more will come
Orders = SimpleQueue[Order]


class Inbox:
    """Orders as an engine takes them: requests as they come, cancellations before its next step."""

    def __init__(self, engine: Generator, orders: Orders) -> None:
        self._engine = engine
        self._orders = orders
        self._waiting: deque[Request] = deque()
        self._too_early: set[Cancel] = set()  # of requests that wait
        self._has_ended = False

    def requests(self) -> Iterator[Request | None]:
        """Those that have come, None where there is none yet; waits while the engine has nothing to do."""
        while True:
            self.take(block=not self._waiting and not self._engine.is_busy)
            if self._waiting:
                yield self._next()
            elif self._has_ended:
                return
            else:
                yield None

    def take(self, *, block: bool = False) -> None:
        """Look at all orders that are there; `block` waits for one."""
        while not self._has_ended and (block or not self._orders.empty()):
            order = self._orders.get()
            block = False
            if order is None:
                self._has_ended = True
            elif isinstance(order, Request):
                self._waiting.append(order)
            elif isinstance(order, Forget):
                self._engine.forget()
            elif any(request.key == order.key for request in self._waiting):
                self._too_early.add(order)
            else:
                self._engine.cancel(*order)

    def _next(self) -> Request:
        request = self._waiting.popleft()
        for order in [order for order in self._too_early if order.key == request.key]:
            self._too_early.remove(order)
            self._engine.cancel(*order)
        return request


def serve(engine: Generator, orders: Orders, report: Callable[[Event], None]) -> None:
    """Run requests as they are ordered, until there are no more."""
    inbox = Inbox(engine, orders)
    for event in engine.generate(inbox.requests()):
        report(event)
        inbox.take()
