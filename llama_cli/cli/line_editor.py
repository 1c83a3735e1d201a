"""Where a person types: lines, blocks, history, completion. The only file that knows prompt_toolkit."""

from __future__ import annotations

import os
import signal
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import FrameType

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from ..errors import LlamaError
from ..files.own import open_own
from ..files.private import make_private
from .terminal import one_line, visible
from .typed import is_open

PROMPT, CONTINUATION = ">>> ", "... "
STYLE = Style.from_dict(
    {
        "prompt": "ansicyan",
        "bottom-toolbar": "noreverse fg:ansibrightblack",
        "bottom-toolbar.error": "fg:ansired",
    }
)

ROWS_BESIDE_DRAFT = 5  # the error and its hint, and the status line, which may take two

# The completions of a line: words to put in the place of its last one, or file names.
Words = Sequence[str]
FILES = None


class LineEditor:
    """Reads what a person types. Enter sends; Alt-Enter, a `\\` at the end or an open block make a new line."""

    def __init__(
        self, history: Path | None, complete: Callable[[str], Words | None], status: Callable[[], str]
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", PROMPT)],
            multiline=True,
            prompt_continuation=lambda width, line, is_wrapped: "" if is_wrapped else CONTINUATION,
            history=InMemoryHistory() if history is None else _open_history(history),
            completer=_Completer(complete),
            complete_while_typing=False,
            key_bindings=_bindings(),
            input_processors=[_ShowControls()],
            bottom_toolbar=lambda: [*self._above_status, ("", status())],
            enable_open_in_editor=True,
            enable_suspend=True,
            tempfile_suffix=".md",
            style=STYLE,
        )
        self._above_status: StyleAndTextTuples = []

    def read(self, draft: str = "", trouble: str = "") -> str:
        """What was typed, starting from `draft`. KeyboardInterrupt on Ctrl-C, EOFError on Ctrl-D.

        A draft that fills the screen drives off what was said above it: `trouble` is then said below it too.
        """
        self._above_status = []
        if trouble and not self._leaves_room(draft):
            self._above_status = [("class:bottom-toolbar.error", f"{one_line(trouble)}\n")]
        with self._leaving_on_signals() as leave_if_asked:
            return self._session.prompt(default=draft, pre_run=leave_if_asked)

    def _leaves_room(self, draft: str) -> bool:
        """Whether the lines above a draft stay on the screen."""
        size = self._session.output.get_size()
        n_rows = sum(1 + (len(PROMPT) + get_cwidth(visible(line))) // size.columns for line in draft.split("\n"))
        return n_rows + ROWS_BESIDE_DRAFT <= size.rows

    @contextmanager
    def _leaving_on_signals(self) -> Iterator[Callable[[], None]]:
        """End the prompt in an orderly way on SIGTERM and SIGHUP, and only then let the program have the signal.

        An exception that a handler raises within the prompt's event loop would be shown there and go no further.
        """
        arrived: list[int] = []

        def leave_if_asked() -> None:
            if arrived and self._session.app.is_running:
                self._session.app.exit(exception=EOFError)

        def note(number: int, frame: FrameType | None) -> None:
            arrived.append(number)
            if self._session.app.loop is not None:
                self._session.app.loop.call_soon_threadsafe(leave_if_asked)

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            yield leave_if_asked
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if arrived:
                signal.raise_signal(arrived[0])

    @property
    def typed(self) -> str:
        """What stands in the line now, or stood in it when it was left."""
        return self._session.default_buffer.text


def _bindings() -> KeyBindings:
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=typing)
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None  # the completion stands; the next Enter sends
        elif buffer.document.text_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=typing)
    def _alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class _Completer(Completer):
    def __init__(self, complete: Callable[[str], Words | None]) -> None:
        self._complete = complete
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        words = self._complete(text)
        last = text.split(" ")[-1] if words is not FILES else text.partition(" ")[2].lstrip()
        if words is FILES:
            for found in self._paths.get_completions(Document(last, len(last)), complete_event):
                yield Completion(found.text, found.start_position, display=one_line(found.display_text))
        else:
            yield from (Completion(word, -len(last), one_line(word)) for word in words if word.startswith(last))


class _ShowControls(Processor):
    """Shows what a draft or the history holds as everything else is shown: no control character is sent."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = transformation_input.fragments
        text = fragment_list_to_text(fragments)
        if visible(text) == text:
            return Transformation(fragments)
        shown: StyleAndTextTuples = [(style, visible(each)) for style, each, *_ in explode_text_fragments(fragments)]
        starts = [0, *accumulate(len(each) for _, each, *_ in shown)]
        return Transformation(
            shown,
            source_to_display=lambda place: starts[min(place, len(starts) - 1)],
            display_to_source=lambda place: bisect_right(starts, place) - 1,
        )


class _PrivateHistory(FileHistory):
    """A history that goes on where it can no longer be written: a full disk ends no conversation."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError:
            return

    def load_history_strings(self) -> Iterable[str]:
        try:
            return super().load_history_strings()
        except OSError:
            return []


def _open_history(path: Path) -> History:
    """The history in a file that its owner alone can read; in memory where there can be no such file."""
    try:
        path = make_private(path.parent) / path.name
        handle = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
    except (OSError, LlamaError):
        return InMemoryHistory()
    return _PrivateHistory(path)
