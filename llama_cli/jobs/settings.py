"""How rows run, whatever is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .lines import Format


@dataclass(frozen=True)
class RunSettings:
    """What the flags of a run of rows say."""

    output: Path | None = None  # None prints them
    input_format: Format = "auto"
    ordered: bool = True
    retry_errors: bool = False
    rerun_changed: bool = False
    strict: bool = False
    shard: tuple[int, int] = (0, 1)  # which part of how many
    force_resume: bool = False
    row_timeout: float | None = None  # seconds
