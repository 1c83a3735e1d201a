"""Streams a model from one form into another, checks what was written, and puts it in place at the end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import NumericalError, OutputFailed
from ..model.args import ModelArgs
from .folder import check_space, new_folder
from .outputs import Output, Target, open_output
from .params_json import resolved
from .small_files import write_small_files
from .source import Source, open_folder
from .split import OUTPUT, check_split
from .tensor_file import bytes_of

Shape = tuple[int, ...]

BLOCK_BYTES = 32 << 20  # of a tensor at a time
ROOM_FOR_REST = 1 << 20  # headers, params.json


class Progress(Protocol):
    """Told how far it is."""

    def begin(self, what: str, n_bytes: int) -> None: ...

    def advance(self, n_bytes: int) -> None: ...


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
        output = open_output(partial, weights, target, dtype, source)
        progress.begin("writing", n_bytes)
        checksums = _write(source, weights, output, dtype, progress)
        source.ensure_unchanged()
        progress.begin("checking", n_bytes)
        _check(partial, source, weights, checksums, progress)
    return n_bytes


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


def _size(shape: Shape, dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
