"""What a command does with its rows, as the runner sees it: `batch` and `score` are each one Task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from ..answers.completion import Chunk, Completion
from ..engine.request import Request
from ..llm import LLM
from .fields import ErrorCode
from .lines import Format, Line
from .rows import BadRow, RowKey

RowT = TypeVar("RowT", bound=RowKey)
RowT_contra = TypeVar("RowT_contra", bound=RowKey, contravariant=True)


class Settled(NamedTuple):
    """What became of a row: its line, and the code of its error, if it has one."""

    line: bytes
    code: ErrorCode | None = None


@dataclass
class Counts:
    """How a run goes: rows that are written and tokens that are made, of this run alone."""

    ok: int = 0
    tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # rows by the code of their error

    def add(self, settled: Settled) -> None:
        """One more row is written."""
        if settled.code is None:
            self.ok += 1
        else:
            self.errors[settled.code] += 1

    @property
    def failed(self) -> int:
        return self.errors.total()


class LoadedTask(Protocol[RowT_contra]):
    """A task with its model."""

    @property
    def group_size(self) -> int | None:
        """How many rows run together and with no others, where the last digits of a result hang on who runs beside it.

        None where rows may join and leave at any time.
        """

    def requests(self, row: RowT_contra, keys: Iterator[int]) -> list[Request]:
        """What the engine is asked for a row, each with a key of its own. InputRejected if the row cannot run."""

    def answer(self, row: RowT_contra, completions: Sequence[Completion]) -> bytes:
        """The line of a row whose requests have run, their samples in order. NumericalError if they are no result."""

    def fail(self, row: BadRow) -> bytes:
        """The line of a row that cannot run."""

    def n_tokens(self, chunk: Chunk) -> int:
        """How many tokens a chunk brought, as speed counts them."""

    def summary(self, counts: Counts, seconds: float) -> str:
        """What the run has done beside its rows, for its last line."""


class Task(Protocol[RowT]):
    """What is done with the rows of an input."""

    @property
    def seed(self) -> int | None:
        """Of the run; None draws one."""

    @property
    def unique_ids(self) -> bool:
        """Whether an id may stand for one row only."""

    def parse(self, line: Line, format_: Format, digest: int | None = None) -> RowT | BadRow:
        """The row of a line; `digest` is what `identify` has found, where that was asked before."""

    def identity(self, session: LLM) -> dict[str, Any]:
        """What all runs that write one output have in common. LlamaError if no row could run as the flags ask."""

    def load(self, session: LLM, identity: Mapping[str, Any]) -> LoadedTask[RowT]:
        """The task with its model, as the run that began the output had it."""
