"""Files in the safetensors format, laid out as its library does: the header first, then the tensors by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from .tensor_file import Place, TensorFile

Shape = tuple[int, ...]

DTYPE_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.int8: "I8",
    torch.uint8: "U8",
}
MOST_BYTES = 5 * 10**9  # of one file, as transformers cuts them
ALIGNMENT = 8


class Blank(NamedTuple):
    """A tensor whose values come later."""

    shape: Shape
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class SafetensorsSet:
    """`STEM.safetensors`, or several files and the index that joins them where one would be too large."""

    def __init__(self, folder: Path, stem: str, tensors: Mapping[str, Blank], *, most_bytes: int = MOST_BYTES) -> None:
        sizes = {name: blank.n_bytes for name, blank in tensors.items()}
        groups = group_by_size(sizes, most_bytes)
        self._files = []
        self._where: dict[str, TensorFile] = {}
        for number, names in enumerate(groups, 1):
            part = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
            path = folder / f"{stem}{part}.safetensors"
            file = TensorFile(path, lay_out(path, {name: tensors[name] for name in names}))
            self._files.append(file)
            self._where |= dict.fromkeys(names, file)
        if len(groups) > 1:
            weight_map = {name: file.path.name for name, file in self._where.items()}
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
            (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def append(self, name: str, values: torch.Tensor) -> None:
        self._where[name].append(name, values)

    def close(self) -> None:
        for file in self._files:
            file.close()


def group_by_size(sizes: Mapping[str, int], most_bytes: int) -> list[list[str]]:
    """Neighbours together, as many as `most_bytes` hold, but one at least."""
    groups: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not groups or filled + size > most_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def lay_out(path: Path, tensors: Mapping[str, Blank]) -> dict[str, Place]:
    """Write the header and make the file as long as it will be: the place of each tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    places = {}
    # By name, but the widest values first: each tensor begins at a multiple of their size.
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        shape, dtype = tensors[name]
        offsets = [begin, begin + tensors[name].n_bytes]
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
        places[name] = Place(begin, tensors[name].n_bytes)
        begin = offsets[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(start + begin)
    return {name: Place(start + place.offset, place.n_bytes) for name, place in places.items()}
