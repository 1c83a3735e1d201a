"""Weights in .safetensors files: one file, or several that an index joins."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelRejected
from ..files.foreign import DOWNLOAD_AGAIN, foreign
from ..files.json_file import read_object, without_duplicates
from ..files.quoting import plain, quote
from ..files.regular_file import Identity, identify, read_head, unreadable
from .header import TensorHeader, item_size
from .pth.state_dict import plain_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
DTYPES = FLOATS | {"I8": "int8", "U8": "uint8"}  # of weights that this program has quantized
INDEX_SUFFIX = ".safetensors.index.json"


class SafetensorsFile:
    """One file. Its header is checked here as well: the library lets duplicate names pass. Tensors are mapped by it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity: Identity = identify(path)
        self._header, self._start = _read_header(path, self.identity.size)

    @cached_property
    def _file(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.path, framework="pt")
        except OSError as error:
            raise unreadable(self.path, error) from None
        except (SafetensorError, ValueError):
            raise self._damaged() from None

    def _damaged(self) -> ModelRejected:
        return ModelRejected(
            f"{plain(self.path.name)} is cut short or damaged: its header and its {self.identity.size:,} bytes"
            " disagree",
            DOWNLOAD_AGAIN,
        )

    def map(self) -> None:
        """Have the library check the file and map it, which takes torch."""
        _ = self._file

    def names(self) -> list[str]:
        return list(self._header)

    def require_floats(self) -> None:
        """ModelRejected for a tensor of whole numbers."""
        for name, entry in self._header.items():
            if entry["dtype"] not in FLOATS:
                raise _of_no_float(self.path, name, entry["dtype"])

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, DTYPES[self._header[name]["dtype"]])
        return dtype

    def describe(self, name: str) -> TensorHeader:
        """Dtype, shape and place of a tensor; ModelRejected if it does not lie in the file."""
        entry = self._header[name]
        try:
            dtype, shape = DTYPES[entry["dtype"]], self.shape(name)
            first, last = entry["data_offsets"]
            fits = last - first == prod(shape) * item_size(dtype) and 0 <= first <= self.identity.size - self._start - (
                last - first
            )
        except (KeyError, TypeError, ValueError):  # of other types than numbers
            fits = False
        if not fits:
            raise self._damaged()
        return TensorHeader(dtype, shape, self._start + first, last - first)

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


def _read_header(path: Path, size: int) -> tuple[dict[str, dict[str, Any]], int]:
    """What the header says of each tensor, and where the data begin."""
    head = read_head(path, 9)
    if len(head) < 9 or head[8:9] != b"{":
        raise foreign(path, size)
    (length,) = struct.unpack("<Q", head[:8])
    if length > MAX_HEADER_BYTES:
        raise ModelRejected(
            f"{plain(path.name)}: a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read", DOWNLOAD_AGAIN
        )
    if length > size - 8:
        raise ModelRejected(
            f"{plain(path.name)} is cut short: it has {size:,} bytes, its header alone {length:,}", DOWNLOAD_AGAIN
        )
    try:
        header = json.loads(read_head(path, 8 + length)[8:], object_pairs_hook=without_duplicates)
    except json.JSONDecodeError:
        raise ModelRejected(f"{plain(path.name)}: its header is damaged", DOWNLOAD_AGAIN) from None
    except (ValueError, RecursionError) as error:
        why = str(error) if type(error) is ValueError else "it is damaged"
        raise ModelRejected(f"{plain(path.name)}: its header: {plain(why)}", DOWNLOAD_AGAIN) from None
    header.pop("__metadata__", None)
    if not 0 < len(header) <= MAX_TENSORS:
        raise ModelRejected(f"{plain(path.name)} lists {len(header):,} tensors", DOWNLOAD_AGAIN)
    for name, entry in header.items():
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or kind not in DTYPES:
            raise _of_no_float(path, name, kind)
    return header, 8 + length


def _of_no_float(path: Path, name: str, kind: object) -> ModelRejected:
    return ModelRejected(
        f"{plain(path.name)}: {quote(name)} is of dtype {quote(kind, 20)}; BF16, F16 and F32 are read",
        "use the bf16 checkpoint of the same model",
    )


class SafetensorsFiles:
    """Several files that hold one set of names between them."""

    def __init__(self, files: Sequence[SafetensorsFile]) -> None:
        self.files = files
        self._where: dict[str, tuple[SafetensorsFile, str]] = {}  # a tensor's file, and its name there
        stored = [(file, name) for file in files for name in file.names()]
        for name, (file, its_name) in zip(plain_names(name for _, name in stored), stored, strict=True):
            if name in self._where:
                other, _ = self._where[name]
                raise ModelRejected(
                    f"{quote(name)} lies in {plain(other.path.name)} and in {plain(file.path.name)}",
                    "download the model again",
                )
            self._where[name] = file, its_name

    def names(self) -> list[str]:
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        file, its_name = self._where[name]
        return file.shape(its_name)

    def dtype(self, name: str) -> torch.dtype:
        file, its_name = self._where[name]
        return file.dtype(its_name)

    def path(self, name: str) -> Path:
        """The file that a tensor lies in."""
        file, _ = self._where[name]
        return file.path

    def map(self) -> None:
        """Have the library check every file and map it."""
        for file in self.files:
            file.map()

    def require_floats(self) -> None:
        """ModelRejected for a tensor of whole numbers, which only folders of `convert --quantize` have."""
        for file in self.files:
            file.require_floats()

    def describe(self, name: str) -> TensorHeader:
        file, its_name = self._where[name]
        return file.describe(its_name)

    def tensor(self, name: str) -> Tensor:
        file, its_name = self._where[name]
        return file.tensor(its_name)


def open_safetensors(folder: Path, *, metas_first: bool) -> SafetensorsFiles:
    """The files that an index names, or the one whole file, of a folder.

    Some folders hold the same weights twice: consolidated.* in Meta's names beside model.* in Hugging Face's.
    """
    indexes = sorted(path.name for path in folder.glob("*" + INDEX_SUFFIX))
    metas = [*(name for name in indexes if name.startswith("consolidated.")), "consolidated.safetensors"]
    theirs = [*(name for name in indexes if not name.startswith("consolidated.")), "model.safetensors"]
    for name in [*metas, *theirs] if metas_first else [*theirs, *metas]:
        if name.endswith(INDEX_SUFFIX):
            return _open_indexed(folder, name)
        if (folder / name).exists() or (folder / name).is_symlink():
            return SafetensorsFiles([SafetensorsFile(folder / name)])
    raise ModelRejected(
        f"{plain(folder)} has no consolidated.safetensors, no model.safetensors and no index of several files",
        "download model.safetensors.index.json too",
    )


def _open_indexed(folder: Path, index: str) -> SafetensorsFiles:
    weight_map = read_object(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelRejected(f"{plain(index)}: weight_map must be an object that names files", DOWNLOAD_AGAIN)
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelRejected(f"{plain(index)}: {quote(name)} is no .safetensors file of its folder", DOWNLOAD_AGAIN)
    names = sorted(set(weight_map.values()))
    there = {path.name for path in folder.glob("*.safetensors")}
    absent = [name for name in names if name not in there]
    if absent:
        raise ModelRejected(
            f"{plain(folder)}: {plain(absent[0])} is missing ({len(absent)} of {len(names)} files)", "download it"
        )
    files = {name: SafetensorsFile(folder / name) for name in names}
    held = {name: set(file.names()) for name, file in files.items()}
    for tensor, name in weight_map.items():
        if tensor not in held[name]:
            raise ModelRejected(f"{plain(index)}: {quote(tensor)} is not in {plain(name)}", "download both again")
    return SafetensorsFiles(list(files.values()))


def missing_part(folder: Path) -> str | None:
    """What keeps a folder's files from being whole, by their names and headers; None if nothing does."""
    try:
        files = open_safetensors(folder, metas_first=(folder / "params.json").exists())
        for name in files.names():
            files.describe(name)
    except ModelRejected as error:
        return error.message
    return None
