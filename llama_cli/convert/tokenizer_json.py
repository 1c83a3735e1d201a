"""Hugging Face's tokenizer.json, written from what a tokenizer is: byte pairs, SentencePiece's pieces, characters.

The file is plain JSON, which takes less to write than to depend on the library that reads it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..tokenizer.bpe import PATTERNS, BPETokenizer
from ..tokenizer.byte_pairs import merges_of, spell
from ..tokenizer.marks import Cuts
from .sentencepiece_file import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Pieces

SPACE = "\u2581"


class Special(NamedTuple):
    """A token that is taken out of a text before it is cut."""

    id: int
    name: str
    is_control: bool = True


def of_byte_pairs(tokenizer: BPETokenizer) -> dict[str, Any]:
    """The file of a tokenizer whose ids are its ranks."""
    vocabulary = tokenizer.vocabulary
    assert vocabulary.ids is None, "others were read from such a file"
    vocab = {spell(token): rank for rank, token in enumerate(vocabulary.ranks)}
    merges = [(spell(first), spell(second)) for first, second in merges_of(vocabulary.ranks)]
    specials, names = [], set()
    for number in range(len(vocab), tokenizer.vocab_size):
        name = tokenizer.token_bytes(number).decode() or f"<|unnamed_{number}|>"
        name = name if name not in names else f"<|unnamed_{number}|>"
        names.add(name)
        specials.append(Special(number, name))
    begin = next((special for special in specials if special.id == tokenizer.bos_id), None)
    return byte_pairs(vocab, merges, specials, vocabulary.cuts, begin, whole_words=True)


def byte_pairs(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    specials: Sequence[Special],
    cuts: Cuts,
    begin: Special | None,
    *,
    whole_words: bool,
) -> dict[str, Any]:
    """The file of byte pairs in any order. `whole_words`: a word that is a token is not merged together, but found."""
    if [special.id for special in specials] != list(range(len(vocab), len(vocab) + len(specials))):
        vocab = dict(vocab) | {special.name: special.id for special in specials}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": whole_words,
        "vocab": dict(sorted(vocab.items(), key=lambda pair: pair[1])),
        "merges": [list(pair) for pair in merges],
    }
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _file(model, specials, begin, pre_tokenizer=_cutting(cuts, letters), decoder=letters)


def _cutting(cuts: Cuts, letters: Mapping[str, Any]) -> dict[str, Any]:
    if cuts == "gpt2":
        return dict(letters)
    if cuts == "smollm":
        return _sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, letters)
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[cuts]}, "behavior": "Isolated", "invert": False}
    return _sequence("pretokenizers", split, dict(letters) | {"use_regex": False})


def of_pieces(pieces: Pieces, begin: Special | None) -> dict[str, Any]:
    """The file of a SentencePiece model, in the form of Llama 2's."""
    vocab = {piece: number for number, piece in enumerate(pieces.pieces)}
    merges: list[tuple[float, int, str, str]] = []
    for number, (piece, score, kind) in enumerate(zip(pieces.pieces, pieces.scores, pieces.types, strict=True)):
        if kind not in (UNKNOWN, CONTROL, USER_DEFINED, BYTE):
            cuts = [(piece[:place], piece[place:]) for place in range(1, len(piece))]
            merges += [(-score, number, first, second) for first, second in cuts if first in vocab and second in vocab]
    kinds = {number: kind for number, kind in enumerate(pieces.types) if kind in (UNKNOWN, CONTROL, USER_DEFINED)}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": next(pieces.pieces[number] for number, kind in kinds.items() if kind == UNKNOWN),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": BYTE in pieces.types,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [[first, second] for _, _, first, second in sorted(merges, key=lambda merge: merge[:2])],
    }
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    charsmap = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(pieces.charsmap).decode()}
    normalizer: list[Mapping[str, Any]] = [
        *([charsmap] if pieces.charsmap else []),
        *([{"type": "Prepend", "prepend": SPACE}] if pieces.add_prefix else []),
        spaces,
    ]
    decoder: list[Mapping[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if pieces.add_prefix else []),
    ]
    return _file(
        model,
        [Special(number, pieces.pieces[number], kind != USER_DEFINED) for number, kind in kinds.items()],
        begin,
        normalizer=_sequence("normalizers", *normalizer),
        decoder=_sequence("decoders", *decoder),
    )


def of_characters(symbols: Sequence[str]) -> dict[str, Any]:
    """The file of a toy: every character is a word. One that it does not know is an error there as it is here."""
    model = {
        "type": "WordLevel",
        "vocab": {symbol: number for number, symbol in enumerate(symbols)},
        "unk_token": "<unk>",
    }
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return _file(model, [], None, pre_tokenizer=split, decoder={"type": "Fuse"})


def _sequence(key: str, *steps: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", key: [dict(step) for step in steps]}


def _file(
    model: Mapping[str, Any],
    specials: Sequence[Special],
    begin: Special | None,
    *,
    normalizer: Mapping[str, Any] | None = None,
    pre_tokenizer: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(special) | {"id": special.id} for special in specials],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None if begin is None else _beginning(begin),
        "decoder": decoder,
        "model": model,
    }


def added_token(special: Special) -> dict[str, Any]:
    """A special token as tokenizer.json and tokenizer_config.json describe it."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": special.name, **flags, "special": special.is_control}


def _beginning(begin: Special) -> dict[str, Any]:
    """Every text begins with this token."""
    token, first, second = (
        {"SpecialToken": {"id": begin.name, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    )
    again = {"SpecialToken": {"id": begin.name, "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [token, first],
        "pair": [token, first, again, second],
        "special_tokens": {begin.name: {"id": begin.name, "ids": [begin.id], "tokens": [begin.name]}},
    }
