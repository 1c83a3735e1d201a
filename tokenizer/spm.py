"""Llama 2's tokenizer: a SentencePiece model. Needs the package `sentencepiece`, the extra `llama2`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .base import UNKNOWN, EncodeError, TokenizerError
from .distribution import install_line
from .marks import NO_MARKS, Marks, check_ids

SPACE = "\u2581"  # how SentencePiece writes a space

# SentencePiece puts a space before a text. Behind this character, which Meta's code takes for that, it does not.
SHIELD = "\u263a"

# Code Llama's marks around what is to be filled in.
INFILL_MARKS = tuple(SPACE + mark for mark in ("<PRE>", "<SUF>", "<MID>", "<EOT>"))
END_OF_INFILL = INFILL_MARKS[-1]

# Pieces with a meaning of their own that the model file does not always mark as control tokens: text could spell them.
NAMED = ("<step>", "<|im_start|>", "<|im_end|>", *INFILL_MARKS)
ENDS = ("<step>", "<|im_end|>", END_OF_INFILL)


class SentencePieceTokenizer:
    """Pieces as the model file numbers them: unknown 0, begin 1, end 2."""

    kind = "sentencepiece"

    def __init__(self, path: Path, marks: Marks = NO_MARKS) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise TokenizerError(
                f"{path.name} is a SentencePiece model (Llama 2), and the package that reads it is not installed",
                install_line("llama2"),
            ) from None
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(path.read_bytes())
            for token_id in range(self._model.GetPieceSize()):
                self._model.IdToPiece(token_id)  # UnicodeDecodeError, where one is no text
        except (RuntimeError, ValueError):
            raise TokenizerError(f"{path.name} is damaged: SentencePiece cannot read it") from None
        model = self._model
        n_pieces: int = model.GetPieceSize()
        self.vocab_size: int = 1 + max(n_pieces - 1, *marks.names.values(), 0)
        self.bos_id: int | None = None if marks.adds_bos is False else model.bos_id()
        self.eos_id: int = model.eos_id()
        control = (token_id for token_id in range(n_pieces) if model.IsControl(token_id))
        self.special_tokens: dict[str, int] = {model.IdToPiece(token_id): token_id for token_id in control}
        named = {name: model.PieceToId(name) for name in NAMED}
        named = {name: token_id for name, token_id in named.items() if token_id != model.unk_id()}
        self.special_tokens |= named
        named |= {name: number for name, number in marks.names.items() if model.PieceToId(name) == number}
        self._spelt_out = {token_id: self._spell(name) for name, token_id in named.items()}
        self.special_tokens = {**marks.names, **{n: i for n, i in self.special_tokens.items() if n not in marks.names}}
        ends = (self.special_tokens[name] for name in (*ENDS, marks.eos_token) if name in self.special_tokens)
        check_ids(marks, self.vocab_size)
        self.stop_tokens = marks.stop_ids.union({self.eos_id}, ends)
        self._n_shield = len(model.EncodeAsIds(SHIELD))
        self.puts_space = str(model.IdToPiece(model.EncodeAsIds("a")[0])).startswith(SPACE)
        added = {token_id: name.encode() for name, token_id in marks.names.items()}
        pieces = dict(enumerate(map(self._bytes_of, range(n_pieces))))
        self._bytes = [pieces.get(token_id, added.get(token_id, b"")) for token_id in range(self.vocab_size)]
        self.max_token_bytes = max(map(len, self._bytes))

    def _bytes_of(self, token_id: int) -> bytes:
        """What SentencePiece's own decoder shows: nothing for control pieces, a mark for the unknown one."""
        if self._model.IsControl(token_id):
            return b""
        if self._model.IsUnknown(token_id):
            return UNKNOWN
        piece: str = self._model.IdToPiece(token_id)
        if self._model.IsByte(token_id):
            return bytes([int(piece[3:5], 16)])  # <0x0A>
        return piece.replace(SPACE, " ").encode()

    def _spell(self, name: str) -> list[int]:
        """A name as text, character by character."""
        ids: list[int] = []
        for character in name:
            alone = self._model.PieceToId(character)
            is_known = alone != self._model.unk_id()
            ids += [alone] if is_known else [self._model.PieceToId(f"<0x{byte:02X}>") for byte in character.encode()]
        return ids

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of `text`. SentencePiece puts a space before the first word; `decode` shows it."""
        begin = [self.bos_id] if bos and self.bos_id is not None else []
        return begin + self._ids_of(text) + [self.eos_id] * eos

    def encode_more(self, text: str) -> list[int]:
        return self._ids_of(text, SHIELD)[self._n_shield :]

    def _ids_of(self, text: str, before: str = "") -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(f"character {error.start} is a lone surrogate, {text[error.start]!r}") from None
        pieces: list[int] = self._model.EncodeAsIds(before + text)
        return [token_id for piece in pieces for token_id in self._spelt_out.get(piece, (piece,))]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids as part of a longer text: a leading space stays, since it parts two words there."""
        return b"".join(self.token_bytes(token_id) for token_id in ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise EncodeError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token_id]
