"""What fits: arithmetic on the shape of a model, and how much memory there is."""

from __future__ import annotations

import dataclasses
import itertools
import math
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from .errors import DoesNotFit
from .model.args import ModelArgs, Shape

# What a step needs beside weights and cache, as a share of both.
HEADROOM = 0.1

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")  # lines `0::/a/b`, or `7:memory:/a/b` of the older kind
LIMIT_AND_USE = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


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


class Precision(NamedTuple):
    """Bytes of a value: in the embedding and the cache, and in a weight of a linear layer."""

    itemsize: int
    linear_bytes: float


# As the layers of model/recipe.py keep them.
PRECISIONS = {
    "bf16": Precision(2, 2),
    "fp32": Precision(4, 4),
    "int8": Precision(2, 1.0),
    "int4": Precision(2, 0.625),
}


def plan_memory(
    args: ModelArgs,
    *,
    n_slots: int,
    itemsize: int,
    tied: bool,
    linear_bytes: float | None = None,
    n_ranks: int = 1,
) -> MemoryPlan:
    """The memory of `args` with embedding and cache of `itemsize` bytes a value, linear layers of `linear_bytes`.

    Of several ranks that share the model, it is the memory of each. `tied` means that the output matrix takes no
    memory of its own.
    """
    kv_heads = math.ceil(args.n_kv_heads / n_ranks)  # more ranks than heads: some have the same one
    per_token = 2 * args.n_layers * kv_heads * args.head_dim * itemsize

    def bytes_of(name: str, shape: Shape) -> int:
        if len(shape) == 1:
            return shape[0] * itemsize  # norms are on every rank
        if name == "tok_embeddings.weight":
            return math.prod(shape) * itemsize // n_ranks
        if name == "output.weight" and tied:
            return 0
        parts, whole = (kv_heads, args.n_kv_heads) if name.endswith(("wk.weight", "wv.weight")) else (1, n_ranks)
        return int(math.prod(shape) * parts // whole * (linear_bytes or itemsize))

    weights = 0
    for name, shape in dataclasses.replace(args, n_layers=1).weight_shapes().items():
        weights += bytes_of(name, shape) * (args.n_layers if name.startswith("layers.") else 1)
    return MemoryPlan(weights, per_token, n_slots, n_slots * args.vocab_size * 4)


def can_split(args: ModelArgs, n_ranks: int) -> bool:
    """Whether every matrix has a part for each of `n_ranks`."""
    heads_fit = args.n_kv_heads % n_ranks == 0 or n_ranks % args.n_kv_heads == 0
    return heads_fit and all(size % n_ranks == 0 for size in (args.n_heads, args.ffn_dim, args.vocab_size))


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
    """Bytes that this process may still take: what the machine has, within the limits of its cgroups and its own."""
    available = int(psutil.virtual_memory().available)
    for folder, (limit_file, used_file) in itertools.product(_cgroups(), LIMIT_AND_USE):
        try:
            limit, used = ((folder / name).read_text().strip() for name in (limit_file, used_file))
        except OSError:
            continue
        if limit.isdigit():
            available = min(available, max(int(limit) - int(used), 0))
    limit_here, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_here != resource.RLIM_INFINITY:
        available = min(available, max(limit_here - int(psutil.Process().memory_info().vms), 0))
    return available


def _cgroups() -> set[Path]:
    """The control groups of this process, and those around them: each may have a limit of its own."""
    found = {CGROUPS, CGROUPS / "memory"}
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return found
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers in ("", "memory"):
            inner = Path(path.lstrip("/"))
            found |= {CGROUPS / controllers / around for around in (inner, *inner.parents)}
    return found


def free_gpu_memory() -> list[int]:
    """Bytes free on each NVIDIA GPU, as its driver says; nothing where there is none. Needs no torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603  # fixed words
        return [int(line) << 20 for line in done.stdout.split()]
    except (OSError, subprocess.SubprocessError, ValueError):  # a driver that is not there, or does not answer
        return []


def format_bytes(n_bytes: float) -> str:
    """`16.1 GiB`, `312.0 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} GiB"
