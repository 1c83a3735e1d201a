"""A plan in, logits out: turns the scheduler's integers into tensors and runs the model on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import InputRejected
from ..model.batch import Batch
from ..model.cache import GROWTH, Cache
from ..model.llama import Llama
from ..model.span import Span
from .scheduler import Plan


class DecodeSteps(Protocol):
    """A faster way for some spans, above all those of one token, on the cache that it was made for."""

    def takes(self, spans: Sequence[Span], n_scored: int) -> int:
        """How many of the first spans of a step it computes, whose last `n_scored` want logits that are not rounded."""

    def logits(self, spans: Sequence[Span], tokens: Sequence[int], n_scored: int) -> Tensor:
        """Logits (M, vocab_size), float32, of the tokens that spans ask for which it takes."""


MakeSteps = Callable[[Llama, Cache], DecodeSteps]


class Snapshot(NamedTuple):
    """What a slot of the cache holds: ids, and for each its keys and values."""

    ids: list[int]
    keys: Tensor  # (n_layers, n_kv_heads, len(ids), head_dim)
    values: Tensor  # the same


class Runner(Protocol):
    """What an engine runs its plans on: a model and its cache, here or shared by several ranks."""

    @property
    def n_slots(self) -> int: ...

    @property
    def max_seq_len(self) -> int: ...

    @property
    def rounds_to(self) -> torch.dtype:
        """What logits are rounded to where a token is chosen by them."""

    def run(self, plan: Plan) -> Tensor:
        """Logits (M, vocab_size), float32, of the tokens that each span asks for, in the order of the plan."""

    def reserve(self, length: int) -> None:
        """Make room for sequences of `length` tokens, keeping what is cached."""

    def clear(self, slot: int, start: int = 0) -> None:
        """Forget the numbers of a slot from position `start` on."""

    def snapshot(self, slot: int, ids: list[int]) -> Snapshot:
        """Copies of the keys and values of `ids`, which a slot holds; InputRejected where no one process has them."""

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Put a snapshot into a slot; InputRejected if it is not of this cache's shape and dtype, or not finite."""


class ModelRunner:
    """Runs a model of this process, and owns its cache."""

    def __init__(
        self, model: Llama, *, n_slots: int, max_seq_len: int, make_steps: MakeSteps | None = None, growth: int = GROWTH
    ) -> None:
        """`make_steps` makes the fast way of spans of one token, anew whenever the cache has grown by `growth`."""
        self.model = model
        self._make_steps = make_steps
        self._growth = growth
        self._steps: DecodeSteps | None = None
        self.n_slots = n_slots
        self.max_seq_len = max_seq_len  # the cache never grows past this
        self.device = model.tok_embeddings.weight.device
        self.dtype = model.tok_embeddings.weight.dtype
        self.cache = self._make_cache(0)

    @property
    def rounds_to(self) -> torch.dtype:
        """What logits are rounded to, as in Meta's code, where a token is chosen by them."""
        return self.model.norm.weight.dtype

    def _make_cache(self, length: int) -> Cache:
        return self.model.make_cache(self.n_slots, length)

    def has_room(self, length: int) -> bool:
        """Whether the cache holds sequences of `length` tokens as it is."""
        return length <= self.cache.max_seq_len

    def reserve(self, length: int) -> None:
        """As Runner.reserve."""
        if self.has_room(length):
            return
        rounded = min(-(-length // self._growth) * self._growth, self.max_seq_len)
        grown = self._make_cache(rounded)
        grown.copy_from(self.cache)
        self.cache = grown
        self.model.prepare_rope(rounded)
        if self._make_steps is not None:
            self._steps = self._make_steps(self.model, grown)

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor:
        """As Runner.run."""
        for copy in plan.copies:
            self.cache.copy_prefix(copy.source, copy.target, copy.length)
        n_others = len(plan.spans) - plan.n_scored
        n = self._steps.takes(plan.spans, plan.n_scored) if self._steps is not None else 0
        n_tokens = sum(span.length for span in plan.spans[:n])
        parts = []
        if self._steps is not None and n > 0:
            parts.append(self._steps.logits(plan.spans[:n], plan.tokens[:n_tokens], max(0, n - n_others)))
        if n < len(plan.spans):
            n_scored = sum(span.n_outputs for span in plan.spans[n_others:])
            batch = Batch.of(plan.spans[n:], plan.tokens[n_tokens:], self.model.rope, self.cache, n_scored)
            parts.append(self.model(batch, self.cache))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def clear(self, slot: int, start: int = 0) -> None:
        """As Runner.clear."""
        self.cache.clear(slot, start)

    def snapshot(self, slot: int, ids: list[int]) -> Snapshot:
        """As Runner.snapshot."""
        return Snapshot(ids, *self.cache.read(slot, len(ids)))

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """As Runner.restore."""
        ids, *tensors = snapshot
        cached = self.cache.layers[0].keys
        shape = (len(self.cache.layers), cached.shape[1], len(ids), cached.shape[3])
        if any(each.shape != shape or each.dtype != self.cache.dtype for each in tensors):
            raise InputRejected("a saved cache has not the shape of this model's cache")
        if not 0 < len(ids) <= self.max_seq_len:
            raise InputRejected(f"a saved cache holds {len(ids):,} tokens; the context holds {self.max_seq_len:,}")
        if not all(bool(each.isfinite().all()) for each in tensors):
            raise InputRejected("a saved cache holds NaN or infinity")
        self.reserve(len(ids))
        self.cache.restore(slot, snapshot.keys, snapshot.values)
