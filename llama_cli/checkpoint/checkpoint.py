"""A model folder as named weights in Meta's vocabulary, whatever the files are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelRejected
from ..files.pages import drop_pages, trim_heap
from ..files.quoting import plain, quote
from ..files.regular_file import Identity, ensure_unchanged
from ..model.args import ModelArgs
from ..model.quantized import Weight
from ..model.weights import EMBEDDING, LLAMA_LAYER, OUTPUT, weight_shapes
from ..options import Quantization
from . import spare_rows
from .headers import Headers
from .huggingface import metas_rows
from .keys import tied
from .pth.shards import shard_name
from .reshard import Part, Shape, Slice, read_slice, split_dimension
from .shard import Shard
from .spare_rows import n_trained
from .stored.doubled_heads import is_doubled, read_once
from .stored.quantized import QuantizedWeights
from .stored.row_blocks import ComputedMatrix
from .unsupported import unnested

FIRST_MATRIX = LLAMA_LAYER[0].in_layer(0)
AT_MOST = 5  # names in one message


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose weights can be read: its headers, and the shards that they describe. Nothing is read yet."""

    headers: Headers
    shards: Sequence[Shard]
    identities: Mapping[Path, Identity]  # of every file that the weights are read or computed from
    mmap: bool = True

    @property
    def folder(self) -> Path:
        return self.headers.folder

    @property
    def params(self) -> Mapping[str, Any]:
        """params.json's object, or config.json's in its words."""
        return self.headers.params

    @property
    def params_name(self) -> str:
        return self.headers.params_name

    @property
    def tokenizer(self) -> Path | None:
        return self.headers.tokenizer

    @property
    def quantization(self) -> Quantization | None:
        """To which `convert` has quantized the linear layers."""
        return self.headers.quantization

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, whichever way it is split."""
        return self.headers.vocab_size

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding."""
        return self.headers.is_tied

    def spare_rows(self, begin: int, end: int) -> list[bytes]:
        """Rows of the embedding behind the tokenizer's, as they are stored."""
        return self.headers.spare_rows(begin, end)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with the weights."""
        return tuple(self.identities)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most of the weights have as they are read."""
        dtype: torch.dtype = getattr(torch, self.headers.dtype)
        return dtype

    def _shapes(self, name: str) -> list[Shape]:
        """The shape of a tensor in every shard that has it."""
        return [shard.shape(name) for shard in self.shards if name in shard.names()]

    def _stored_shape(self, name: str, shape: Shape) -> Shape:
        """The whole shape as stored: the embedding and the output matrix may be padded with rows that nobody uses."""
        if name not in (EMBEDDING, OUTPUT):
            return shape
        shapes = self._shapes(name)
        is_split_on_columns = len(shapes) > 1 and shapes[0][1:] != shape[1:]
        rows = shapes[0][0] if is_split_on_columns else sum(each[0] for each in shapes)
        return (max(rows, shape[0]), *shape[1:])

    def check(self, args: ModelArgs) -> None:
        """Compare names, shapes and dtypes with what `args` asks for; ModelRejected says what is off."""
        expected = weight_shapes(args)
        if self.headers.has_doubled_heads:
            expected |= {name: (2 * shape[0], shape[1]) for name, shape in expected.items() if is_doubled(name)}
        self._check_count(expected)
        for number, shard in enumerate(self.shards):
            self._check_names(shard, expected, self._where(number))
        for name, whole in expected.items():
            if name in self.shards[0].names():
                self._check_tensor(name, whole)
        self._check_tied()

    def _where(self, number: int) -> str:
        return plain(self.folder.name) + (f", shard {number:02d}" if len(self.shards) > 1 else "") + ": "

    def _check_tied(self) -> None:
        """What the settings say about the output matrix must be so."""
        said = tied(unnested(self.params))
        if said is None or said == self.is_tied:
            return
        if not said and OUTPUT not in self.shards[0].names():
            raise ModelRejected(
                f"{plain(self.folder)}: {OUTPUT} is missing, and {self.params_name} says that it is not the embedding",
                "finish the download, or take that key out if the model is tied",
            )
        if said and not self._is_twice():
            raise ModelRejected(
                f"{plain(self.folder)}: {self.params_name} says that {OUTPUT} is the embedding, and they differ",
                "take that key out if the model is not tied",
            )

    def _is_twice(self) -> bool:
        pairs = [(shard.tensor(EMBEDDING), shard.tensor(OUTPUT)) for shard in self.shards]
        return all(isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b) for a, b in pairs)

    def _check_count(self, expected: Mapping[str, Shape]) -> None:
        """Shards missing at the end leave no gap in the names; the size of a part tells how many there are."""
        whole, part = expected[FIRST_MATRIX], self.headers.require(FIRST_MATRIX, 2)
        n_here = len(self.shards)
        if part[1] == whole[1] and part[0] > 0 and whole[0] % part[0] == 0 and whole[0] // part[0] > n_here:
            n_shards = whole[0] // part[0]
            raise ModelRejected(
                f"{plain(self.folder)}: shard {n_here:02d} of {n_shards} is missing: {FIRST_MATRIX} has shape {part},"
                f" a part in {n_shards} of {whole}",
                f"download {shard_name(n_here)}, or see whether {self.params_name} belongs to the weights",
            )

    def _check_names(self, shard: Shard, expected: Mapping[str, Shape], where: str) -> None:
        names = set(shard.names())
        optional = set() if OUTPUT in self.shards[0].names() else {OUTPUT}
        missing = [name for name in expected if name not in names | optional]
        unexpected = sorted(names - (expected.keys() - optional))
        lists = [_list_names("missing", missing), _list_names("unexpected", unexpected)]
        if missing or unexpected:
            raise ModelRejected(where + "; ".join(filter(None, lists)), f"does {self.params_name} belong to it?")

    def _check_tensor(self, name: str, whole: Shape) -> None:
        shapes = [shard.shape(name) for shard in self.shards]
        stored = self._stored_shape(name, whole) if all(len(shape) == len(whole) for shape in shapes) else whole
        try:
            dim = split_dimension(stored, shapes)
        except ValueError:
            raise self._misfit(name, whole) from None
        if stored != whole and not self._is_padded(name, whole, stored):
            raise self._misfit(name, whole) if len(shapes) > 1 else self._surplus(name, whole, stored)
        if dim is None:
            self._check_copies(name)

    def _misfit(self, name: str, whole: Shape) -> ModelRejected:
        """The refusal that names the first shard whose part does not fit."""
        shapes, n_shards = self._shapes(name), len(self.shards)
        hint = f"does {self.params_name} belong to it?"
        for number, shape in enumerate(shapes):
            try:
                split_dimension(whole, [shape] * n_shards)
            except ValueError:
                share = "" if n_shards == 1 else f"a part in {n_shards} of "
                return ModelRejected(f"{self._where(number)}{name} has shape {shape}, must be {share}{whole}", hint)
        number = next(number for number, shape in enumerate(shapes) if shape != shapes[0])
        return ModelRejected(f"{self._where(number)}{name} has shape {shapes[number]}, in shard 00 {shapes[0]}", hint)

    def _is_padded(self, name: str, whole: Shape, stored: Shape) -> bool:
        """Whether rows behind the vocabulary's are what programs pad with: zeros, or all equal."""
        (n_rows, _), n_known = stored, whole[0]
        if n_rows - n_known > spare_rows.MOST:
            return False
        parts = [shard.tensor(name) for shard in self.shards]
        return not n_trained(bytes_of_rows(read_slice(parts, stored, 0, n_known, n_rows)))

    def _surplus(self, name: str, whole: Shape, stored: Shape) -> ModelRejected:
        return ModelRejected(
            f"{plain(self.folder.name)}: {name} has shape {stored}, must be {whole}; the rows more are no padding",
            f'"vocab_size": {stored[0]} in {self.params_name}, if they belong to tokens that were added',
        )

    def _check_copies(self, name: str) -> None:
        first, *others = (shard.tensor(name) for shard in self.shards)
        for number, other in enumerate(others, 1):
            if not _same_bytes(other, first):
                raise ModelRejected(
                    f"{self._where(number)}{name} differs from shard 00's: these are parts of two models",
                    "download all shards again, from one place",
                )

    def tensors(self, args: ModelArgs, part: Part | None = None) -> Iterator[tuple[str, Tensor]]:
        """Tensors in the order of `weight_shapes(args)`, one at a time, after `check`; a tied output is left out.

        `part` says which slice of each is wanted, and only that is read. A tensor that one file holds in one
        run stays mapped from it: nothing is copied, unless the checkpoint was opened with `mmap=False`.
        """
        for name, shape, wanted in self._wanted(args, part):
            yield name, self.read(name, shape, wanted, head_dim=args.head_dim)

    def stored(self, args: ModelArgs, part: Part | None = None) -> Iterator[tuple[str, Weight]]:
        """As `tensors`, but matrices that are quantized in the files stay quantized."""
        for name, shape, wanted in self._wanted(args, part):
            yield name, self.read_stored(name, shape, wanted, head_dim=args.head_dim)

    def _wanted(self, args: ModelArgs, part: Part | None) -> Iterator[tuple[str, Shape, Slice]]:
        is_tied = self.is_tied
        for name, shape in weight_shapes(args).items():
            if name != OUTPUT or not is_tied:
                yield name, shape, (part and part(name, shape)) or Slice(0, 0, shape[0])

    def read(self, name: str, shape: Shape, wanted: Slice, *, head_dim: int) -> Tensor:
        """One slice of the tensor whose whole shape is `shape`, as `tensors` gives it."""
        stored = [shard.tensor(name) for shard in self.shards]
        if self.headers.has_doubled_heads and is_doubled(name):
            return read_once(name, stored, shape, wanted, head_dim)
        tensor = read_slice(stored, self._stored_shape(name, shape), *wanted)
        if wanted.dim and len(tensor) > shape[0]:
            tensor = tensor[: shape[0]]  # without the padding
        if self.headers.format == "huggingface":
            tensor = metas_rows(name, tensor, head_dim)
        in_file = {source.untyped_storage().data_ptr() for source in stored if isinstance(source, Tensor)}
        is_mapped = tensor.untyped_storage().data_ptr() in in_file
        return tensor.clone() if is_mapped and not self.mmap else tensor

    def read_stored(self, name: str, shape: Shape, wanted: Slice, *, head_dim: int) -> Weight:
        """One slice as `stored` gives it: quantized as in the files, but dequantized where it would cut a group."""
        (shard, *_) = self.shards
        quantized = shard.quantized(name) if isinstance(shard, QuantizedWeights) else None
        dim, begin, end = wanted
        part = quantized and quantized.narrow(dim, begin, end - begin)
        return self.read(name, shape, wanted, head_dim=head_dim) if part is None else part

    def drop_pages(self) -> None:
        """Give back the memory of what has been read of the files and freed; tensors that are mapped read it again."""
        drop_pages(self.files)
        trim_heap()

    def ensure_unchanged(self) -> None:
        """ModelRejected if a file is not the one that was opened."""
        for path, identity in self.identities.items():
            ensure_unchanged(path, identity)


def _list_names(what: str, names: list[str]) -> str:
    shown = ", ".join(quote(name) for name in names[:AT_MOST])
    more = f" and {len(names) - AT_MOST} more" if len(names) > AT_MOST else ""
    return f"{what}: {shown}{more}" if names else ""


def bytes_of_rows(rows: Tensor) -> list[bytes]:
    """Each row as it is stored."""
    return [row.tobytes() for row in rows.contiguous().view(torch.uint8).numpy()]


def _same_bytes(a: Tensor | ComputedMatrix, b: Tensor | ComputedMatrix) -> bool:
    """Equality that holds for NaN too."""
    assert isinstance(a, Tensor), "norms are stored as they are"
    assert isinstance(b, Tensor), "norms are stored as they are"
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
