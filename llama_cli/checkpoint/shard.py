"""What one shard of a checkpoint offers, whatever its file is: tensors by Meta's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .stored.row_blocks import ComputedMatrix


class PlainShard(Protocol):
    """Tensors of a file by Meta's name. Only reading from what `tensor` returns reads the file."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def tensor(self, name: str) -> Tensor: ...


class Shard(Protocol):
    """The same of a file whose matrices may have to be computed from what is stored; its norms are tensors."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def tensor(self, name: str) -> Tensor | ComputedMatrix: ...
