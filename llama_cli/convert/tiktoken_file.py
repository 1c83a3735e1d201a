"""A byte-pair vocabulary as GGUF files hold it becomes Meta's tokenizer.model: ranks first, then 256 special tokens.

Tokens get other ids on the way, so the rows of the embedding and of the output matrix move with them:
`input_rows` and `output_rows` say which row of the GGUF each new id reads.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ModelRejected
from ..tokenizer.bpe import N_SPECIAL, NAMED_SPECIAL
from ..tokenizer.byte_pairs import in_order_of_merging, unspell
from ..tokenizer.marks import Cuts, Marks

NORMAL, BYTE = 1, 6  # token types in GGUF; all others are special

# Which token of another vocabulary becomes each of Meta's special tokens: the first of these that it has. One token may
# become two of Meta's. Both then read its row of the embedding, but only the one that comes first here gets its row of
# the output matrix, so the model never predicts the other.
STAND_INS = {
    "<|end_of_text|>": ("<|end_of_text|>", "<|endoftext|>", "</s>"),
    "<|eot_id|>": ("<|eot_id|>", "<|im_end|>"),
    "<|start_header_id|>": ("<|start_header_id|>", "<|im_start|>"),
    "<|eom_id|>": ("<|eom_id|>", "<|im_end|>"),
    "<|python_tag|>": ("<|python_tag|>",),
    "<|image|>": ("<|image|>",),
    "<|step_id|>": ("<|step_id|>",),
    "<|finetune_right_pad_id|>": ("<|finetune_right_pad_id|>", "<|im_end|>"),
    "<|begin_of_text|>": ("<|begin_of_text|>", "<|endoftext|>", "<s>"),
}
HEADER_END = "<|end_header_id|>"
CHATML_START = "<|im_start|>"  # its header ends with a line break, which is no special token
NEWLINE = b"\n"
SPECIAL_PLACES = range(12, N_SPECIAL)  # where Meta's names are reserved ones


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer.model, and for each of its ids the row of the source's matrices; None: the mean of all rows."""

    ranks: list[bytes]
    input_rows: list[int | None]
    output_rows: list[int | None]
    specials: Mapping[str, int]  # the new id of each special token, by the name that it had

    def new_id(self, number: int) -> int | None:
        """The new id of a token; of several, the one that the model predicts. None if the token has none."""
        for rows in (self.output_rows, self.input_rows):
            if number in rows:
                return rows.index(number)
        return None

    def marks(self, stops: Iterable[int], *, adds_bos: bool | None, begin: int | None, cuts: Cuts) -> Marks:
        """What the source says about its tokens; `stops` and `begin` are ids as they were there."""
        ends = frozenset(number for stop in stops if (number := self.new_id(stop)) is not None)
        begin = None if begin is None else self.new_id(begin)
        bos_token = next((name for name, number in self.specials.items() if number == begin), None)
        return Marks(self.specials, ends, adds_bos=adds_bos, bos_token=bos_token if adds_bos else None, cuts=cuts)

    @property
    def is_identity(self) -> bool:
        """Whether every token keeps its id."""
        return self.input_rows == self.output_rows == list(range(len(self.input_rows)))

    def file(self) -> bytes:
        """The content of tokenizer.model."""
        return file_of(self.ranks)


def file_of(ranks: Iterable[bytes]) -> bytes:
    """The content of a tokenizer.model."""
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(ranks))


def make_vocabulary(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str]) -> Vocabulary:
    """Place every token; ModelRejected if Meta's layout cannot hold them."""
    ids = {token: number for number, token in enumerate(tokens)}
    special = [number for number, kind in enumerate(types) if kind not in (NORMAL, BYTE)]
    try:
        normal = {number: unspell(tokens[number]) for number, kind in enumerate(types) if kind in (NORMAL, BYTE)}
        order = in_order_of_merging(normal, [ids[merge.replace(" ", "")] for merge in merges])
    except KeyError as error:
        raise ModelRejected(
            f"the tokenizer has {error.args[0]!r}, which no byte-pair vocabulary of bytes has",
            "give the model's tokenizer.model with --tokenizer",
        ) from None
    ranks = [normal[number] for number in order]
    known = set(ranks)
    ranks += [bytes([byte]) for byte in range(256) if bytes([byte]) not in known]  # tiktoken wants every byte
    if _is_metas(tokens, special, order, ranks):
        rows: list[int | None] = list(range(len(tokens)))
        return Vocabulary(ranks, rows, rows, {tokens[number]: number for number in special})
    missing: list[int | None] = [None] * (len(ranks) - len(order))
    newline = next((number for number, token in normal.items() if token == NEWLINE), None)
    inputs, outputs = _place_special(tokens, special, newline)
    said = {number: len(ranks) + place for place, number in enumerate(outputs) if number is not None}
    specials = {tokens[number]: said[number] for number in special}
    return Vocabulary(ranks, [*order, *missing, *inputs], [*order, *missing, *outputs], specials)


def _is_metas(tokens: Sequence[str], special: list[int], order: list[int], ranks: list[bytes]) -> bool:
    """Whether the special tokens stand behind the ranks in Meta's places already."""
    n_ranks = len(ranks)
    names = {place: name for name, place in NAMED_SPECIAL.items() if name in ("<|begin_of_text|>", "<|eot_id|>")}
    return (
        order == list(range(n_ranks))
        and special == list(range(n_ranks, len(tokens)))
        and len(special) >= N_SPECIAL
        and all(tokens[n_ranks + place] == name for place, name in names.items())
    )


def _place_special(
    tokens: Sequence[str], special: list[int], newline: int | None
) -> tuple[list[int | None], list[int | None]]:
    ids = {tokens[number]: number for number in special}
    inputs: list[int | None] = [None] * N_SPECIAL
    outputs: list[int | None] = [None] * N_SPECIAL
    said: set[int] = set()
    for name, candidates in {HEADER_END: (HEADER_END,), **STAND_INS}.items():
        number = next((ids[candidate] for candidate in candidates if candidate in ids), None)
        if number is not None:
            inputs[NAMED_SPECIAL[name]] = number
            if number not in said:
                outputs[NAMED_SPECIAL[name]] = number
            said.add(number)
    if HEADER_END not in ids and CHATML_START in ids:
        inputs[NAMED_SPECIAL[HEADER_END]] = newline
    others = [number for number in special if number not in said]
    n_behind = max(len(others) - len(SPECIAL_PLACES), 0)  # of Meta's 256
    inputs += [None] * n_behind
    outputs += [None] * n_behind
    for place, number in zip(range(SPECIAL_PLACES.start, len(inputs)), others, strict=False):
        inputs[place] = outputs[place] = number
    return inputs, outputs
