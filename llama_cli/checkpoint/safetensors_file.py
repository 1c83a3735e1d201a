"""Weights in .safetensors files: one file, or several that an index joins."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelRejected
from .json_file import read_object
from .regular_file import Identity, identify, read_head

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
WHOLE_NAMES = ("consolidated.safetensors", "model.safetensors")


class SafetensorsFile:
    """One file, mapped. The header is checked here as well: the library lets duplicate names pass."""

    def __init__(self, path: Path, *, mmap: bool = True) -> None:
        self.path = path
        self.identity: Identity = identify(path)
        self._mmap = mmap
        self._header = _read_header(path, self.identity.size)
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError, ValueError):
            raise ModelRejected(
                f"{path.name} is damaged: its header and its data disagree", "download it again"
            ) from None

    def names(self) -> list[str]:
        return list(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._header[name]["dtype"]]

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor if self._mmap else tensor.clone()


def _read_header(path: Path, size: int) -> dict[str, Any]:
    head = read_head(path, 8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise ModelRejected(f"{path.name} is cut short or no safetensors file: {size:,} bytes", "download it again")
    try:
        pairs = json.loads(read_head(path, 8 + length)[8:], object_pairs_hook=_only_once)
    except (ValueError, RecursionError):
        raise ModelRejected(f"{path.name}: its header is damaged", "download it again") from None
    header = {name: entry for name, entry in pairs.items() if name != "__metadata__"} if isinstance(pairs, dict) else {}
    if not 0 < len(header) <= MAX_TENSORS:
        raise ModelRejected(f"{path.name} lists {len(header):,} tensors", "download it again")
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
            kind = entry.get("dtype") if isinstance(entry, dict) else entry
            raise ModelRejected(
                f"{path.name}: {name[:80]!r} is of dtype {str(kind)[:20]!r}; BF16, F16 and F32 are read"
            )
    return header


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


class SafetensorsFiles:
    """Several files that hold one set of names between them."""

    def __init__(self, files: Sequence[SafetensorsFile]) -> None:
        self.files = files
        self._where = {name: file for file in files for name in file.names()}
        if len(self._where) != sum(len(file.names()) for file in files):
            raise ModelRejected(f"{files[0].path.parent}: a tensor lies in two files", "download them again")

    def names(self) -> list[str]:
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._where[name].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._where[name].dtype(name)

    def tensor(self, name: str) -> Tensor:
        return self._where[name].tensor(name)


def open_safetensors(folder: Path, *, mmap: bool = True) -> SafetensorsFiles:
    """The files that an index names, or the one whole file, of a folder."""
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if indexes:
        weight_map = read_object(indexes[0]).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelRejected(f"{indexes[0].name}: weight_map is missing")
        names = sorted({str(name) for name in weight_map.values()})
        foreign = [name for name in names if Path(name).name != name]
        if foreign:
            raise ModelRejected(f"{indexes[0].name}: {foreign[0][:60]!r} is outside its folder")
        absent = [name for name in names if not (folder / name).exists()]
        if absent:
            raise ModelRejected(
                f"{folder}: {absent[0]} is missing ({len(absent)} of {len(names)} files)", "download it"
            )
    else:
        names = [name for name in WHOLE_NAMES if (folder / name).exists()][:1]
    if not names:
        raise ModelRejected(f"{folder} has no {' or '.join(WHOLE_NAMES)}, and no index of several files")
    return SafetensorsFiles([SafetensorsFile(folder / name, mmap=mmap) for name in names])
