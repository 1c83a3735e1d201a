"""Remembers which rows were running, to find one that kills the process.

Every start of a row adds its id to a file beside the output, which is removed when the run ends well. Rows
that are in it when a run begins were running when the one before died: they run first, one at a time. One
that was alone when the process died, and had been running at a death before, is given up.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

GIVE_UP_AFTER = 3  # deaths with the row running, the last of them alone


class Starts:
    """The file of started rows."""

    def __init__(self, output: Path) -> None:
        self._path = output.with_name(output.name + ".started")
        self._deaths: Counter[str] = Counter()
        if self._path.exists():
            for line in self._path.read_bytes().split(b"\n")[:-1]:
                try:
                    self._deaths[json.loads(line)] += 1
                except (ValueError, TypeError):
                    continue  # torn by the death itself
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def begin(self, custom_id: str) -> None:
        """A row starts. Not flushed to the disk: the death of a process loses nothing that it wrote."""
        os.write(self._fd, json.dumps(custom_id).encode() + b"\n")

    def is_suspect(self, custom_id: str) -> bool:
        return custom_id in self._deaths

    @property
    def n_suspects(self) -> int:
        return len(self._deaths)

    def is_given_up(self, custom_id: str) -> bool:
        return self._deaths[custom_id] >= GIVE_UP_AFTER

    def close(self) -> None:
        os.close(self._fd)

    def remove(self) -> None:
        """The run ended without dying: nothing is suspect."""
        self._path.unlink(missing_ok=True)
