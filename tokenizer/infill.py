"""Infilling: what stands between two texts, for models that were trained to say it (Code Llama 7B, 13B, 70B)."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Tokenizer
from .spm import INFILL_MARKS


@dataclass(frozen=True)
class InfillFormat:
    """`<PRE> prefix <SUF>suffix <MID>`, the marks as ids put in place here; the answer ends with `<EOT>`."""

    tokenizer: Tokenizer
    prefix_id: int
    suffix_id: int
    middle_id: int

    def encode(self, prefix: str, suffix: str) -> list[int]:
        """The ids up to where the middle begins, as Meta's `infilling_prompt_tokens` has them."""
        begin = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        before = [self.prefix_id, *self.tokenizer.encode(prefix)]
        return [*begin, *before, self.suffix_id, *self.tokenizer.encode_more(suffix), self.middle_id]


def infill_format(tokenizer: Tokenizer) -> InfillFormat | None:
    """The format of a tokenizer that has the marks; None for every other one."""
    specials = tokenizer.special_tokens
    if not all(mark in specials for mark in INFILL_MARKS):
        return None
    prefix, suffix, middle, _ = (specials[mark] for mark in INFILL_MARKS)
    return InfillFormat(tokenizer, prefix, suffix, middle)
