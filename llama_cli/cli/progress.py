"""How far something is, on standard error: bars on a terminal, and what a person waits for."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .terminal import make_bar, one_line, write_stderr

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..engine.engine import Stats

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
REDRAWN_EVERY = 0.1  # seconds


class _Progress:
    """How far something is, on standard error: a bar on a terminal, which leaves no trace.

    Elsewhere there is none, and what has to be said is said in lines, one every half minute.
    """

    SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, kind: Literal["rows", "bytes"], total: int | None, *, quiet: bool, what: str = "") -> None:
        self._quiet = quiet
        self._last = time.monotonic()
        self._bar: Any = None
        if not quiet and sys.stderr is not None and sys.stderr.isatty():
            self._bar = make_bar(kind)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _is_time_for_a_line(self) -> bool:
        now = time.monotonic()
        if self._quiet or self._bar is not None or now - self._last < self.SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


class RowProgress(_Progress):
    """Rows done of all, where their number is known."""

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        super().__init__("rows", total, quiet=quiet)
        self._total = total
        self._done = self._failed = 0
        self._began = time.monotonic()

    def advance(self, *, failed: bool = False) -> None:
        """One more row is settled."""
        self._done += 1
        self._failed += failed

    def show(self, tokens: int) -> None:
        """Bring what is shown up to date."""
        rate = tokens / max(time.monotonic() - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{self._failed} failed, {rate:.0f} tok/s")
        elif self._is_time_for_a_line():
            of = "" if self._total is None else f" of {self._total}"
            write_stderr(f"llama-cli: {self._done}{of} rows, {self._failed} failed, {rate:.1f} tok/s")


class ReadProgress(_Progress):
    """Bytes read of all; off a terminal nothing. Any thread may advance it."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        super().__init__("bytes", total, quiet=quiet, what="reading")

    def advance(self, n_bytes: int) -> None:
        """So many bytes more are read."""
        if self._bar is not None:
            self._bar.advance(self._task, n_bytes)


class PhaseProgress(_Progress):
    """Bytes done of all, phase by phase."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__("bytes", None, quiet=quiet)
        self._what, self._total, self._done = "", 0, 0

    def begin(self, what: str, n_bytes: int) -> None:
        """The next phase, from its beginning."""
        self._what, self._total, self._done = what, n_bytes, 0
        if self._bar is not None:
            self._bar.reset(self._task, total=n_bytes, description=what)

    def advance(self, n_bytes: int) -> None:
        """So many bytes more are done."""
        self._done += n_bytes
        if self._bar is not None:
            self._bar.advance(self._task, n_bytes)
        elif self._is_time_for_a_line():
            write_stderr(f"llama-cli: {self._what}: {self._done / 1e9:,.1f} of {self._total / 1e9:,.1f} GB")


class Waiting:
    """What a person waits for, in a line on a terminal: there after `patience` seconds, gone when it is done.

    `tell` is asked anew whenever the line is drawn, by a thread of its own: what is waited for need not call anything.
    """

    def __init__(self, tell: Callable[[], str], *, quiet: bool, patience: float = PATIENCE_SECONDS) -> None:
        self._tell = tell
        self._patience = patience
        self._done = threading.Event()
        is_shown = not quiet and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._thread = threading.Thread(target=self._show, daemon=True) if is_shown else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()  # the line is gone before anything else is written

    def _show(self) -> None:
        if self._done.wait(self._patience):
            return
        bar = make_bar("waiting")
        task = bar.add_task(one_line(self._tell()), total=None)
        with suppress(OSError, ValueError), bar:  # the terminal may go at any moment
            bar.console.show_cursor(True)  # a process that is ended now must not take it along
            while not self._done.wait(REDRAWN_EVERY):
                bar.update(task, description=one_line(self._tell()))


class Loading(Waiting):
    """A model being loaded, layer by layer."""

    def __init__(self, model: str | Path | None, *, quiet: bool, patience: float = PATIENCE_SECONDS) -> None:
        self._what = "the toy" if model is None else Path(model).name or str(model)
        self._layers = ""
        super().__init__(lambda: f"loading {self._what}{self._layers}", quiet=quiet, patience=patience)

    def on_layer(self, done: int, n_layers: int) -> None:
        """So many layers are in place."""
        self._layers = f", {done} of {n_layers} layers"


def shown_while_read(answer: Iterator[T], n_prompt: int, stats: Stats, *, quiet: bool) -> Iterator[T]:
    """The pieces of an answer; until the first one it is shown how much of a long prompt the model has read."""
    before = stats.n_prompt + stats.n_reused

    def tell() -> str:
        n_read = min(stats.n_prompt + stats.n_reused - before, n_prompt)
        return f"reading the prompt, {n_read:,} of {n_prompt:,} tokens"

    with Waiting(tell, quiet=quiet):
        first = next(answer, None)
    if first is not None:
        yield first
        yield from answer
