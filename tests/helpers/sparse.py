"""Checkpoints of any size that take no room: the tensors' data are holes in sparse files."""

import io
import math
import pickle
import struct
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llama_cli.model.args import ModelArgs
from llama_cli.model.weights import weight_shapes

Shapes = dict[str, tuple[int, ...]]
BIG = 2**32 - 1  # says that the real number follows as 64 bits


class Storage(NamedTuple):
    key: str
    n_values: int


class Described:
    """Pickled as torch pickles a tensor."""

    def __init__(self, key: int, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = Storage(str(key), math.prod(shape)), shape

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(math.prod(self.shape[dim + 1 :]) for dim in range(len(self.shape)))
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> tuple[Any, ...] | None:
        return ("storage", torch.BFloat16Storage, *value[:1], "cpu", value[1]) if isinstance(value, Storage) else None


def write_sparse(path: Path, shapes: Shapes) -> None:
    """A .pth of bfloat16 tensors as torch.save lays it out."""
    program = io.BytesIO()
    Pickler(program, protocol=2).dump({name: Described(key, shape) for key, (name, shape) in enumerate(shapes.items())})
    entries: list[tuple[str, bytes | int]] = [("data.pkl", program.getvalue()), ("byteorder", b"little")]
    entries += [(f"data/{key}", 2 * math.prod(shape)) for key, shape in enumerate(shapes.values())]
    entries.append(("version", b"3\n"))
    directory = b""
    with path.open("wb") as file:
        for inner, data in entries:
            name, place = b"archive/" + inner.encode(), file.tell()
            size, crc = (len(data), zlib.crc32(data)) if isinstance(data, bytes) else (data, 0)
            sizes = struct.pack("<HHQQ", 1, 16, size, size)
            shared = struct.pack("<4H3I", 0, 0, 0, 0, crc, BIG, BIG)
            file.write(b"PK\3\4" + struct.pack("<H", 45) + shared + struct.pack("<2H", len(name), len(sizes)))
            file.write(name + sizes)
            _ = file.write(data) if isinstance(data, bytes) else file.seek(size, 1)
            far = place >= BIG
            more = struct.pack("<HHQQQ", 1, 24, size, size, place) if far else sizes
            directory += b"PK\1\2" + struct.pack("<2H", 45, 45) + shared
            directory += struct.pack("<5H2I", len(name), len(more), 0, 0, 0, 0, min(place, BIG)) + name + more
        start = file.tell()
        file.write(directory)
        end, count = file.tell(), len(entries)
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), min(start, BIG), 0))


def part_of(name: str, shape: tuple[int, ...], n_shards: int) -> tuple[int, ...]:
    """The shape of a shard's part, by fairscale's table."""
    if "norm" in name:
        return shape
    dim = 1 if name.endswith(("wo.weight", "w2.weight")) else 0
    return tuple(size // n_shards if place == dim else size for place, size in enumerate(shape))


def write_sparse_model(folder: Path, args: ModelArgs, n_shards: int) -> None:
    shapes = {name: part_of(name, shape, n_shards) for name, shape in weight_shapes(args).items()}
    for rank in range(n_shards):
        write_sparse(folder / f"consolidated.{rank:02d}.pth", shapes)
