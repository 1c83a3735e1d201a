"""A model folder as named weights in Meta's vocabulary, whatever the files are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ModelRejected
from ..model.args import ModelArgs
from .regular_file import Identity, ensure_unchanged
from .reshard import merge, split_dimension

EMBEDDING, OUTPUT, LAST_NORM = "tok_embeddings.weight", "output.weight", "norm.weight"
AT_MOST = 5  # names in one message


class Shard(Protocol):
    """Tensors by Meta's name. Only `tensor` may read the file."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder. Nothing of the weights has been read yet."""

    folder: Path
    params: Mapping[str, Any]  # params.json's object
    params_name: str  # the file it came from
    tokenizer: Path | None
    shards: Sequence[Shard]
    files: Mapping[Path, Identity]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the weights are stored in."""
        return self.shards[0].dtype(EMBEDDING)

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights as stored."""
        return sum(
            prod(shard.shape(name)) * shard.dtype(name).itemsize for shard in self.shards for name in shard.names()
        )

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, whichever way it is split; the last norm tells the model's width."""
        for name in (EMBEDDING, LAST_NORM):
            if name not in self.shards[0].names():
                raise ModelRejected(
                    f"{self.folder}: {name} is missing", "this is no Llama checkpoint, or a damaged one"
                )
        shape, dim = self.shards[0].shape(EMBEDDING), self.shards[0].shape(LAST_NORM)[-1]
        split_on_rows = len(self.shards) > 1 and shape[-1] == dim
        return shape[0] * len(self.shards) if split_on_rows else shape[0]

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding: left out of the file, or sharing its storage."""
        if OUTPUT not in self.shards[0].names():
            return True
        pairs = [(shard.tensor(EMBEDDING), shard.tensor(OUTPUT)) for shard in self.shards]
        return all(a.data_ptr() == b.data_ptr() and a.shape == b.shape for a, b in pairs)

    def check(self, args: ModelArgs) -> None:
        """Compare names, shapes and dtypes with what `args` asks for; ModelRejected says what is off."""
        expected = args.weight_shapes()
        for number, shard in enumerate(self.shards):
            where = f"{self.folder.name}: " if len(self.shards) == 1 else f"{self.folder.name}, shard {number:02d}: "
            names = set(shard.names())
            missing = [name for name in expected if name not in names and name != OUTPUT]
            unexpected = sorted(names - expected.keys())
            if missing or unexpected:
                lists = [_listed("missing", missing), _listed("unexpected", unexpected)]
                raise ModelRejected(where + "; ".join(filter(None, lists)), f"does {self.params_name} belong to it?")
            self._check_tensors(shard, expected, where)

    def _check_tensors(self, shard: Shard, expected: Mapping[str, tuple[int, ...]], where: str) -> None:
        for name in shard.names():
            shape, whole = shard.shape(name), expected[name]
            try:
                dim = split_dimension(whole, shape, len(self.shards))
            except ValueError:
                share = "" if len(self.shards) == 1 else f"a part in {len(self.shards)} of "
                raise ModelRejected(
                    f"{where}{name} has shape {shape}, must be {share}{whole}",
                    f"does {self.params_name} belong to it?",
                ) from None
            first = self.shards[0]
            if shard.dtype(name) != self.dtype:
                raise ModelRejected(f"{where}{name} is {_name(shard.dtype(name))}, the rest {_name(self.dtype)}")
            if shard.shape(name) != first.shape(name):
                raise ModelRejected(f"{where}{name} has shape {shape}, in shard 00 {first.shape(name)}")
            if dim is None and shard is not first and not torch.equal(shard.tensor(name), first.tensor(name)):
                raise ModelRejected(f"{where}{name} differs from shard 00's: these are parts of two models")

    def tensors(self, args: ModelArgs) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors, one at a time, in the order of `args.weight_shapes()`; a tied output is left out.

        A tensor that one file holds alone stays mapped from it: nothing is copied.
        """
        for name, shape in args.weight_shapes().items():
            if name == OUTPUT and self.is_tied:
                continue
            yield name, merge([shard.tensor(name) for shard in self.shards], shape)

    def ensure_unchanged(self) -> None:
        """ModelRejected if a file is not the one that was opened."""
        for path, identity in self.files.items():
            ensure_unchanged(path, identity)


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in islice(names, AT_MOST))
    more = f" and {len(names) - AT_MOST} more" if len(names) > AT_MOST else ""
    return f"{what}: {shown}{more}" if names else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
