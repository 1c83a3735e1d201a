"""The ranks that run one model: meets or starts them, tells them what to load, ends them."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import TypeAdapter

from ..engine.engine import Engine
from ..engine.generator import Generator
from ..engine.runner import ModelRunner, Runner
from ..errors import UsageError
from ..memory import MemoryPlan
from ..model.args import ModelArgs
from ..model.split import Share
from ..options import LoadOptions
from .launch import Followers
from .leader import Leader
from .ranks import Link, Place, Ranks, is_about_a_connection, lost_rank
from .replicas import Replicas

logger = logging.getLogger(__name__)

SECONDS_TO_END = 3.0


@dataclass(frozen=True)
class Job:
    """What every rank must know to load its part of a model and run it."""

    options: LoadOptions  # nothing is left open
    weights: str  # changes with the files
    args: ModelArgs
    plan: MemoryPlan  # of one rank
    tokenizer_size: int
    stop_tokens: frozenset[int]

    @property
    def tp(self) -> int:
        """Ranks that share a model."""
        assert self.options.tp is not None, "rank 0 has settled it"
        return self.options.tp

    @property
    def n_ranks(self) -> int:
        return self.tp * self.options.dp

    @property
    def max_seq_len(self) -> int:
        assert self.options.max_seq_len is not None, "rank 0 has settled it"
        return self.options.max_seq_len

    def to_numbers(self) -> list[int]:
        """As a message."""
        return list(_JOBS.dump_json(self))

    @classmethod
    def of_numbers(cls, numbers: list[int]) -> Job:
        """What `to_numbers` gave."""
        return _JOBS.validate_json(bytes(numbers))


_JOBS = TypeAdapter(Job)


def ranks_of_a_group(options: LoadOptions) -> int:
    """How many ranks are to share a model: as was asked, else all that torchrun has started."""
    return options.tp or max(Place.of(os.environ).world_size // options.dp, 1)


def place_of_leader(options: LoadOptions) -> Place:
    """The place of rank 0: torchrun's, or that among ranks yet to be started here.

    UsageError if torchrun has started another number of them.
    """
    n_ranks = ranks_of_a_group(options) * options.dp
    place = Place.of(os.environ)
    if place.is_alone:
        return Place(world_size=n_ranks, local_size=n_ranks)
    if place.world_size != n_ranks:
        raise UsageError(f"there are {place.world_size} ranks, not {n_ranks}", f"torchrun --nproc-per-node {n_ranks}")
    if place.follows:
        raise UsageError("only rank 0 loads a model for all ranks", "run it with torchrun -m llama_cli, or as --tp N")
    return place


class Team:
    """All ranks, as rank 0 sees them."""

    def __init__(self, job: Job) -> None:
        """Start those that torchrun has not, meet all, and hand the job out."""
        place = Place.of(os.environ)
        self._followers: Followers | None = None
        self._ranks: Ranks | None = None
        self._leader: Leader | None = None
        self._replicas: Replicas | None = None
        self._has_ended = self._has_stuck = False
        if place.is_alone:
            self._followers = Followers(job.n_ranks)
            atexit.register(self._end_with_process)
            self._followers.wait_until_ready()
            place = self._followers.place
        try:
            ranks = self._ranks = Ranks(place)
            ranks.everyone.send(job.to_numbers())
            ranks.divide(job.tp)
        except RuntimeError as error:
            raise self.explain(error) from error
        self.share = Share(0, job.tp)
        atexit.register(self._end_with_process)

    def lead(self, runner: ModelRunner) -> Runner:
        """The runner of this rank as one of all ranks of its group."""
        if self.share.size == 1:
            return runner
        assert self._ranks is not None, "they have met"
        self._leader = Leader(runner, self._ranks.group.send, self.explain)
        return self._leader

    def gather(self, engine: Engine) -> Generator:
        """The engines of all groups as one; this process's own where there is no other group."""
        assert self._ranks is not None, "they have met"
        links = [Link(rank) for rank in self._ranks.other_leaders]
        if not links:
            return engine
        self._replicas = Replicas(engine, links, self.explain)
        return self._replicas

    def explain(self, error: Exception) -> Exception:
        """Why the rank ended that an error of a collective is about; any other error as it is."""
        if not is_about_a_connection(error):
            return error
        found = self._followers.failure() if self._followers else None
        return found or lost_rank(error)

    def end(self) -> None:
        """Let all go, if they still listen."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._replicas is not None:
            self._attempt(self._replicas.end)
            self._replicas.wait(SECONDS_TO_END)
        if self._leader is not None and not self._leader.in_step:
            self._attempt(self._leader.end)
        if self._followers is not None:
            self._followers.end()
        if self._replicas is not None and not self._replicas.wait(SECONDS_TO_END):
            self._has_stuck = True
        elif self._ranks is not None:
            self._attempt(self._ranks.part)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # whoever is gone need not be told
            logger.debug("a rank had ended before: %s", error)

    def _end_with_process(self) -> None:
        """Python's own end aborts where a thread still waits inside a collective."""
        self.end()
        if self._has_stuck:
            for stream in (sys.stdout, sys.stderr):
                self._attempt(stream.flush)
            os._exit(1)
