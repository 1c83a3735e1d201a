"""Ctrl-C while an answer is made: the first one ends the answer, the second one the step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_interrupt(ask: Callable[[], None]) -> Iterator[None]:
    """While entered, the first Ctrl-C calls `ask`; a second one raises KeyboardInterrupt."""
    n_asked = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal n_asked
        n_asked += 1
        if n_asked > 1:
            raise KeyboardInterrupt
        ask()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
