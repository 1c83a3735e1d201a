"""Meta's shards as plain weights, whether they are stored so or in one of Meta's quantized formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from ..files.quoting import plain
from ..files.regular_file import Identity
from .pth.archive import Archive, open_archives, plain_dtypes
from .shard import Shard
from .stored.fp8 import Fp8Weights, fp8_dtypes, scale_paths
from .stored.int4 import Int4Weights, int4_dtypes, int4_format
from .unsupported import unnested


@dataclass(frozen=True)
class Shards:
    """Opened shards in the order of their ranks."""

    weights: Sequence[Shard]
    identities: Mapping[Path, Identity]  # of every file they read


def plain_shards(folder: Path, params: Mapping[str, Any], archives: Sequence[Archive]) -> Shards:
    """The shards of a folder as plain weights; those of Meta's formats are computed from what is stored."""
    form, scale_files = int4_format(unnested(params)), scale_paths(folder, len(archives))
    if form is not None and (len(archives) > 1 or scale_files):
        raise ModelRejected(f"{plain(folder)}: int4 checkpoints are one file", "download the model again")
    for archive in archives:
        archive.require_dtypes(int4_dtypes if form else fp8_dtypes if scale_files else plain_dtypes)
    scales = open_archives(scale_files)
    for archive in scales:
        archive.require_dtypes(plain_dtypes)
    weights: list[Shard] = list(archives)
    if form is not None:
        weights = [Int4Weights(archives[0], form)]
    elif scales:
        pairs = list(zip(archives, scales, strict=True))
        weights = [Fp8Weights(archive, scale, rank) for rank, (archive, scale) in enumerate(pairs)]
        archives = [archive for pair in pairs for archive in pair]
    identities = {archive.path: archive.identity for archive in archives}
    return Shards(weights, identities)
