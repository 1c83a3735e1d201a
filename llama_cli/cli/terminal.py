"""Everything that is shown: the product on standard output, notes on standard error.

Text of a model, of a file name or of an error may hold anything. On a terminal its control characters are
shown, never sent; in a pipe the product goes through byte for byte. No text goes through rich's markup.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import select
import shutil
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from ..errors import MORE_ROOM, OutputFailed, ReaderGone
from .wrapping import WordWrap

# C0 but tab and newline, DEL, C1, line and paragraph separators, bidirectional controls, tag characters:
# what moves a cursor, renames a window, writes a clipboard or hides what it says.
_UNSAFE = [
    *(code for code in range(0x20) if code not in (0x09, 0x0A)),
    *range(0x7F, 0xA0),
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
]
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE}
_ONE_LINE = {**_SHOWN, 0x09: " ", 0x0A: " "}


# How lines on standard error look: dim, or red.
Tone = Literal["plain", "note", "error"]
TONES = {"note": "\x1b[2m", "error": "\x1b[31m"}

CLOSED_OUTPUT = ("standard output is closed", "do not close it, or send it to a file")


def visible(text: str) -> str:
    """`text` with every character that could act on a terminal written out, as in `\\x1b`."""
    return text.translate(_SHOWN)


def one_line(text: str) -> str:
    """`visible`, without line breaks, and printable whatever the surrogates in a file's name."""
    return text.translate(_ONE_LINE).encode("utf-8", "backslashreplace").decode()


class Terminal:
    """Standard output and standard error."""

    def __init__(self, *, raw: bool = False) -> None:
        self.is_tty = sys.stdout is not None and sys.stdout.isatty()
        self._show_controls = not raw and self.is_tty

    def write(self, text: str) -> None:
        """Part of the product. Flushed at once: people watch it being made."""
        self._send(visible(text) if self._show_controls else text)

    @contextmanager
    def answer(self, *, wrap: bool) -> Iterator[Callable[[str], None]]:
        """Where the pieces of an answer go while it is made; on a terminal its lines are broken at words."""
        if not (wrap and self._show_controls):
            yield self.write
            return
        wrapped = WordWrap(_width_of_characters())
        try:
            yield lambda text: self._send(wrapped.feed(visible(text), _columns_of(sys.stdout)))
        finally:
            self._send(wrapped.finish())

    @contextmanager
    def markdown(self) -> Iterator[Callable[[str], None]]:
        """The same for Markdown, which is drawn again with its form where all of it is still on the screen."""
        wrapped, screen, said = WordWrap(_width_of_characters()), shutil.get_terminal_size(), list[str]()

        def write(text: str) -> None:
            said.append(text)
            self._send(wrapped.feed(visible(text), _columns_of(sys.stdout)))

        try:
            yield write
        finally:
            self._send(wrapped.finish())
            if "".join(said).strip() and wrapped.n_breaks < screen.lines and shutil.get_terminal_size() == screen:
                self._send("\r" + f"\x1b[{wrapped.n_breaks}A" * (wrapped.n_breaks > 0) + "\x1b[J")
                self._send(_rendered("".join(said)).strip("\n"))

    def copy(self, text: str) -> None:
        """Ask the terminal to put a text on the clipboard: OSC 52, the one sequence of ours that acts on it."""
        self._send(f"\x1b]52;c;{base64.b64encode(text.encode('utf-8', 'replace')).decode()}\x07")

    def write_json(self, value: object) -> None:
        """One object on one line of plain ASCII, which no reader of lines can split or misread."""
        self._write_bytes(to_json_line(value))

    def _send(self, text: str) -> None:
        self._write_bytes(text.encode("utf-8", "replace"))

    def _write_bytes(self, data: bytes) -> None:
        if sys.stdout is None:
            raise OutputFailed(*CLOSED_OUTPUT)
        try:
            _write_all(data)
        except (OSError, ValueError) as error:
            drop_stdout()
            if isinstance(error, BrokenPipeError):
                raise ReaderGone from None
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            hint = MORE_ROOM.get((isinstance(error, OSError) and error.errno) or 0, "look at where it goes")
            raise OutputFailed(f"cannot write standard output: {reason.lower()}", hint) from None

    def note(self, text: str) -> None:
        """A line for the person at the keyboard, broken at words where their screen is narrower."""
        _write_broken(text, "note")

    def complain(self, message: str, hint: str | None) -> None:
        """What is wrong and what to type, to a person in a conversation, who knows whom they talk to."""
        _write_broken(f"error: {message}", "error")
        if hint:
            _write_broken(f"hint: {hint}", "note")


def _rendered(text: str) -> str:
    """A text with its Markdown rendered, made safe before. Links are shown, not made clickable."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(markup=False, highlight=False, emoji=False, width=_columns())
    with console.capture() as capture:
        console.print(Markdown(visible(text), hyperlinks=False))
    return capture.get()


def _write_all(data: bytes) -> None:
    """Write and flush, in one piece where that can be, so that what several programs write into a pipe stays apart.

    Waits where whoever started this process made the output one that does not wait.
    With PYTHONUNBUFFERED a stream may take a part, or nothing, and say so by what it returns.
    """
    left = memoryview(data)
    while True:
        try:
            if left:
                left = left[sys.stdout.buffer.write(left) or 0 :]
            if not left:
                sys.stdout.buffer.flush()
                return
        except BlockingIOError as error:
            left = left[error.characters_written :] if left else left
        select.select([], [sys.stdout], [])


def to_json_line(value: object) -> bytes:
    """One line of plain ASCII."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def drop_stdout() -> None:
    """Let what is still buffered go nowhere, so that Python's exit does not try again and fail."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        sys.stdout = None


def write_stderr(text: str, tone: Tone = "plain") -> None:
    """One line, made safe. Failing to complain is no failure."""
    if sys.stderr is None:
        return
    line = one_line(text)
    try:
        if tone != "plain" and line and _has_colours():
            line = f"{TONES[tone]}{line}\x1b[0m"
        if hasattr(sys.stderr, "rich_proxied_file"):  # a progress is shown: the line goes above it
            sys.stderr.write(line + "\n")
            return
        sys.stderr.buffer.write((line + "\n").encode())
        sys.stderr.buffer.flush()
    except (OSError, ValueError, AttributeError):
        return


def _write_broken(text: str, tone: Tone) -> None:
    """`write_stderr`, with line breaks at words on a screen."""
    wrapped = WordWrap(_width_of_characters())
    for line in (wrapped.feed(one_line(text), _columns_of(sys.stderr)) + wrapped.finish()).split("\n"):
        write_stderr(line, tone)


def _has_colours() -> bool:
    """Whether standard error shows them and nobody asked for none (no-color.org)."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")


def write_stderr_text(text: str) -> None:
    """Several lines, made safe."""
    for line in visible(text).split("\n"):
        write_stderr(line)


def _columns_of(stream: TextIO | None) -> int:
    """The width of the screen that a stream goes to; 0 where it is none, or not known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream is not None else 0
    except (OSError, ValueError, AttributeError):
        return 0


def _width_of_characters() -> Callable[[str], int]:
    """How many cells a character takes on a screen."""
    from rich.cells import cell_len

    return cell_len


def _columns() -> int:
    """The width to draw for; odd values of COLUMNS make no text vanish."""
    return max(20, shutil.get_terminal_size().columns)


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """While an answer is written, keys are not shown in the middle of it; they wait whole for the next prompt.

    Nothing is edited or thrown away before it: not by a Ctrl-C, not where more was pasted than a line may have.
    """
    try:
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (OSError, ValueError, AttributeError, termios.error):
        yield
        return
    quiet = [*before]
    quiet[0] &= ~(termios.ICRNL | termios.INLCR)
    quiet[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON)
    quiet[3] |= termios.NOFLSH
    termios.tcsetattr(handle, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSANOW, before)


def show_error(message: str, hint: str | None, code: int, *, as_json: bool = False) -> None:
    """What is wrong and what to type; with `--json` as an object."""
    if as_json:
        error = {"code": code, "message": one_line(message), "hint": hint and one_line(hint)}
        write_stderr(json.dumps({"error": error}))
        return
    write_stderr(f"llama-cli: error: {message}", "error")
    if hint:
        write_stderr(f"hint: {hint}", "note")


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        write_stderr(f"llama-cli: {level}{record.getMessage()}")


def show_log(level: int) -> None:
    """Send this program's own log from `level` on to standard error."""
    logger = logging.getLogger("llama_cli")
    logger.handlers = [_LogHandler()]
    logger.setLevel(level)


def make_bar(kind: Literal["rows", "bytes", "waiting"]) -> Any:
    """rich's display of a progress, on standard error; it leaves no trace."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    bar, left = progress.BarColumn(), progress.TimeRemainingColumn()
    text = progress.TextColumn("{task.description}", markup=False)
    columns = {
        "rows": (bar, progress.MofNCompleteColumn(), text, left),
        "bytes": (text, bar, progress.DownloadColumn(), progress.TransferSpeedColumn(), left),
        "waiting": (progress.SpinnerColumn(), text, progress.TimeElapsedColumn()),
    }
    return progress.Progress(*columns[kind], console=console, transient=True, redirect_stdout=False)


def format_stats(stats: dict[str, Any]) -> str:
    """The line of `--stats`, from the object that `--json` shows as `timings`."""
    parts = [f"load {stats['load_seconds']:.2f} s"]
    if stats["first_token_seconds"] is not None:
        parts.append(f"first token {stats['first_token_seconds'] * 1000:.0f} ms")
    parts.append(f"prompt {stats['prompt_tokens']} tokens ({stats['cached_tokens']} cached)")
    if stats["prefill_tokens_per_second"] is not None:
        parts[-1] += f" at {stats['prefill_tokens_per_second']:.1f}/s"
    if stats["decode_tokens_per_second"] is not None:
        parts.append(f"answer {stats['decode_tokens']} tokens at {stats['decode_tokens_per_second']:.1f}/s")
        parts.append(f"weights {stats['weight_gigabytes_per_second']:.1f} GB/s")
    parts.append(f"peak memory {stats['peak_memory_bytes'] / 2**20:.0f} MiB")
    parts.append(f"{stats['kernels']} kernels")
    return ", ".join(parts)


def format_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns two spaces apart under their titles; the last one is as long as it is."""
    lines = [titles, *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles) - 1)]
    padded = [[*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]] for line in lines]
    return "".join("  ".join(line).rstrip() + "\n" for line in padded)
