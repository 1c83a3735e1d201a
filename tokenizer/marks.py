"""What a model says about its tokens outside the tokenizer's own file: names, ends, the begin token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from .base import TokenizerError

# How text is cut into words before merging, a fact of the trained vocabulary; the patterns are in bpe.py.
Cuts = Literal["llama3", "qwen2", "gpt2", "smollm"]
CUTS: tuple[Cuts, ...] = get_args(Cuts)


@dataclass(frozen=True)
class Marks:
    """Facts of one model. The defaults say nothing."""

    names: Mapping[str, int] = field(default_factory=dict)  # of special ids; text never makes them
    stop_ids: frozenset[int] = frozenset()  # that end an answer, beside those of the family
    adds_bos: bool | None = None  # None: as the tokenizer's own file says
    bos_token: str | None = None
    eos_token: str | None = None
    cuts: Cuts = "llama3"  # of a file of ranks, which does not say it


NO_MARKS = Marks()


def check_ids(marks: Marks, vocab_size: int) -> None:
    """TokenizerError if an end is an id that the tokenizer lacks."""
    outside = sorted(number for number in marks.stop_ids if not 0 <= number < vocab_size)
    if outside:
        raise TokenizerError(
            f"the model's files end answers with id {outside[0]}; its tokenizer has {vocab_size:,} tokens",
            "do these files belong together? see stop_token_ids in params.json, eos_token_id in config.json",
        )
