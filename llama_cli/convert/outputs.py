"""The forms that a model can be written in: each takes its tensors in Meta's vocabulary, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoint.huggingface import NAMES
from ..checkpoint.pth.shards import shard_name
from ..checkpoint.stored.quantized import scales_of
from ..model.quantized import GROUP, Weight, in_full
from ..model.weights import EMBEDDING, OUTPUT
from ..options import Quantization
from .huggingface import their_rows
from .source import Format, Source
from .split import split_dim
from .writer_pth import PthFile
from .writer_safetensors import Blank, SafetensorsSet

Shape = tuple[int, ...]


class Output(Protocol):
    """Files that take a model in Meta's vocabulary, each tensor from its first row to its last."""

    def append(self, name: str, rows: Weight) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Target:
    """The form to convert into."""

    form: Format = "pth"
    n_shards: int = 1
    dtype: torch.dtype | None = None  # None: as it is
    quantization: Quantization | None = None  # of linear layers; the form is safetensors then


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

    def append(self, name: str, rows: Weight) -> None:
        rows = in_full(rows)
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
        tensors = {NAMES.theirs_of(name): Blank(shape, dtype) for name, shape in weights.items()}
        self._files = SafetensorsSet(folder, "model", tensors)
        self._head_dim = head_dim

    def append(self, name: str, rows: Weight) -> None:
        self._files.append(NAMES.theirs_of(name), their_rows(name, in_full(rows), self._head_dim))

    def close(self) -> None:
        self._files.close()


class SafetensorsOutput:
    """consolidated.safetensors with Meta's names; beside quantized matrices lie their scales."""

    def __init__(
        self, folder: Path, weights: Mapping[str, Shape], dtype: torch.dtype, quantizations: Mapping[str, Quantization]
    ) -> None:
        tensors: dict[str, Blank] = {}
        for name, shape in weights.items():
            tensors |= stored_as(name, shape, dtype, quantizations.get(name))
        self._files = SafetensorsSet(folder, "consolidated", tensors)

    def append(self, name: str, rows: Weight) -> None:
        if isinstance(rows, Tensor):
            self._files.append(name, rows)
        else:
            self._files.append(name, rows.values)
            self._files.append(scales_of(name), rows.scales)

    def close(self) -> None:
        self._files.close()


def stored_as(name: str, shape: Shape, dtype: torch.dtype, quantization: Quantization | None) -> dict[str, Blank]:
    """The tensors that hold a weight, as checkpoint/stored/quantized.py reads them."""
    if quantization is None:
        return {name: Blank(shape, dtype)}
    n_out, n_in = shape
    if quantization == "int8":
        return {name: Blank(shape, torch.int8), scales_of(name): Blank((n_out,), torch.float32)}
    scales = Blank((n_out, n_in // GROUP, 2), torch.bfloat16)
    return {name: Blank((n_out, n_in // 2), torch.uint8), scales_of(name): scales}


def open_output(
    folder: Path,
    weights: Mapping[str, Shape],
    target: Target,
    dtype: torch.dtype,
    source: Source,
    quantizations: Mapping[str, Quantization],
) -> Output:
    if target.form == "pth":
        return ShardedOutput(folder, weights, dtype, target.n_shards, source.embedding_dim, tied=source.is_tied)
    if target.form == "hf":
        return HuggingFaceOutput(folder, weights, dtype, source.args.head_dim)
    return SafetensorsOutput(folder, weights, dtype, quantizations)


def _divided(shape: Shape, dim: int | None, n_shards: int) -> Shape:
    return tuple(size // n_shards if number == dim else size for number, size in enumerate(shape))
