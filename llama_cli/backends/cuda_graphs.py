"""Decode steps recorded once for each shape and replayed: on a GPU one call launches all kernels of a step.

A step of few spans is hundreds of small kernels, which a CPU takes longer to launch than a GPU to run. A record
computes from tensors that stay where they are, so its shapes are rounded up: spans to a power of two by repeating the
first one, which writes the same numbers to the same place, and positions to a multiple of 256, masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..model.batch import Batch, Together
from ..model.cache import Cache
from ..model.llama import Llama
from ..model.rope import cos_sin_at
from ..model.span import Span

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]  # what computes something, as what computes it again at little cost

ROUNDED_TO = 256  # positions
GROWTH_OF_CACHE = 2048  # positions: a new cache needs new records
MOST_WASTE = 0.25  # of the bytes of the weights: what masked positions may add to what a step reads


class DecodeGraphs:
    """The recorded steps of one model on one cache."""

    def __init__(self, model: Llama, cache: Cache, record: Record) -> None:
        self._model = model
        self._cache = cache
        self._record = record
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._bytes_per_position = cache.n_bytes / max(cache.n_slots * cache.max_seq_len, 1)
        n_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        self._most_wasted = MOST_WASTE * n_bytes

    def takes(self, spans: Sequence[Span], n_scored: int) -> int:
        """All spans of a step that are not scored, or none.

        All where each is one token whose logits are wanted, and where the positions that are read for nothing, since
        shapes are rounded up, are few beside the weights.
        """
        spans = spans[: len(spans) - n_scored]
        if not spans or not all(span.is_single for span in spans):
            return 0
        wasted = self._cache.n_slots * self._n_positions(spans) - sum(span.end for span in spans)
        return len(spans) if wasted * self._bytes_per_position <= self._most_wasted else 0

    def logits(self, spans: Sequence[Span], tokens: Sequence[int], n_scored: int) -> Tensor:
        """Logits (len(spans), vocab_size), float32, of the spans of a step that it takes."""
        n_spans = min(1 << (len(spans) - 1).bit_length(), self._cache.n_slots)
        shape = n_spans, self._n_positions(spans)
        recorded = self._recorded.get(shape)
        if recorded is None:
            recorded = self._recorded[shape] = _Recorded(self._model, self._cache, *shape)
            recorded.set(spans, tokens)
            recorded.replay = self._record(recorded.compute)
        recorded.set(spans, tokens)
        return recorded.replay()[: len(spans)].clone()  # the next replay writes to the same place

    def _n_positions(self, spans: Sequence[Span]) -> int:
        longest = max(span.end for span in spans)
        return min(-(-longest // ROUNDED_TO) * ROUNDED_TO, self._cache.max_seq_len)


class _Recorded:
    """A step of one shape and the tensors that it computes from."""

    def __init__(self, model: Llama, cache: Cache, n_spans: int, n_positions: int) -> None:
        self._model = model
        self._cache = cache
        self._n_spans = n_spans
        n_slots = cache.n_slots
        # Each line has an even length, which aligns the next one to 16 bytes, as compiled code wants it.
        self._numbers = torch.zeros(5, n_slots + n_slots % 2, dtype=torch.int64, device=cache.device)
        self._tokens, self._positions, slots = self._numbers[:3, :n_spans]
        span_of_slot, self._lengths = self._numbers[3:, :n_slots]
        self._places = torch.arange(n_positions, device=cache.device)
        mask = torch.zeros(n_slots, 1, 1, n_positions, dtype=cache.dtype, device=cache.device)
        self._together = Together(0, n_slots, n_positions, span_of_slot, slots, mask)
        self._outputs = torch.arange(n_spans, device=cache.device)
        self.replay: Compute = self.compute

    def set(self, spans: Sequence[Span], tokens: Sequence[int]) -> None:
        """Put a step in place, in one copy to the device."""
        repeats = self._n_spans - len(spans)
        filled, ids = [*spans, *[spans[0]] * repeats], [*tokens, *[tokens[0]] * repeats]
        positions, slots = [span.start for span in filled], [span.slot for span in filled]
        span_of_slot, lengths = [0] * self._cache.n_slots, [1] * self._cache.n_slots
        for number, span in enumerate(spans):
            span_of_slot[span.slot], lengths[span.slot] = number, span.end
        lines = ids, positions, slots, span_of_slot, lengths
        width = self._numbers.shape[1]
        self._numbers.copy_(torch.tensor([line + [0] * (width - len(line)) for line in lines]))

    def compute(self) -> Tensor:
        """The logits of the step that is in place."""
        unseen = self._places >= self._lengths[:, None]  # (n_slots, n_positions)
        self._together.mask.zero_().masked_fill_(unseen[:, None, None], float("-inf"))
        batch = Batch(
            self._tokens,
            self._positions,
            slots=self._together.slot_of_span,
            cos_sin=cos_sin_at(self._positions, self._model.rope),
            together=self._together,
            spans=(),
            masks=(),
            outputs=self._outputs,
        )
        logits: Tensor = self._model(batch, self._cache)
        return logits


def cuda_graphs() -> Record:
    """Records as CUDA graphs that share their memory: the result of one holds until the next one runs."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Compute) -> Compute:
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # the first runs choose kernels and make workspaces
            for _ in range(2):
                compute()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits = compute()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay

    return record
