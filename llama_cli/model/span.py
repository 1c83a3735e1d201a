"""A piece of a sequence, in integers alone: the scheduler plans with it where torch is not known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """Tokens [start, start + length) of the sequence in a cache slot."""

    slot: int
    start: int
    length: int
    n_outputs: int  # of how many of its last tokens the logits are wanted

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def is_single(self) -> bool:
        """Whether it is one token whose logits are wanted, as in most steps of an answer."""
        return self.length == 1 == self.n_outputs


def outputs_of(spans: Iterable[Span]) -> list[int]:
    """Whose logits are wanted: places among the tokens of all spans, one after the other."""
    outputs: list[int] = []
    n_tokens = 0
    for span in spans:
        n_tokens += span.length
        outputs += range(n_tokens - span.n_outputs, n_tokens)
    return outputs
