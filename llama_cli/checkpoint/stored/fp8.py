"""Meta's fp8 checkpoint of Llama 3.1 405B, as bfloat16 weights.

The feed-forward matrices of all layers but the first and the last are float8 (e4m3); `fp8_scales_N.pt` beside
shard N has a scale for each of their rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain
from ...model.weights import layer_of, spec_of
from .row_blocks import ComputedMatrix

if TYPE_CHECKING:
    from ..shard import PlainShard

ROLES = ("gate_up", "down")  # of the matrices that may be float8
FLOATS = ("bfloat16", "float16", "float32")


def scale_paths(folder: Path, n_shards: int) -> list[Path]:
    """The scales of each shard; none for a model that has none, ModelRejected if some are missing."""
    paths = [folder / f"fp8_scales_{rank}.pt" for rank in range(n_shards)]
    missing = [path for path in paths if not path.exists()]
    if len(missing) == n_shards:
        return []
    if missing:
        raise ModelRejected(f"{plain(folder)}: {missing[0].name} is missing", f"download {missing[0].name}")
    return paths


def fp8_dtypes(name: str) -> tuple[str, ...]:
    """The dtypes that a tensor of such a file may have."""
    spec = spec_of(name)
    return (*FLOATS, "float8_e4m3fn") if spec is not None and spec.role in ROLES else FLOATS


class Fp8Weights:
    """One shard under the dtypes of a bfloat16 checkpoint, computed when asked for."""

    def __init__(self, files: PlainShard, scales: PlainShard, rank: int) -> None:
        self._files = files
        self._scales = scales
        self._rank = rank
        present = set(scales.names())
        for name in self.names():
            scale, shape = self._scale_of(name), files.shape(name)
            if scale is None:
                continue
            if scale not in present:
                raise ModelRejected(f"fp8_scales_{rank}.pt has no {scale}, which {name} needs", DOWNLOAD_AGAIN)
            if scales.shape(scale) not in (shape[:1], (*shape[:1], 1)):
                raise ModelRejected(
                    f"fp8_scales_{rank}.pt: {scale} has shape {scales.shape(scale)}, {name} {shape}", DOWNLOAD_AGAIN
                )

    def names(self) -> list[str]:
        return self._files.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._files.dtype(name) if self._scale_of(name) is None else torch.bfloat16

    def tensor(self, name: str) -> Tensor | ComputedMatrix:
        weight = self._files.tensor(name)
        scale = self._scale_of(name)
        if scale is None:
            return weight
        scales = self._scales.tensor(scale).float().view(-1, 1)
        n_out, n_in = self.shape(name)
        return ComputedMatrix((n_out, n_in), torch.bfloat16, lambda rows: weight[rows].float() * scales[rows])

    def _scale_of(self, name: str) -> str | None:
        """What Meta calls the scales of a matrix; None for one that needs none."""
        spec = spec_of(name)
        if spec is None or spec.role not in ROLES or self._files.dtype(name) != torch.float8_e4m3fn:
            return None
        return f"{layer_of(name)}_{spec.name}_{self._rank}"
