"""The bytes of one file, mapped when they are first asked for: nothing is read but what is looked at.

The mapping is read-only and shared, so that the system takes its pages back at any time, and a file may be larger than
the machine's memory. A tensor of it must not be written to.
"""

from __future__ import annotations

import errno
import warnings
from functools import cached_property
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DoesNotFit, explained
from ..files.quoting import plain
from ..files.regular_file import unreadable
from .header import TensorHeader, item_size

if TYPE_CHECKING:
    from torch import Tensor


class MappedFile:
    """A file whose tensors are views of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _bytes(self) -> mmap:
        try:
            with self.path.open("rb") as file:
                return mmap(file.fileno(), 0, access=ACCESS_READ)
        except OSError as error:
            if error.errno == errno.ENOMEM:  # more than the address space that `ulimit -v` leaves
                raise DoesNotFit(
                    f"{plain(self.path.name)} has {self.path.stat().st_size / 2**30:,.1f} GiB, more than this"
                    " machine's memory",
                    "use a smaller model, or a machine with more memory: llama-cli info says how much it takes",
                ) from None
            raise explained(error) or unreadable(self.path, error) from None

    def tensor(self, header: TensorHeader) -> Tensor:
        """The tensor that a header describes, as it lies in the file."""
        import torch

        dtype: torch.dtype = getattr(torch, header.dtype)
        if not header.n_bytes:
            return torch.empty(header.shape, dtype=dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(self._bytes, dtype=dtype, count=prod(header.shape), offset=header.offset)
        return flat.view(header.shape) if header.strides is None else flat.as_strided(header.shape, header.strides)

    def rows(self, header: TensorHeader, begin: int, end: int) -> list[bytes]:
        """Rows [begin, end) of a matrix, as they are stored."""
        _, n_columns = header.shape
        per_row, per_column = (stride * item_size(header.dtype) for stride in header.strides or (n_columns, 1))
        size = item_size(header.dtype)
        run = n_columns if per_column == size else 1  # columns that follow each other
        return [
            b"".join(
                self._bytes[start + column * per_column : start + column * per_column + run * size]
                for column in range(0, n_columns, run)
            )
            for start in range(header.offset + begin * per_row, header.offset + end * per_row, per_row)
        ]
