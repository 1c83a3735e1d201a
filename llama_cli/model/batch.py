"""What one step computes, as tensors: the tokens of all spans one after the other, and how they are attended.

Shapes: N tokens in the batch, R spans of one token that are attended together, M logits that are wanted, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .cache import Cache
from .rope import cos_sin_at
from .span import Span, outputs_of


class Together(NamedTuple):
    """Spans of one token each in slots that lie close to each other: one call attends them all.

    Their slots are taken as one block [first, end) of the cache, idle ones included, and every span sees as many
    positions as the longest, all but its own ones masked.
    """

    first: int
    end: int
    n_positions: int
    span_of_slot: Tensor  # (end - first,): which span a slot belongs to; an idle one to any
    slot_of_span: Tensor  # (R,): counted from `first`
    mask: Tensor  # (end - first, 1, 1, n_positions): 0 or -inf, in the dtype of the queries


@dataclass(frozen=True)
class Batch:
    """First the spans of one token that are attended together, then the others. Indices are int64."""

    tokens: Tensor  # (N,)
    positions: Tensor  # (N,)
    slots: Tensor  # (N,)
    cos_sin: Tensor  # (N, 1, D / 2, 2): the rotations of RoPE at the positions
    together: Together | None
    spans: tuple[Span, ...]  # the others
    masks: tuple[Tensor | None, ...]  # of those spans
    outputs: Tensor  # (M,): places among the tokens whose logits are wanted
    n_scored: int = 0  # the last of them, whose logits are not to be rounded

    @classmethod
    def of(cls, spans: Sequence[Span], tokens: Sequence[int], rope: Tensor, cache: Cache, n_scored: int = 0) -> Batch:
        """Lay out `spans`, each of a slot of its own, whose `tokens` follow each other; `rope` is the model's table."""
        positions = [position for span in spans for position in range(span.start, span.end)]
        slots = [span.slot for span in spans for _ in range(span.length)]
        as_index = [torch.tensor(ids, dtype=torch.int64) for ids in (tokens, positions, slots, outputs_of(spans))]
        flat, where, which, wanted = (index.to(cache.device) for index in as_index)
        n_single = next((n for n, span in enumerate(spans) if span.length > 1), len(spans))
        together = _together(spans[:n_single], cache)
        others = tuple(spans[n_single:] if together else spans)
        masks = tuple(causal_mask(span, cache.dtype, cache.device) for span in others)
        return cls(flat, where, which, cos_sin_at(where, rope), together, others, masks, wanted, n_scored)


def causal_mask(span: Span, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """What to add to the scores of a span, (length, start + length); None where a kernel needs no telling.

    start = 2, length = 3:    key 0 1 2 3 4        0 where a query may look,
                     query 2:     x x x . .        -inf where it may not
                     query 3:     x x x x .
                     query 4:     x x x x x
    """
    if span.length == 1 or span.start == 0:
        return None
    mask = torch.full((span.length, span.end), float("-inf"), dtype=dtype, device=device)
    return mask.triu_(span.start + 1)


# One call for several spans pays from so many on, and where it does not compute for idle slots or for the
# padding of short ones much more than is wanted.
FEWEST_TOGETHER = 3
MOST_PADDING = 3.0
ROUNDED_TO = 64  # positions


def _together(spans: Sequence[Span], cache: Cache) -> Together | None:
    """How to attend spans of one token each in one call; None where that would not pay."""
    if len(spans) < FEWEST_TOGETHER:
        return None
    slots = [span.slot for span in spans]
    first, end = min(slots), max(slots) + 1
    lengths = [span.end for span in spans]
    n_positions = min(-(-max(lengths) // ROUNDED_TO) * ROUNDED_TO, cache.max_seq_len)
    if (end - first) * n_positions > MOST_PADDING * sum(lengths) + ROUNDED_TO * len(spans):
        return None
    span_of_slot, seen = [0] * (end - first), [1] * (end - first)
    for number, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        span_of_slot[slot - first], seen[slot - first] = number, length
    unseen = torch.arange(n_positions) >= torch.tensor(seen)[:, None]
    mask = torch.zeros(unseen.shape, dtype=cache.dtype).masked_fill_(unseen, float("-inf"))
    return Together(
        first,
        end,
        n_positions,
        torch.tensor(span_of_slot, device=cache.device),
        torch.tensor(slots, device=cache.device) - first,
        mask[:, None, None].to(cache.device),
    )
