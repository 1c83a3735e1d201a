"""What can happen to a command while it writes; each is done to the process that calls it.

With `commands.run(..., prepare=partial(faults.kill_at, "write", 3))` that is a command line of its own.
"""

import os
import pathlib
import resource
import signal
from collections.abc import Callable
from typing import Any


def kill_at(call: str, count: int) -> None:
    """Kill this process at its `count`-th call of os.write, os.pwrite, os.fsync or os.rename.

    A write is cut in half first: that is what a kill in the middle of one leaves behind.
    """
    real, n_calls = getattr(os, call), 0

    def counted(*arguments: Any) -> object:
        nonlocal n_calls
        n_calls += 1
        if n_calls < count:
            return real(*arguments)
        if call in ("write", "pwrite"):
            fd, data, *place = arguments
            real(fd, bytes(data)[: len(data) // 2], *place)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    replace_call(call, counted)


def replace_call(call: str, function: Callable[..., object]) -> None:
    """Let one of os's calls be another function."""
    setattr(os, call, function)
    accessor = getattr(pathlib, "_normal_accessor", None)  # where Path of Python 3.10 keeps its own
    if hasattr(accessor, call):
        setattr(accessor, call, function)


def crash_at_row(max_tokens: int) -> None:
    """End the process, without a word, when a row that asks for so many tokens begins to run."""
    from llama_cli.engine.engine import Engine
    from llama_cli.engine.request import Request

    real = Engine._start

    def start(engine: Engine, request: Request) -> object:
        if request.sampling.max_tokens == max_tokens:
            os._exit(9)
        return real(engine, request)

    Engine._start = start


def stop_after_rows(n_rows: int) -> None:
    """Suspend this process, as Ctrl-Z does, when its batch has written so many rows: it cannot end before."""
    from llama_cli.jobs.ledger import Ledger

    real, n_written = Ledger.append, 0

    def append(ledger: Ledger, row: bytes) -> None:
        nonlocal n_written
        real(ledger, row)
        n_written += 1
        if n_written == n_rows:
            os.kill(os.getpid(), signal.SIGSTOP)

    Ledger.append = append


def limit_files(n_bytes: int) -> None:
    """No file may become larger: what a full disk does, without one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
