"""A terminal for tests: a process in a pty, its output on a screen that can be looked at, as a person would."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

import pexpect
import pyte
from helpers.commands import OnTerminal
from pexpect.fdpexpect import fdspawn

ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_Z, UP = "\r", "\x1b\r", "\x03", "\x04", "\x1a", "\x1b[A"


class _Screen(pyte.HistoryScreen):
    """Answers where the cursor is, as every real terminal does."""

    def __init__(self, columns: int, lines: int, answer: Callable[[bytes], object]) -> None:
        super().__init__(columns, lines, history=5000, ratio=0.5)
        self._answer = answer

    def write_process_input(self, data: bytes) -> None:
        self._answer(data)


class _Forked(fdspawn):
    """A command line of ours in a pty, with what pexpect's own children have."""

    def __init__(self, arguments: Sequence[str], size: tuple[int, int], environment: Mapping[str, str]) -> None:
        pty, self._terminal = os.openpty()
        super().__init__(pty, timeout=60)
        self.setwinsize(*size)
        self._process = OnTerminal(os.ttyname(self._terminal), arguments, environment).process

    def setwinsize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.child_fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def isalive(self) -> bool:
        self.exitstatus = self._process.exitcode
        return self.exitstatus is None

    def kill(self, signal_number: int) -> None:
        os.kill(self._process.pid, signal_number)

    def close(self, force: bool = True) -> None:
        self._process.kill()
        self._process.join()
        os.close(self._terminal)
        super().close()


class Terminal:
    """One program on one screen."""

    def __init__(
        self,
        arguments: Sequence[str],
        columns: int = 80,
        lines: int = 24,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:
        """A command line of ours, from the fork server; or another program, by the beginning of its command."""
        settings = {**os.environ, "TERM": "xterm-256color", "PYTHONWARNINGS": "error", **(env or {})}
        for name in ("LLAMA_CLI_MODEL", "COLUMNS", "LINES"):  # pytest's readline leaves its size to what it starts
            settings.pop(name, None)
        if program is None:
            self.child = _Forked(arguments, (lines, columns), settings)
        else:
            self.child = pexpect.spawn(
                program[0], [*program[1:], *arguments], dimensions=(lines, columns), env=settings, timeout=60
            )
        self.screen = _Screen(columns, lines, self._answer)
        self.stream = pyte.ByteStream(self.screen)
        self.sent = b""  # all that the program wrote

    def _answer(self, data: bytes) -> None:
        self.child.send(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.child.close(force=True)

    def read(self, seconds: float = 0.02) -> bool:
        """Take in what the program has written: whether there was anything."""
        try:
            data = self.child.read_nonblocking(1 << 16, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return False
        self.sent += data
        self.stream.feed(data)
        return True

    def wait(self, condition: Callable[[], object], seconds: float = 60, what: str = "the screen") -> None:
        """Until `condition()` holds; what is on the screen, if it never does."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or (not self.read() and not self.child.isalive() and not condition()):
                raise AssertionError(f"{what} never came:\n" + "\n".join(self.text()))

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Until `text` is there, in one line, broken at a word or at the edge of the screen."""
        self.wait(lambda: any(text in glue.join(self.text()) for glue in ("\n", " ", "")), seconds, repr(text))

    def wait_for_prompt(self, n: int, seconds: float = 60) -> None:
        """Until the n-th prompt is there and its status line is drawn: what was typed before it has been answered."""
        self.wait(lambda: self.n_prompts() >= n and self.is_ready(), seconds, f"prompt {n}")

    def n_prompts(self) -> int:
        return sum(line.startswith(">>>") for line in self.text())

    def is_ready(self) -> bool:
        return any(re.match(r"[\d,]+ of [\d,]+ tokens", line) for line in self.shown())

    def send(self, text: str) -> None:
        self.child.send(text)

    def type(self, text: str) -> None:
        """Type a line and send it."""
        self.send(text + ENTER)

    def paste(self, text: str) -> None:
        """As terminals paste: between marks, each line end a carriage return."""
        self.send("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

    def resize(self, columns: int, lines: int) -> None:
        """As terminals do: what no longer fits leaves at the top, and the cursor stays with its line."""
        screen = self.screen
        x, y, shrunk = screen.cursor.x, screen.cursor.y, max(0, screen.lines - lines)
        over = max(0, y - lines + 1)
        screen.cursor.y = screen.lines - 1
        for _ in range(over):
            screen.index()
        screen.cursor.y = 0
        screen.insert_lines(shrunk)  # pyte takes them away again
        screen.resize(lines, columns)
        screen.cursor.x, screen.cursor.y = min(x, columns - 1), y - over
        self.child.setwinsize(lines, columns)

    def shown(self) -> list[str]:
        """The lines on the screen."""
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> list[str]:
        """All lines, also those that have left the screen at the top."""
        history = [
            "".join(line[x].data for x in range(self.screen.columns)).rstrip() for line in self.screen.history.top
        ]
        return [*history, *self.shown()]

    def wait_for_end(self, seconds: float = 60) -> int | None:
        """The exit code."""
        self.wait(lambda: not self.child.isalive(), seconds, "the end")
        while self.read():
            pass
        return self.child.exitstatus
