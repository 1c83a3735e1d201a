"""Reads every byte of model files once: checksum of the file, CRC-32 of its entries, NaN and zeros in its tensors."""

from __future__ import annotations

import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy

from ..files.regular_file import Identity, identify, unreadable
from .header import TensorHeader, item_size
from .pth.archive import open_archive
from .pth.zip_directory import Entry
from .safetensors_file import SafetensorsFile

BLOCK_BYTES = 8 << 20

# The bits of an exponent: all of them set make infinity or NaN. Of float8_e4m3fn only NaN, with every bit set.
EXPONENTS = {
    "bfloat16": ("<u2", 0x7F80),
    "float16": ("<u2", 0x7C00),
    "float32": ("<u4", 0x7F800000),
    "float64": ("<u8", 0x7FF0000000000000),
    "float8_e4m3fn": ("u1", 0x7F),
}


class Survey(NamedTuple):
    """What a file's own headers promise."""

    identity: Identity
    entries: Mapping[str, Entry]  # of an archive
    tensors: Mapping[str, TensorHeader]


def survey(path: Path) -> Survey:
    """Read the headers of one file; ModelRejected says what is wrong with them, or what the file is instead."""
    if path.suffix in (".pth", ".pt"):
        archive = open_archive(path)
        return Survey(archive.identity, archive.entries, archive.headers)
    if path.suffix == ".safetensors":
        file = SafetensorsFile(path)
        return Survey(file.identity, {}, {name: file.describe(name) for name in file.names()})
    return Survey(identify(path), {}, {})


@dataclass
class Contents:
    """What was found in one file."""

    digest: str | None = None
    wrong_entries: list[str] = field(default_factory=list)  # their bytes are not those that were written
    not_finite: dict[str, int] = field(default_factory=dict)  # tensors: how many values are NaN or infinite
    all_zero: list[str] = field(default_factory=list)


class _EntryCheck:
    """The CRC-32 of one entry, as its bytes come by."""

    def __init__(self, name: str, entry: Entry) -> None:
        self.name, self._expected, self._crc = name, entry.crc, 0
        self.start, self.end = entry.record.offset, entry.record.offset + entry.record.size

    def feed(self, data: memoryview) -> None:
        self._crc = zlib.crc32(data, self._crc)

    def report(self, found: Contents) -> None:
        if self._crc != self._expected:
            found.wrong_entries.append(self.name)


class _TensorCheck:
    """Values of one tensor that no weight has."""

    def __init__(self, name: str, tensor: TensorHeader) -> None:
        self.name = name
        self.start, self.end = tensor.offset, tensor.offset + tensor.n_bytes
        self._size = item_size(tensor.dtype)
        self._exponent = EXPONENTS.get(tensor.dtype)
        self._rest = b""
        self._n_bad = 0
        self._is_zero = tensor.n_bytes > 0 and not name.endswith(".zeros")  # those of int4 files are

    def feed(self, data: memoryview) -> None:
        if self._rest or len(data) % self._size:  # a block ended inside a value
            whole = self._rest + bytes(data)
            cut = len(whole) - len(whole) % self._size
            data, self._rest = memoryview(whole[:cut]), whole[cut:]
        if self._is_zero:
            self._is_zero = not numpy.frombuffer(data, "u1").any()
        if self._exponent is not None:
            kind, mask = self._exponent
            values = numpy.frombuffer(data, kind)
            self._n_bad += int(numpy.count_nonzero((values & mask) == mask))

    def report(self, found: Contents) -> None:
        if self._n_bad:
            found.not_finite[self.name] = self._n_bad
        if self._is_zero:
            found.all_zero.append(self.name)


def read_contents(
    path: Path, promised: Survey, algorithm: str | None, advance: Callable[[int], None], is_stopped: Callable[[], bool]
) -> Contents:
    """Read a file from end to end; `advance` is told of every block, and `is_stopped` asked.

    The digest is computed beside the rest, on a thread of its own.
    """
    called = {tensor.offset: name for name, tensor in promised.tensors.items()}
    checks: list[_EntryCheck | _TensorCheck] = [
        _EntryCheck(called.get(entry.record.offset, name), entry) for name, entry in promised.entries.items()
    ]
    checks += [_TensorCheck(name, tensor) for name, tensor in promised.tensors.items()]
    waiting = deque(sorted(checks, key=lambda check: check.start))
    running: list[_EntryCheck | _TensorCheck] = []
    digest = hashlib.new(algorithm, usedforsecurity=False) if algorithm else None
    block = memoryview(bytearray(min(BLOCK_BYTES, max(promised.identity.size, 1))))
    position = 0
    try:
        with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
            while not is_stopped() and (n_bytes := file.readinto(block)):
                data = block[:n_bytes]
                hashed = beside.submit(digest.update, data) if digest else None
                end = position + n_bytes
                while waiting and waiting[0].start < end:
                    running.append(waiting.popleft())
                for check in running:
                    first, last = max(check.start - position, 0), min(check.end - position, n_bytes)
                    if first < last:
                        check.feed(data[first:last])
                if hashed is not None:
                    hashed.result()
                running = [check for check in running if check.end > end]
                position = end
                advance(n_bytes)
    except OSError as error:
        raise unreadable(path, error) from None
    found = Contents(digest.hexdigest() if digest else None)
    for check in checks:
        check.report(found)
    return found
