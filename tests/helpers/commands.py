"""Command lines in processes of their own, forked from one that has imported torch already.

Starting Python and importing torch takes seconds; what a command does on a tiny model takes a tenth of one.
multiprocessing's fork server pays for the imports once, so that hundreds of command lines can each have a process,
with its exit code, its signal, its memory and its standard streams, as they have in a shell.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "helpers.commands",
    "torch",
    "llama_cli.cli.app",
    # What commands import when they run.
    "llama_cli.checkpoint.describe",
    "llama_cli.checkpoint.meta_quantized",
    "llama_cli.checkpoint.verify",
    "llama_cli.cli.chat_screen",
    "llama_cli.convert.conversion",
    "llama_cli.jobs.batch",
    "llama_cli.jobs.run",
    "llama_cli.jobs.score",
    "llama_cli.loader",
    "helpers.frozen",  # the last
]
_CONTEXT.set_forkserver_preload(_PRELOADED)


Prepare = Callable[[], object]  # runs in the child before the command; it travels there, so no lambda


class Ended(NamedTuple):
    """How a command line ended; a negative code is the signal that killed it."""

    code: int
    out: bytes
    err: str
    seconds: float | None  # of a processor, for the command itself; None where a signal killed the process
    peak_bytes: int | None

    @property
    def lines(self) -> list[str]:
        """What standard error holds."""
        return self.err.splitlines()


class Started:
    """A running command line."""

    def __init__(self, arguments: Sequence[object], *, stdin: bytes, prepare: Prepare | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="command-")
        self.folder = Path(self._folder.name)
        for name, data in (("in", stdin), ("out", b""), ("err", b"")):
            (self.folder / name).write_bytes(data)
        words = [str(argument) for argument in arguments]
        self.process = _CONTEXT.Process(target=_run, args=(str(self.folder), words, prepare))
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Until something is so of a command that still runs."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.wait()
            assert time.monotonic() < end, "it never came"
            time.sleep(0.002)

    def wait(self, seconds: float = 120) -> Ended:
        """Its end. It is killed, and the test fails, where that takes too long."""
        self.process.join(seconds)
        late = self.process.is_alive()
        if late:
            self.process.kill()
            self.process.join()
        used = self.folder / "used"
        elapsed, peak = json.loads(used.read_text()) if used.exists() else (None, None)
        out, err = ((self.folder / name).read_bytes() for name in ("out", "err"))
        code = self.process.exitcode
        self._folder.cleanup()
        assert not late, f"still running after {seconds} s: {err.decode()!r}"
        assert code is not None
        return Ended(code, out, err.decode(), elapsed, peak)


def start(*arguments: object, stdin: bytes = b"", prepare: Prepare | None = None) -> Started:
    """A command line, without `llama-cli`; `prepare`, as in partial(faults.kill_at, "write", 3), is done before."""
    return Started(arguments, stdin=stdin, prepare=prepare)


def run(*arguments: object, stdin: bytes = b"", prepare: Prepare | None = None) -> Ended:
    """The same, to its end."""
    return start(*arguments, stdin=stdin, prepare=prepare).wait()


class OnTerminal:
    """A running command line whose three streams are a terminal, given by its path."""

    def __init__(self, path: str, arguments: Sequence[object], environment: Mapping[str, str]) -> None:
        words = [str(argument) for argument in arguments]
        self.process = _CONTEXT.Process(target=_run_on, args=(path, words, dict(environment)))
        self.process.start()


class Call:
    """A function called in a process of its own; what it prints goes to a file."""

    def __init__(self, path: Path, function: Callable[..., object], *arguments: object) -> None:
        self.path = path
        self.process = _CONTEXT.Process(target=_call, args=(str(path), function, *arguments))
        self.process.start()

    def wait(self, seconds: float = 120) -> bytes:
        """What it printed; it must end well."""
        self.process.join(seconds)
        assert self.process.exitcode == 0
        return self.path.read_bytes()


def from_pipe() -> None:
    """A `prepare`: standard input is a pipe with the same bytes, not a file. They fit into it at once."""
    reader, writer = os.pipe()
    os.write(writer, os.read(0, 60_000))
    os.dup2(reader, 0)
    os.close(writer)
    os.close(reader)


def print_to(path: str) -> None:
    """A `prepare`: standard output is what lies there, which may be a pipe or a device."""
    opened = os.open(path, os.O_WRONLY)
    os.dup2(opened, 1)
    os.close(opened)


def complain_to(path: str) -> None:
    """A `prepare`: so is standard error."""
    opened = os.open(path, os.O_WRONLY)
    os.dup2(opened, 2)
    os.close(opened)


def close(number: int, name: str) -> None:
    """A `prepare`: a stream that whoever started the program has closed."""
    os.close(number)
    setattr(sys, name, None)


def _run_on(terminal: str, arguments: list[str], environment: dict[str, str]) -> None:
    """In the child: the first terminal that a session opens is the one it is controlled by."""
    from llama_cli.cli.app import main

    os.environ.clear()
    os.environ.update(environment)
    os.setsid()
    _open_streams((terminal, os.O_RDWR), (terminal, os.O_RDWR), (terminal, os.O_RDWR))
    warnings.simplefilter("error")
    sys.exit(main(arguments))


def _call(path: str, function: Callable[..., object], *arguments: object) -> None:
    """In the child."""
    _open_streams((os.devnull, os.O_RDONLY), (path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    function(*arguments)


def _run(folder: str, arguments: list[str], prepare: Prepare | None) -> None:
    """In the child."""
    from llama_cli.cli.app import main

    names = (("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))
    _open_streams(*((os.path.join(folder, name), mode) for name, mode in names))
    if prepare is not None:
        prepare()
    began = time.process_time()
    code = main(arguments)
    elapsed = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    Path(folder, "used").write_text(json.dumps([elapsed, peak]))
    sys.exit(code)


def _open_streams(*places: tuple[str, int]) -> None:
    """Let the three standard streams be files, each with how it is opened."""
    for number, (path, mode) in enumerate(places):
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False))  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), write_through=True)  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), write_through=True)  # noqa: SIM115
