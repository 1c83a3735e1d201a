"""What may guess the next tokens, before a step. Integers only: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Proposer(Protocol):
    """Guesses what one answer goes on with, so that a step computes several of its tokens at once.

    A guess is only compared with what is drawn: a wrong one costs time and never changes an answer.
    """

    def propose(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Ids of the model, `most` of them or fewer, that may follow `tokens`, which are prompt and answer so far.

        What the tokens have become since the last call tells how much of the last guess was right.
        """
