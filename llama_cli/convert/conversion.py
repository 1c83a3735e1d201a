"""Streams a model from one form into another, checks what was written, and puts it in place at the end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import OutputFailed
from ..files.new_folder import check_space, new_folder
from ..model.args import ModelArgs, Shape
from ..model.quantized import Weight
from ..model.weights import EMBEDDING, OUTPUT
from .outputs import Output, Target, open_output
from .params_json import resolved
from .small_files import write_small_files
from .source import Source, open_folder
from .split import check_split
from .tensor_file import bytes_of
from .values import Values

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
    values = Values.of(source, target)
    check_split(source.args, target.n_shards, source.embedding_dim)
    n_bytes, n_small = values.n_bytes, sum(map(len, source.small_files.values()))
    with new_folder(folder, replace=replace) as partial:
        check_space(folder.resolve().parent, n_bytes + n_small + ROOM_FOR_REST)
        write_small_files(partial, source, target.form, values.dtype, target.quantization)
        output = open_output(partial, values.shapes, target, values.dtype, source, values.quantizations)
        progress.begin("writing", n_bytes)
        checksums = _write(source, values, output, progress)
        source.ensure_unchanged()
        progress.begin("checking", n_bytes)
        _check(partial, source, values, checksums, progress)
    return n_bytes


def _write(source: Source, values: Values, output: Output, progress: Progress) -> dict[tuple[str, int], int]:
    """Fill `output`; returns the CRC-32 of each block by its tensor and first row."""
    checksums = {}
    for name, begin, end in blocks(source.args, values.shapes):
        stored_name = EMBEDDING if name == OUTPUT and source.is_tied else name
        weight = values.convert(name, source.rows(stored_name, begin, end))
        checksums[name, begin] = _checksum(weight)
        output.append(name, weight)
        progress.advance(_n_bytes(weight))
    output.close()
    return checksums


def _check(
    folder: Path,
    source: Source,
    values: Values,
    checksums: Mapping[tuple[str, int], int],
    progress: Progress,
) -> None:
    """Open what was written as any model, and compare all of it with what was read, or quantized."""
    written = open_folder(folder)
    assert resolved(written.args) == resolved(source.args), "the settings mean the same"
    assert written.is_tied == (OUTPUT not in values.shapes), "the output matrix is shared or not"
    for name, begin, end in blocks(source.args, values.shapes):
        weight = written.stored_rows(name, begin, end)
        if _checksum(weight) != checksums[name, begin]:
            raise OutputFailed(
                f"{folder.parent}: {name} reads back otherwise than it was written", "the disk or the memory is failing"
            )
        progress.advance(_n_bytes(weight))


def _checksum(weight: Weight) -> int:
    """The CRC-32 of a block."""
    if isinstance(weight, Tensor):
        return zlib.crc32(bytes_of(weight))
    return zlib.crc32(bytes_of(weight.scales), zlib.crc32(bytes_of(weight.values)))


def _n_bytes(weight: Weight) -> int:
    return weight.nbytes if isinstance(weight, Tensor) else weight.values.nbytes + weight.scales.nbytes


def blocks(args: ModelArgs, weights: Mapping[str, Shape]) -> Iterator[tuple[str, int, int]]:
    """Every tensor in runs of rows, small and in whole heads: name, first row, row behind the last."""
    for name, shape in weights.items():
        per_row = torch.Size(shape[1:]).numel() * torch.float32.itemsize
        step = max(BLOCK_BYTES // per_row // args.head_dim, 1) * args.head_dim
        for begin in range(0, shape[0], step):
            yield name, begin, min(begin + step, shape[0])
