"""What fits: arithmetic on the shape of a model, and how much memory there is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import psutil

from .errors import DoesNotFit
from .model.args import ModelArgs

# What a step needs beside weights and cache, as a share of both.
HEADROOM = 0.1

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run will take; `per_token` is the cache of one token in one slot."""

    weights: int
    per_token: int
    n_slots: int
    logits: int

    def total(self, max_seq_len: int) -> int:
        cache = self.per_token * self.n_slots * max_seq_len
        return int((self.weights + cache + self.logits) * (1 + HEADROOM))

    def largest_context(self, available: int) -> int:
        """Most tokens of context that fit into `available` bytes; below 1 where not even the weights do."""
        left = available / (1 + HEADROOM) - self.weights - self.logits
        return int(left // (self.per_token * self.n_slots))


def plan_memory(
    args: ModelArgs, *, n_slots: int, itemsize: int, tied: bool, linear_bytes: float | None = None
) -> MemoryPlan:
    """The memory of `args` with embedding and cache of `itemsize` bytes a value, linear layers of `linear_bytes`.

    `tied` means that the output matrix takes no memory of its own.
    """
    per_token = 2 * args.n_layers * args.n_kv_heads * args.head_dim * itemsize
    embedding = args.vocab_size * args.dim
    linear = args.n_params(tied=tied) - embedding
    weights = embedding * itemsize + int(linear * (linear_bytes or itemsize))
    return MemoryPlan(weights, per_token, n_slots, n_slots * args.vocab_size * 4)


def choose_context(plan: MemoryPlan, available: int, *, asked: int | None, trained: int) -> int:
    """The context to run with: the one asked for, else as much of the trained one as fits.

    DoesNotFit, with the numbers and the way out, if that is too much.
    """
    largest = plan.largest_context(available)
    if largest >= (asked or 1):
        return asked or min(trained, largest)
    need = plan.total(asked or 1)
    if largest < 1:
        hint = "use a smaller model, or a machine with more memory"
    else:
        hint = f"--max-seq-len {largest} fits"
    raise DoesNotFit(
        f"needs {format_bytes(need)} ({format_bytes(plan.weights)} of weights, the rest for a context of"
        f" {asked or 1:,} tokens x {plan.n_slots}); {format_bytes(available)} are free",
        hint,
    )


def choose_slots(plan: MemoryPlan, available: int, *, context: int) -> MemoryPlan:
    """The same plan with as many slots as leave each of them `context` tokens; one at least."""
    per_slot = plan.per_token * context
    left = available / (1 + HEADROOM) - plan.weights - plan.logits
    return dataclasses.replace(plan, n_slots=max(1, min(plan.n_slots, int(left // per_slot))))


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has available, within its cgroup's limit."""
    available = int(psutil.virtual_memory().available)
    for limit_file, used_file in CGROUP_FILES:
        try:
            limit, used = (Path(name).read_text().strip() for name in (limit_file, used_file))
        except OSError:
            continue
        if limit.isdigit():
            available = min(available, max(int(limit) - int(used), 0))
    return available


def format_bytes(n_bytes: float) -> str:
    """`16.1 GiB`, `312.0 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} GiB"
