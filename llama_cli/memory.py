"""What fits: arithmetic on the shape of a model, and how much memory there is."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import resource
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from .backends.offers import Offer
from .errors import DoesNotFit
from .model.args import ModelArgs
from .model.pieces import CHUNK, PART_BYTES
from .model.weights import EMBEDDING, OUTSIDE_LAYERS, Role, WeightSpec, joined, layer_weights

# What a process takes before its first weight: Python, torch, and a tokenizer of 128,000 tokens.
BASE = 280 << 20

# What the arithmetic leaves out, as a share of all it counts.
HEADROOM = 0.03

# Roles whose values are as those of the embedding, of all other matrices, and of the output matrix.
LIKE: tuple[Role, ...] = ("embedding", "down", "output")

# Bytes of a value of an output matrix, which `convert` rounds no further.
STORED_OUTPUT = 1.0

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")  # lines `0::/a/b`, or `7:memory:/a/b` of the older kind
LIMIT_AND_USE = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a process will take: while it makes its weights, or later when it runs, whichever is more."""

    weights: int
    unread: int  # of the weights, what stays in its file: of a mapped embedding only the rows of a prompt are read
    loading: int  # beside the weights, while the last of them are made
    step: int  # beside weights and cache, while a step runs
    per_token: int  # the cache of one token in one slot
    per_position: int  # what all slots share of each position
    n_slots: int

    @property
    def _resident(self) -> int:
        return BASE + self.weights - self.unread

    @property
    def _per_position(self) -> int:
        return self.per_token * self.n_slots + self.per_position

    def total(self, max_seq_len: int) -> int:
        """The peak with a cache of so many tokens."""
        running = self.step + self._per_position * max_seq_len
        return int((self._resident + max(self.loading, running)) * (1 + HEADROOM))

    def largest_context(self, available: int) -> int:
        """Most tokens of context that fit into `available` bytes; 0 where not even the weights do."""
        left = available / (1 + HEADROOM) - self._resident
        return 0 if left < self.loading else max(0, int((left - self.step) // self._per_position))

    def most_slots(self, available: int, context: int) -> int:
        """How many slots of so many tokens fit; 1 at least."""
        left = available / (1 + HEADROOM) - self._resident - self.step - self.per_position * context
        return max(1, int(left // (self.per_token * context)))


StoredQuantization = Literal["kept", "dequantized"]


class Stored(NamedTuple):
    """How weights lie in the files of a model, and what becomes of them."""

    linear_bytes: float  # of a value of a linear layer
    is_tied: bool  # the output matrix is the embedding, so it is made first
    is_copied: bool  # no tensor is used as it is mapped: another dtype, parts to be joined, or read into memory
    quantization: StoredQuantization | None = None  # what becomes of linear layers that `convert` has quantized


def plan_memory(args: ModelArgs, offer: Offer, stored: Stored, *, n_slots: int, n_ranks: int = 1) -> MemoryPlan:
    """What each of `n_ranks` that share a model takes, in bytes, with so many slots of the cache.

    Files that are mapped count as memory of a CPU.
    """
    kv_heads = math.ceil(args.n_kv_heads / n_ranks)  # more ranks than heads: some have the same one
    itemsize = offer.bytes_of("embedding")
    is_shared = stored.is_tied and offer.shares_embedding

    def bytes_of(spec: WeightSpec) -> int:
        return 0 if spec.role == "output" and is_shared else _bytes_of_part(args, spec, offer, n_ranks)

    weights = sum(map(bytes_of, OUTSIDE_LAYERS.values()))
    weights += sum(n * bytes_of(spec) for specs, n in _kinds_of_layers(args).items() for spec in specs)
    stays_in_file = offer.is_on_cpu and not stored.is_copied and not is_shared
    return MemoryPlan(
        weights=weights,
        unread=bytes_of(OUTSIDE_LAYERS[EMBEDDING]) if stays_in_file else 0,
        loading=_loading_bytes(args, offer, stored) // n_ranks,
        step=_step_bytes(args, n_slots) + _upcast_bytes(args, offer),
        per_token=int(2 * args.n_layers * kv_heads * args.head_dim * itemsize),
        per_position=int(CHUNK * itemsize + 4 * args.head_dim),  # a prompt's mask, and the rotation
        n_slots=n_slots,
    )


def bytes_of_step(args: ModelArgs, offer: Offer) -> int:
    """The weights that a step of one token reads, in bytes: all but the embedding."""
    kinds = _kinds_of_layers(args) + Counter({tuple(OUTSIDE_LAYERS.values()): 1})
    specs = ((spec, n) for specs, n in kinds.items() for spec in specs if spec.role != "embedding")
    return sum(n * _bytes_of_part(args, spec, offer, n_ranks=1) for spec, n in specs)


def _bytes_of_part(args: ModelArgs, spec: WeightSpec, offer: Offer, n_ranks: int) -> int:
    """What the part of one rank takes of a weight."""
    shape = spec.shape(args)
    if spec.split is None:
        n_values = math.prod(shape)  # norms are on every rank
    elif spec.role in ("embedding", "output"):
        n_values = math.ceil(shape[0] / n_ranks) * shape[1]
    elif spec.has_kv_heads:
        n_values = math.prod(shape) * math.ceil(args.n_kv_heads / n_ranks) // args.n_kv_heads
    else:
        n_values = math.prod(shape) // n_ranks
    return int(n_values * offer.bytes_of(spec.role))


def _loading_bytes(args: ModelArgs, offer: Offer, stored: Stored) -> int:
    """Most bytes that loading takes at a moment beside the weights that are ready: for a layer, or the output matrix.

    Pages of the files count until they are given back. A weight that is not used where it is mapped is first copied in
    the dtype of the model; weights of one layer are joined before they are quantized.
    """
    layer, largest, output = _largest_layer(args), _largest_matrix(args), args.vocab_size * args.dim
    itemsize, linear_bytes, output_bytes = map(offer.bytes_of, LIKE)
    if not offer.is_on_cpu:
        return int(largest * itemsize)
    page_bytes, is_tied, is_copied, quantization = stored
    if quantization == "kept":
        return int(max((layer + largest) * page_bytes, output * output_bytes))
    is_copied, is_quantized = offer.joins and (is_copied or quantization == "dequantized"), linear_bytes < itemsize
    of_layer = layer * page_bytes + largest * itemsize * (is_copied or is_quantized)
    of_output = output * (max(page_bytes, STORED_OUTPUT) + itemsize * is_copied + linear_bytes * is_quantized)
    return int(max(of_layer, 0 if is_tied else of_output))


def _step_bytes(args: ModelArgs, n_slots: int) -> int:
    """Activations of a chunk of a prompt, in float32, and logits with what the choice of a token makes of them."""
    return CHUNK * (6 * args.ffn_dim + 8 * args.dim) * 4 + 3 * n_slots * args.vocab_size * 4


def _upcast_bytes(args: ModelArgs, offer: Offer) -> int:
    """What a CPU that is slow in bfloat16 may upcast at a time: a part of the largest matrix, or all of it."""
    if not offer.is_on_cpu or offer.linear not in ("bfloat16", "float16"):
        return 0
    return min(PART_BYTES, _largest_matrix(args) * 4)


def _largest_layer(args: ModelArgs) -> int:
    """Values in a layer, all its weights together."""
    return max(sum(math.prod(spec.shape(args)) for spec in specs) for specs in _kinds_of_layers(args))


def _largest_matrix(args: ModelArgs) -> int:
    """Values in a linear layer, of weights that are joined where they can be."""
    groups = (group for specs in _kinds_of_layers(args) for group in joined(specs).values())
    return max(sum(math.prod(spec.shape(args)) for spec in group) for group in groups)


def _kinds_of_layers(args: ModelArgs) -> Counter[tuple[WeightSpec, ...]]:
    """How many layers have the same weights."""
    return Counter(layer_weights(args, number) for number in range(args.n_layers))


def can_split(args: ModelArgs, n_ranks: int) -> bool:
    """Whether every matrix has a part for each of `n_ranks`: equal ones, but the last may have fewer ids."""
    heads_fit = args.n_kv_heads % n_ranks == 0 or n_ranks % args.n_kv_heads == 0
    ids_fit = math.ceil(args.vocab_size / n_ranks) * (n_ranks - 1) < args.vocab_size
    return heads_fit and ids_fit and all(size % n_ranks == 0 for size in (args.n_heads, args.ffn_dim))


def possible_ranks(args: ModelArgs) -> list[int]:
    """All numbers of ranks that can share a model."""
    return [n_ranks for n_ranks in range(1, args.n_heads + 1) if can_split(args, n_ranks)]


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
    return dataclasses.replace(plan, n_slots=min(plan.n_slots, plan.most_slots(available, context)))


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has, within the limits of its cgroups and its own."""
    available = _free_on_machine()
    for folder, (limit_file, used_file) in itertools.product(_cgroups(), LIMIT_AND_USE):
        try:
            limit, used = ((folder / name).read_text().strip() for name in (limit_file, used_file))
        except OSError:
            continue
        if limit.isdigit():
            available = min(available, max(int(limit) - int(used), 0))
    limit_here, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_here != resource.RLIM_INFINITY:
        available = min(available, max(limit_here - _used_here("vms"), 0))
    return available


def _free_on_machine() -> int:
    try:
        return int(psutil.virtual_memory().available)
    except (OSError, psutil.Error):  # no /proc, as in some sandboxes
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _used_here(kind: Literal["rss", "vms"]) -> int:
    """Bytes that this process has taken, as far as can be told."""
    try:
        return int(getattr(psutil.Process().memory_info(), kind))
    except (OSError, psutil.Error):
        return 0


def usable_memory() -> int:
    """Bytes that this process may have in all: what is free, and what it has taken that a plan counts too."""
    return free_memory() + min(_used_here("rss"), BASE)


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


class Gpu(NamedTuple):
    """An NVIDIA GPU as its driver describes it."""

    free: int  # bytes
    capability: tuple[int, int]


def gpus_here() -> list[Gpu]:
    """The NVIDIA GPUs of this machine; none where their driver does not answer. Needs no torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.free,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603  # fixed words
        return [_gpu_of(line) for line in done.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):  # a driver that is not there, or does not answer
        return []


def _gpu_of(line: str) -> Gpu:
    """`22731, 8.6`: free MiB, and compute capability."""
    free, capability = line.split(",")
    major, minor = capability.split(".")
    return Gpu(int(free) << 20, (int(major), int(minor)))


def format_bytes(n_bytes: float) -> str:
    """`16.1 GiB`, `312.0 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} GiB"
