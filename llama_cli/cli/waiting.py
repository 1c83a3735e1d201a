"""Says what a command waits for, where that takes long: nothing hangs without a word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 2.0


@contextmanager
def told_when_long(note: Callable[[], None]) -> Iterator[None]:
    """While entered for longer than a person waits without wondering, `note` is called, once."""
    timer = threading.Timer(PATIENCE_SECONDS, note)
    timer.daemon = True  # Ctrl-C ends the program, not only the wait
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
