"""Opens the tokenizer of a model folder. Knows nothing of weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelRejected
from ..files.quoting import plain, quote
from ..tokenizer import Tokenizer, TokenizerError, load_tokenizer
from ..tokenizer.marks import NO_MARKS, Marks
from .folders import TOKENIZER_NAMES, expand, find_tokenizer
from .installed import find_model
from .spare_rows import MOST, added_names, n_trained
from .tokenizer_marks import read_marks

logger = logging.getLogger(__name__)

# A model may have some more ids than its tokenizer (padding, infilling, images); they are never chosen.
SPARE_IDS = 128


def open_tokenizer(path: Path | None, folder: Path) -> Tokenizer:
    """The tokenizer in a file found for a model's folder, with what the folder's other files say about it.

    ModelRejected if there is none, or none of ours.
    """
    if path is None:
        raise ModelRejected(
            f"no {' or '.join(TOKENIZER_NAMES)} in {plain(folder)}, above it or in its original/",
            "give one with --tokenizer FILE",
        )
    return _load(path, read_marks(folder))


def _load(path: Path, marks: Marks) -> Tokenizer:
    try:
        return load_tokenizer(path, marks)
    except TokenizerError as error:
        raise ModelRejected(error.message, error.hint) from None


def tokenizer_of(model: str | Path, tokenizer: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a model, or the one given instead of it; the folder needs no weights for that."""
    if tokenizer is not None:
        return _load(expand(tokenizer), NO_MARKS)
    alone = find_tokenizer(expand(model)) if expand(model).is_dir() else None
    if alone is not None:
        return open_tokenizer(alone, expand(model))
    folder = find_model(model)
    return open_tokenizer(find_tokenizer(folder), folder)


@dataclass(frozen=True)
class SpareIds:
    """Ids of a model that its tokenizer has no text for; they are never chosen."""

    count: int
    trained: int  # of which the embedding has a row of its own
    names: Sequence[str]  # what other programs' files beside the weights call some of them

    @property
    def warning(self) -> str | None:
        """What to say about them; None where they are padding."""
        if not self.trained:
            return None
        named = f" (such as {', '.join(map(quote, self.names[:3]))})" if self.names else ""
        return (
            f"the model has {self.count} ids that its tokenizer has no text for{named}, {self.trained} of them trained:"
            " tokens that were added. They are never chosen and cannot be typed; --tokenizer FILE gives a tokenizer"
            " that has them"
        )


ReadRows = Callable[[int, int], Sequence[bytes]]  # of the embedding, from one id to another


def check_vocabulary(
    vocab_size: int, tokenizer: Tokenizer, path: Path | None, folder: Path, read_rows: ReadRows
) -> SpareIds:
    """ModelRejected if a tokenizer, read from `path`, is not that of a model with so many ids.

    `folder` is where the weights lie.
    """
    spare = vocab_size - tokenizer.vocab_size
    rows = read_rows(tokenizer.vocab_size, vocab_size) if 0 < spare < MOST else []
    found = SpareIds(max(spare, 0), n_trained(rows), added_names(folder, tokenizer.vocab_size) if spare > 0 else ())
    if not 0 <= spare < MOST or (spare > SPARE_IDS and found.trained):
        raise ModelRejected(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model {vocab_size:,}",
            f"{path} belongs to another model: give the right one with --tokenizer",
        )
    if spare:
        logger.info("the model has %d ids without text; they are never chosen", spare)
    return found
