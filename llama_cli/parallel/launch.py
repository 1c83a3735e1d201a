"""Starts the other ranks on this machine, and says why one of them ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..errors import DoesNotFit, ModelRejected
from ..files.scratch import Scratch
from .ranks import Place, RankEnded

# Run by its path, with sys.path as it is here: `python -m` would look into the current folder first, whatever is there.
WORKER = Path(__file__).parents[1] / "worker.py"
READY = b"ready\n"

LOST_THE_OTHERS = 75  # exit code of a rank that ends because another one has
SECONDS_TO_END = 3.0

FOLDER = "llama-cli-ranks-"

FILES, FILES_OF_A_RANK = 64, 16  # that a rank may need open: what torch opens, and its connections


def ensure_ranks_can_meet(n_ranks: int) -> None:
    """Raise the limit of open files if need be. DoesNotFit if it cannot be, or if there is no loopback network."""
    wanted = FILES + FILES_OF_A_RANK * n_ranks
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < wanted:
        if resource.RLIM_INFINITY != hard < wanted:
            raise DoesNotFit(
                f"a process may open {hard} files here, and each of {n_ranks} ranks may need {wanted}",
                f"ulimit -n {wanted}, or a smaller --tp",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            pass
    except OSError as error:
        raise DoesNotFit(
            f"ranks talk over the loopback network, which does not work here: {error.strerror or error}",
            "ip link set lo up, or run without --tp and --dp",
        ) from None


class Followers:
    """Ranks 1 ... n-1, as processes that live no longer than this one."""

    def __init__(self, n_ranks: int) -> None:
        ensure_ranks_can_meet(n_ranks)
        self._scratch = Scratch(Path(tempfile.gettempdir()), FOLDER)
        self._n_ranks = n_ranks
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, n_ranks):
                self._processes.append(self._start(self._place(rank)))
        except OSError as error:
            self.end()
            raise RankEnded(f"cannot start rank {len(self._processes) + 1}: {(error.strerror or error)}") from None

    @property
    def place(self) -> Place:
        """That of this process."""
        return self._place(0)

    def _place(self, rank: int) -> Place:
        return Place(rank, self._n_ranks, rank, self._n_ranks, str(self._scratch.path / "store"))

    def _start(self, place: Place) -> subprocess.Popen[bytes]:
        with self._errors_of(place.rank).open("wb") as errors:
            return subprocess.Popen(  # noqa: S603  # this program itself
                [sys.executable, str(WORKER), *sys.path],
                env=os.environ | place.variables,
                stdin=subprocess.PIPE,  # its end tells them that this process is gone
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for this process
            )

    def _errors_of(self, rank: int) -> Path:
        return self._scratch.path / f"rank{rank}.err"

    def wait_until_ready(self) -> None:
        """RankEnded if one of them does not get so far."""
        for process in self._processes:
            assert process.stdout is not None, "it is a pipe"
            if process.stdout.readline() != READY:
                process.wait()
                raise self.failure() or RankEnded("a rank did not start")

    def failure(self, seconds: float = SECONDS_TO_END) -> RankEnded | ModelRejected | None:
        """Why the first of them ended; None if all are still there after some seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = [(rank, p.returncode) for rank, p in enumerate(self._processes, 1) if p.poll() is not None]
            causes = [(rank, code) for rank, code in ended if code != LOST_THE_OTHERS]
            if causes:
                return self._describe(*causes[0])
            time.sleep(0.02)
        return None

    def _describe(self, rank: int, code: int) -> RankEnded | ModelRejected:
        if code == -signal.SIGBUS:
            return ModelRejected(
                f"rank {rank}: a model file was truncated, or its disk failed, while in use", "llama-cli verify"
            )
        if code < 0:
            guess = "was it the system, out of memory?" if code == -signal.SIGKILL else None
            return RankEnded(f"rank {rank} was killed by {signal.Signals(-code).name}", guess)
        said = self._errors_of(rank).read_text(errors="replace")
        errors, hints = (re.findall(f"^{word}: (.*)$", said, re.MULTILINE) for word in ("llama-cli: error", "hint"))
        lines = said.strip().splitlines() or [f"it ended with exit code {code}"]
        message = errors[-1] if errors else f"rank {rank}: {lines[-1]}"
        return RankEnded(message, hints[-1] if hints else None, code or 1)

    def end(self) -> None:
        """Close their pipes, which asks them to end, and kill those that have not ended after SECONDS_TO_END."""
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        deadline = time.monotonic() + SECONDS_TO_END
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._scratch.remove()
