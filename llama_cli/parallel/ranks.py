"""Who am I among the processes that share a model, and how they talk. Knows nothing of models.

The world is `dp` groups of `tp` ranks that follow each other. The first rank of a group leads it, and rank 0 leads all:

    dp = 2, tp = 3      rank  0 1 2   3 4 5
                              ^ leads all
                                      ^ leads its group

torch.distributed and fairscale are imported when the ranks meet; a process alone never gets there.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import LlamaError, UsageError

if TYPE_CHECKING:
    import torch

STORE_VARIABLE = "LLAMA_CLI_RANKS"

# A person may think for days before the next message; a rank that dies is noticed by its closed connection.
PATIENCE = timedelta(days=365)
MEETING = timedelta(minutes=5)

LOOPBACKS = ("lo", "lo0")
INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"

FRAME = 256  # numbers of a message that go out at once; of a longer one the rest follows


class RankEnded(LlamaError):
    """A rank has ended before its time, so all must. The exit code is that of the rank, where it is known."""

    def __init__(self, message: str, hint: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Place:
    """A process among others, as torchrun's variables say."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those on this machine
    local_size: int = 1
    store: str | None = None  # a file through which ranks started here find each other; None: MASTER_ADDR

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        """The place that RANK and WORLD_SIZE give; alone without them."""
        if not {"RANK", "WORLD_SIZE"} <= environment.keys():
            return cls()
        rank, world_size = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
        local_rank = _number(environment, "LOCAL_RANK", rank)
        local_size = _number(environment, "LOCAL_WORLD_SIZE", world_size)
        return cls(rank, world_size, local_rank, local_size, environment.get(STORE_VARIABLE))

    @property
    def is_alone(self) -> bool:
        return self.world_size == 1

    @property
    def follows(self) -> bool:
        """Whether this rank only does what rank 0 tells it."""
        return self.rank > 0

    @property
    def variables(self) -> dict[str, str]:
        """What `of` reads."""
        numbers = {"RANK": self.rank, "WORLD_SIZE": self.world_size}
        numbers |= {"LOCAL_RANK": self.local_rank, "LOCAL_WORLD_SIZE": self.local_size}
        return {name: str(number) for name, number in numbers.items()} | {STORE_VARIABLE: self.store or ""}


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, must be a number", f"unset {name}, or use torchrun")
    return int(text)


class Channel:
    """Integers from the first rank of a group to all others: one broadcast, or two for a long list."""

    def __init__(self, group: Any, source: int) -> None:
        self._group, self._source = group, source

    def send(self, numbers: Sequence[int]) -> None:
        """Send int64 numbers to the others: a first tensor of FRAME numbers with the length in front, then the rest."""
        message = [len(numbers), *numbers]
        self._broadcast(_tensor(message[:FRAME] + [0] * (FRAME - len(message))))
        if len(message) > FRAME:
            self._broadcast(_tensor(message[FRAME:]))

    def receive(self) -> list[int]:
        """What the first rank sends next, however long that takes."""
        first = self._broadcast(_tensor([0] * FRAME)).tolist()
        length = int(first[0])
        if length < FRAME:
            return first[1 : length + 1]
        return first[1:] + self._broadcast(_tensor([0] * (length + 1 - FRAME))).tolist()

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        from torch import distributed

        distributed.broadcast(tensor, self._source, group=self._group)
        return tensor


class Link:
    """Text to and from one other rank. One thread may send while another receives."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def send(self, text: str) -> None:
        from torch import distributed

        data = list(text.encode())
        distributed.send(_tensor([len(data)]), self.rank)
        distributed.send(_tensor(data), self.rank)

    def receive(self) -> str:
        """The next text, however long that takes."""
        from torch import distributed

        length = _tensor([0])
        distributed.recv(length, self.rank)
        data = _tensor([0] * int(length))
        distributed.recv(data, self.rank)
        return bytes(data.tolist()).decode()


def _tensor(numbers: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.tensor(numbers, dtype=torch.int64)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Drop what libraries print of what they do: fairscale through Python, and Gloo, in torch 2.10, past it."""
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


class Ranks:
    """The processes that share one model, once they have met."""

    def __init__(self, place: Place) -> None:
        """Meet the others; RankEnded if they do not come."""
        from torch import cuda, distributed

        self.place = place
        with _on_loopback(place), _unheard():
            store = _store(place)
            backend = "cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo"
            distributed.init_process_group(
                backend, store=store, rank=place.rank, world_size=place.world_size, timeout=PATIENCE
            )
        self.everyone = Channel(None, 0)

    def divide(self, tp: int) -> None:
        """Make groups of `tp` ranks; all ranks do it together."""
        from fairscale.nn.model_parallel import initialize_model_parallel
        from torch import distributed

        with _on_loopback(self.place), contextlib.redirect_stdout(io.StringIO()), _unheard():
            initialize_model_parallel(tp)
            groups = [
                distributed.new_group(list(range(first, first + tp)), backend="gloo", timeout=PATIENCE)
                for first in range(0, self.place.world_size, tp)
            ]
        self.tp = tp
        self.leader = self.place.rank // tp * tp
        self.group = Channel(groups[self.place.rank // tp], self.leader)

    @property
    def leads_group(self) -> bool:
        return self.place.rank == self.leader

    @property
    def other_leaders(self) -> range:
        """The first ranks of the groups but the first."""
        return range(self.tp, self.place.world_size, self.tp)

    def part(self) -> None:
        """Leave the others: another model may be shared from then on."""
        from fairscale.nn.model_parallel import destroy_model_parallel
        from torch import distributed

        destroy_model_parallel()
        distributed.destroy_process_group()


def _store(place: Place) -> Any:
    """Where the ranks leave their addresses."""
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if place.store:
        return distributed.FileStore(place.store, place.world_size)  # type: ignore[attr-defined]
    try:
        store, _, _ = next(rendezvous("env://", place.rank, place.world_size, timeout=MEETING))
    except (ValueError, RuntimeError) as error:
        raise RankEnded(
            f"rank {place.rank} of {place.world_size} cannot meet the others: {str(error).splitlines()[0]}",
            "torchrun --nproc-per-node N -m llama_cli ..., or --tp N",
        ) from error
    return store


@contextlib.contextmanager
def _on_loopback(place: Place) -> Iterator[None]:
    """Ranks that were started here listen to nobody outside."""
    if not place.store:
        yield
        return
    import socket

    before = os.environ.get(INTERFACE_VARIABLE)
    present = [name for _, name in socket.if_nameindex()]
    os.environ[INTERFACE_VARIABLE] = next((name for name in LOOPBACKS if name in present), LOOPBACKS[0])
    try:
        yield
    finally:
        del os.environ[INTERFACE_VARIABLE]
        if before is not None:
            os.environ[INTERFACE_VARIABLE] = before


def is_about_a_connection(error: Exception) -> bool:
    """Whether a collective failed because another rank is gone."""
    from torch import distributed

    gone = ("gloo", "Connection", "Broken pipe", "Socket")
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in gone)


def lost_rank(error: Exception) -> RankEnded:
    """What an error of a collective says of the rank that is gone: at most its address."""
    address = re.search(r"\[(?:::ffff:)?([0-9a-fA-F.:]+)\]:\d+", str(error))
    where = f" at {address[1]}" if address else ""
    return RankEnded(f"a rank{where} has ended before its time", "what it said last tells why")
