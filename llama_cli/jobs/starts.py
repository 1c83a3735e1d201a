"""Remembers which rows were running, to find one that kills the process.

Every start and every end of a row goes into a file beside the output, which is removed when the run ends in any
orderly way: not by an error of the program itself, which a row may have caused. Rows that started and did not end
were running when that happened or the process died: the next run takes them first, one at a time. One that dies alone
once more, after it had been running at two deaths, is given up.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from ..errors import InputRejected, ModelRejected, OutputFailed, OutputRefused, UsageError
from ..files.own import open_own, read_own
from ..files.whole import write_all
from .rows import CustomId

# Errors that no row has caused. Memory may have run out because of one, and a rank that shares the model have ended.
BLAMELESS = (UsageError, ModelRejected, InputRejected, OutputRefused, OutputFailed)

STARTED, ENDED = b"+", b"-"
MOST_BYTES = 4 << 30  # of a million rows with the longest ids, many times over
GIVE_UP_AFTER = 3  # deaths with the row running, the last of them alone


class Starts:
    """The file of started rows; none where the output is none. Use it as a context manager."""

    def __init__(self, output: Path | None) -> None:
        """OutputRefused if something else has the name of the file."""
        self._path = None if output is None else _path_beside(output)
        self._deaths: Counter[str] = Counter()
        if self._path is None:
            self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        else:
            notes = read_own(self._path, MOST_BYTES) or b""
            if notes and not notes.startswith(STARTED):  # as every file of ours does, damaged or not
                raise OutputRefused(
                    f"{self._path} is none of this program's, and it keeps a file of that name",
                    "move it away, or give another output",
                )
            self._read(notes)
            self._fd = open_own(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def _read(self, notes: bytes) -> None:
        for line in notes.split(b"\n")[:-1]:
            try:
                custom_id = json.loads(line[1:])
            except (ValueError, RecursionError):
                continue  # torn by the death itself
            if not isinstance(custom_id, str):
                continue
            if line.startswith(STARTED):
                self._deaths[custom_id] += 1
            else:
                del self._deaths[custom_id]

    @staticmethod
    def are_left(output: Path | None) -> bool:
        """Whether a run before ended in no orderly way."""
        return output is not None and _path_beside(output).is_file()

    def begin(self, custom_id: CustomId) -> None:
        """A row starts. Not flushed to the disk: the death of a process loses nothing that it wrote."""
        self._note(STARTED, custom_id)

    def end(self, custom_id: CustomId) -> None:
        """A row is finished: it kills nobody."""
        self._note(ENDED, custom_id)

    def _note(self, mark: bytes, custom_id: CustomId) -> None:
        write_all(self._fd, mark + json.dumps(str(custom_id)).encode() + b"\n")

    def is_suspect(self, custom_id: CustomId) -> bool:
        return str(custom_id) in self._deaths

    @property
    def n_suspects(self) -> int:
        return len(self._deaths)

    def is_given_up(self, custom_id: CustomId) -> bool:
        return self._deaths[str(custom_id)] >= GIVE_UP_AFTER

    def __enter__(self) -> Starts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """The run ends without dying: nothing is suspect, unless the program itself has failed."""
        os.close(self._fd)
        has_failed = kind is not None and issubclass(kind, Exception) and not issubclass(kind, BLAMELESS)
        if self._path is not None and not has_failed:
            self._path.unlink(missing_ok=True)


def _path_beside(output: Path) -> Path:
    return output.with_name(output.name + ".started")
