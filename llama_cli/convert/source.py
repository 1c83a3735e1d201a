"""What is converted: any model, read a block of rows at a time, in Meta's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..checkpoint import Checkpoint, Slice, open_checkpoint
from ..checkpoint.installed import model_name
from ..checkpoint.tokenizer_marks import read_marks
from ..checkpoint.unsupported import unnested
from ..files.regular_file import read_small
from ..model.args import ModelArgs
from ..model.quantized import Weight
from ..model.weights import EMBEDDING, weight_shapes
from ..options import Quantization
from ..tokenizer import TokenizerError
from ..tokenizer.loader import SENTENCEPIECE_BEGINNING, kind_of
from ..tokenizer.marks import Marks

Format = Literal["pth", "safetensors", "hf"]

MAX_TOKENIZER_BYTES = 64 << 20

# What lies beside the weights in Hugging Face's folders, for programs that need it.
THEIR_SMALL_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "generation_config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


class Source(Protocol):
    """A model that can be read piece by piece, more than once."""

    @property
    def args(self) -> ModelArgs: ...

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in, or would best be."""

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding; `rows` is not asked for it then."""

    @property
    def quantization(self) -> Quantization | None:
        """To which `convert` has quantized its linear layers before."""

    @property
    def embedding_dim(self) -> int:
        """The dimension on which the family's shards split the embedding."""

    @property
    def small_files(self) -> Mapping[str, bytes]:
        """Settings and tokenizer by the names that they have beside weights."""

    @property
    def name(self) -> str:
        """The model's."""

    @property
    def marks(self) -> Marks:
        """What its files say about its tokens."""

    @property
    def template(self) -> str | None:
        """Its chat template: a name, or a text of Hugging Face's."""

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """Rows [begin, end) of a tensor of `weight_shapes(args)`, in memory of their own; whole heads of wq and wk.

        Their dtype is the source's own, or float32 where values are computed.
        """

    def ensure_unchanged(self) -> None:
        """ModelRejected if a file is not the one that was opened."""


@dataclass(frozen=True)
class FolderSource:
    """A model folder that open_checkpoint reads."""

    checkpoint: Checkpoint
    args: ModelArgs
    small_files: Mapping[str, bytes]

    @property
    def name(self) -> str:
        return model_name(self.checkpoint.folder)

    @cached_property
    def marks(self) -> Marks:
        return read_marks(self.checkpoint.folder)

    @property
    def template(self) -> str | None:
        named = unnested(self.checkpoint.params).get("chat_template")
        return named if isinstance(named, str) else None

    @property
    def dtype(self) -> torch.dtype:
        return self.checkpoint.dtype

    @property
    def is_tied(self) -> bool:
        return self.checkpoint.is_tied

    @property
    def quantization(self) -> Quantization | None:
        return self.checkpoint.quantization

    @property
    def embedding_dim(self) -> int:
        """As it is split; where it is not, Llama 2 (known by its tokenizer) splits the width."""
        shards = self.checkpoint.shards
        if len(shards) > 1:
            return int(shards[0].shape(EMBEDDING)[1] != self.args.dim)
        return int(self.checkpoint.headers.is_sentencepiece)

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        shape = weight_shapes(self.args)[name]
        block = self.checkpoint.read(name, shape, Slice(0, begin, end), head_dim=self.args.head_dim)
        self.checkpoint.drop_pages()
        return block

    def stored_rows(self, name: str, begin: int, end: int) -> Weight:
        """The same as the files have them: quantized, if they are."""
        shape = weight_shapes(self.args)[name]
        self.checkpoint.drop_pages()  # of the rows before, which are mapped
        return self.checkpoint.read_stored(name, shape, Slice(0, begin, end), head_dim=self.args.head_dim)

    def ensure_unchanged(self) -> None:
        self.checkpoint.ensure_unchanged()


def open_folder(path: str | Path, tokenizer: Path | None = None) -> FolderSource:
    """Open a model folder of any kind and check it; ModelRejected says what is wrong with it."""
    checkpoint = open_checkpoint(path, tokenizer=tokenizer, mmap=False)  # so that blocks are copies
    found = _small_files(checkpoint)
    args = checkpoint.headers.configuration().args
    checkpoint.check(args)
    return FolderSource(checkpoint, args, found)


def is_sentencepiece(small_files: Mapping[str, bytes]) -> bool:
    """Whether the tokenizer is Llama 2's."""
    return small_files.get("tokenizer.model", b"").startswith(SENTENCEPIECE_BEGINNING)


def _small_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    settings = checkpoint.folder / checkpoint.params_name
    found = {checkpoint.params_name: read_small(settings, 1 << 20)}
    if checkpoint.tokenizer is not None:
        found[tokenizer_name(checkpoint.tokenizer)] = read_small(checkpoint.tokenizer, MAX_TOKENIZER_BYTES)
    if checkpoint.params_name == "config.json":
        there = [checkpoint.folder / name for name in THEIR_SMALL_FILES if (checkpoint.folder / name).exists()]
        found |= {path.name: read_small(path, MAX_TOKENIZER_BYTES) for path in there}
    return found


def tokenizer_name(path: Path) -> str:
    """The name under which a model folder has such a tokenizer."""
    try:
        kind = kind_of(path)
    except TokenizerError:
        kind = "tiktoken"
    return {"char": "chars.json", "tokenizer.json": "tokenizer.json"}.get(kind, "tokenizer.model")
