"""What may narrow the choice of a token, before it is drawn."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Constraint(Protocol):
    """Says, place by place, which tokens one answer may go on with.

    It lives where tokens are drawn and sees every token of the answer once, in order, and none that was only guessed.
    """

    def mask(self) -> Tensor | None:
        """Which ids may come next: bool (vocab_size,), True where one may; None where all may.

        At least one may, stop tokens included where the answer may end, until it is done. Asking changes nothing.
        """

    def accept(self, token: int) -> None:
        """The token that has been drawn, stop tokens too."""

    @property
    def is_done(self) -> bool:
        """Whether nothing may follow: the answer ends here, without a stop token."""
