"""A file of tensors whose places are known from the start, filled from front to back within each tensor."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..files.whole import write_all_at


class Place(NamedTuple):
    """Where the bytes of a tensor lie in a file."""

    offset: int
    n_bytes: int


class TensorFile:
    """Holds nothing: what is appended to a tensor is in the file. Counts a CRC-32 for each."""

    def __init__(self, path: Path, places: Mapping[str, Place]) -> None:
        self.path = path
        self.places = places
        self.checksums = dict.fromkeys(places, 0)
        self._written = dict.fromkeys(places, 0)
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def append(self, name: str, values: Tensor) -> None:
        """The next rows of a tensor, in the dtype that its place was made for."""
        data = memoryview(bytes_of(values))
        start = self._written[name]
        self._written[name] += len(data)
        assert self._written[name] <= self.places[name].n_bytes, f"{name} is longer than its place"
        self.checksums[name] = zlib.crc32(data, self.checksums[name])
        self.write_at(self.places[name].offset + start, data)

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Bytes that are no tensor's."""
        write_all_at(self._fd, data, offset)

    def close(self) -> None:
        """Everything is there and on the disk, and no longer in memory: the next reader reads the disk."""
        unfilled = [name for name, place in self.places.items() if self._written[name] != place.n_bytes]
        assert not unfilled, f"not written: {unfilled}"
        os.fsync(self._fd)
        if hasattr(os, "posix_fadvise"):  # Linux
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(self._fd)


def bytes_of(values: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it is contiguous."""
    return values.contiguous().flatten().view(torch.uint8).numpy().data
