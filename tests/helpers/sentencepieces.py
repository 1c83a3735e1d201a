"""A SentencePiece model made on the spot, as Llama 2's and Code Llama's are made."""

import io
from pathlib import Path

import pytest

SPACE = "\u2581"
MARKS = [SPACE + mark for mark in ("<PRE>", "<SUF>", "<MID>", "<EOT>")]
TEXT = ["def add(first, second): return first + second", "the quick brown fox jumps over the lazy dog"]


def write_sentencepiece(path: Path, marks: list[str] | None = None) -> int:
    """Write it, and return how many pieces it has. Marks that the text may spell are the worst case."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=marks or [],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    pieces: int = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).GetPieceSize()
    return pieces
