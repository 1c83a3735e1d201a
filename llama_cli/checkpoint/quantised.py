"""Meta's shards as plain weights, whether they are stored so or in one of Meta's quantised formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from ..files.quoting import plain
from ..files.regular_file import Identity
from .checkpoint import PlainShard, Shard
from .pth.archive import Archive, open_archive, plain_dtypes
from .stored.fp8 import Fp8Weights, fp8_dtypes, scale_paths
from .stored.int4 import Int4Weights, int4_dtypes, int4_format
from .unsupported import unnested

DtypesOf = Callable[[str], tuple[str, ...]]  # which dtypes a tensor of a name may have


@dataclass(frozen=True)
class Shards:
    """Opened shards in the order of their ranks."""

    weights: Sequence[Shard]
    identities: Mapping[Path, Identity]  # of every file they read
    is_quantised: bool


def open_shards(folder: Path, params: Mapping[str, Any], paths: Sequence[Path]) -> Shards:
    """Open the shards of a folder behind the gate, which lets further dtypes pass where the format has them."""
    opened: list[Archive] = []

    def gate(path: Path, dtypes_of: DtypesOf = plain_dtypes) -> PlainShard:
        opened.append(open_archive(path, dtypes_of))
        return opened[-1]

    weights, is_quantised = read_shards(folder, params, paths, gate, gate)
    return Shards(weights, {archive.path: archive.identity for archive in opened}, is_quantised)


def read_shards(
    folder: Path,
    params: Mapping[str, Any],
    paths: Sequence[Path],
    open_shard: Callable[[Path, DtypesOf], PlainShard],
    open_scales: Callable[[Path], PlainShard],
) -> tuple[list[Shard], bool]:
    """The shards as plain weights, and whether they are computed from others."""
    form = int4_format(unnested(params))
    scales = scale_paths(folder, len(paths))
    if form is not None:
        if len(paths) > 1 or scales:
            raise ModelRejected(f"{plain(folder)}: int4 checkpoints are one file", "download the model again")
        return [Int4Weights(open_shard(paths[0], int4_dtypes), form)], True
    if scales:
        pairs = zip(paths, scales, strict=True)
        weights = [
            Fp8Weights(open_shard(path, fp8_dtypes), open_scales(scale), rank)
            for rank, (path, scale) in enumerate(pairs)
        ]
        return list(weights), True
    return [open_shard(path, plain_dtypes) for path in paths], False
