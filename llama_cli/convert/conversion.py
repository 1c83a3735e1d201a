"""Streams a model from one form into another, checks what was written, and puts it in place at the end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoint.meta import shard_name
from ..errors import NumericalError, OutputFailed
from ..model.args import ModelArgs
from .folder import check_space, new_folder
from .huggingface import their_name, their_rows
from .params_json import resolved
from .small_files import write_small_files
from .source import Format, Source, open_folder
from .split import EMBEDDING, check_split, split_dim
from .tensor_file import bytes_of
from .writer_pth import PthFile
from .writer_safetensors import SafetensorsSet

Shape = tuple[int, ...]

OUTPUT = "output.weight"
BLOCK_BYTES = 32 << 20  # of a tensor at a time
ROOM_FOR_REST = 1 << 20  # headers, params.json


class Progress(Protocol):
    """Told how far it is."""

    def begin(self, what: str, n_bytes: int) -> None: ...

    def advance(self, n_bytes: int) -> None: ...


class Output(Protocol):
    """Files that take a model in Meta's vocabulary, each tensor from its first row to its last."""

    def append(self, name: str, rows: Tensor) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Target:
    """The form to convert into."""

    form: Format = "pth"
    n_shards: int = 1
    dtype: torch.dtype | None = None  # None: as it is


def convert(source: Source, folder: Path, target: Target, progress: Progress, *, replace: bool = False) -> int:
    """Write `source` as `target` into a new `folder`; returns the bytes of its weights.

    At any moment there is the whole folder or none of that name. LlamaError says what is in the way.
    """
    args, dtype = source.args, target.dtype or source.dtype
    check_split(args, target.n_shards, source.embedding_dim)
    weights = {name: shape for name, shape in args.weight_shapes().items() if name != OUTPUT or not source.is_tied}
    n_bytes = sum(_size(shape, dtype) for shape in weights.values())
    n_small = sum(map(len, source.small_files.values()))
    with new_folder(folder, replace=replace) as partial:
        check_space(partial, n_bytes + n_small + ROOM_FOR_REST)
        write_small_files(partial, source, target.form, dtype)
        output = _open_output(partial, weights, target, dtype, source)
        progress.begin("writing", n_bytes)
        checksums = _write(source, weights, output, dtype, progress)
        source.ensure_unchanged()
        progress.begin("checking", n_bytes)
        _check(partial, source, weights, checksums, progress)
    return n_bytes


def _open_output(
    folder: Path, weights: Mapping[str, Shape], target: Target, dtype: torch.dtype, source: Source
) -> Output:
    if target.form == "pth":
        return ShardedOutput(folder, weights, dtype, target.n_shards, source.embedding_dim, tied=source.is_tied)
    if target.form == "hf":
        return HuggingFaceOutput(folder, weights, dtype, source.args.head_dim)
    return SafetensorsSet(folder, "consolidated", weights, dtype)


class ShardedOutput:
    """consolidated.00.pth and so on, each with its part of every tensor."""

    def __init__(
        self,
        folder: Path,
        weights: Mapping[str, Shape],
        dtype: torch.dtype,
        n_shards: int,
        embedding_dim: int,
        *,
        tied: bool,
    ) -> None:
        self._dims = {name: split_dim(name, embedding_dim) for name in weights}
        self._weights = weights
        self._filled = dict.fromkeys(weights, 0)
        parts = {name: _divided(shape, self._dims[name], n_shards) for name, shape in weights.items()}
        # Meta's code wants the output by its name; where both matrices are split alike, it is the embedding.
        shared = {OUTPUT: EMBEDDING} if tied and parts[EMBEDDING][0] * n_shards == weights[EMBEDDING][0] else {}
        self._shards = [PthFile(folder / shard_name(rank), parts, dtype, shared) for rank in range(n_shards)]

    def append(self, name: str, rows: Tensor) -> None:
        begin = self._filled[name]
        self._filled[name] += len(rows)
        dim, n_shards = self._dims[name], len(self._shards)
        each = None if dim is None else self._weights[name][dim] // n_shards
        for rank, shard in enumerate(self._shards):
            if each is None:
                shard.append(name, rows)
            elif dim == 1:
                shard.append(name, rows.narrow(1, rank * each, each))
            else:
                first, last = max(rank * each - begin, 0), min((rank + 1) * each - begin, len(rows))
                if first < last:
                    shard.append(name, rows[first:last])

    def close(self) -> None:
        for shard in self._shards:
            shard.close()


class HuggingFaceOutput:
    """model.safetensors with Hugging Face's names and order of rows."""

    def __init__(self, folder: Path, weights: Mapping[str, Shape], dtype: torch.dtype, head_dim: int) -> None:
        self._files = SafetensorsSet(folder, "model", {their_name(name): weights[name] for name in weights}, dtype)
        self._head_dim = head_dim

    def append(self, name: str, rows: Tensor) -> None:
        self._files.append(their_name(name), their_rows(name, rows, self._head_dim))

    def close(self) -> None:
        self._files.close()


def _write(
    source: Source, weights: Mapping[str, Shape], output: Output, dtype: torch.dtype, progress: Progress
) -> dict[tuple[str, int], int]:
    """Fill `output`; returns the CRC-32 of each block by its tensor and first row."""
    checksums = {}
    for name, begin, end in blocks(source.args, weights):
        rows = _as_dtype(name, source.rows(name, begin, end), dtype)
        checksums[name, begin] = zlib.crc32(bytes_of(rows))
        output.append(name, rows)
        progress.advance(rows.nbytes)
    output.close()
    return checksums


def _check(
    folder: Path,
    source: Source,
    weights: Mapping[str, Shape],
    checksums: Mapping[tuple[str, int], int],
    progress: Progress,
) -> None:
    """Open what was written as any model, and compare all of it with what was read."""
    written = open_folder(folder)
    assert resolved(written.args) == resolved(source.args), "the settings mean the same"
    assert written.is_tied == source.is_tied, "the output matrix is shared or not"
    for name, begin, end in blocks(source.args, weights):
        rows = written.rows(name, begin, end)
        if zlib.crc32(bytes_of(rows)) != checksums[name, begin]:
            raise OutputFailed(
                f"{folder.parent}: {name} reads back otherwise than it was written", "the disk or the memory is failing"
            )
        progress.advance(rows.nbytes)


def blocks(args: ModelArgs, weights: Mapping[str, Shape]) -> Iterator[tuple[str, int, int]]:
    """Every tensor in runs of rows, small and in whole heads: name, first row, row behind the last."""
    for name, shape in weights.items():
        per_row = _size(shape[1:], torch.float32)
        step = max(BLOCK_BYTES // per_row // args.head_dim, 1) * args.head_dim
        for begin in range(0, shape[0], step):
            yield name, begin, min(begin + step, shape[0])


def _as_dtype(name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    converted = rows.to(dtype)
    if dtype == torch.float16 and rows.dtype != dtype and not torch.equal(converted.isfinite(), rows.isfinite()):
        raise NumericalError(f"{name} has values beyond float16's 65,504", "--dtype bf16")
    return converted


def _divided(shape: Shape, dim: int | None, n_shards: int) -> Shape:
    return tuple(size // n_shards if number == dim else size for number, size in enumerate(shape))


def _size(shape: Shape, dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
