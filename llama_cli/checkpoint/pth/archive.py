"""Opens one consolidated.NN.pth behind the gate: nothing of it is unpacked, executed or, apart from names, read.

torch.load is not asked. With `weights_only=True` it still accepts archives with wrong byte order, wrong record sizes,
duplicate entries, quantized or sparse tensors, and unpacks compressed entries of any size. Here the zip directory and
the pickle are checked, the pickle is read as a list of tensors, and each is a view of the bytes at its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ModelRejected
from ...files.foreign import foreign
from ...files.quoting import plain, quote
from ...files.regular_file import Identity, identify, read_head
from ..header import Shape, TensorHeader, is_unused
from ..mapped_file import MappedFile
from .headers import Described, describe_pickle, place, spread
from .zip_directory import Entry, read_directory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTYPES = ("bfloat16", "float16", "float32")
ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class Archive:
    """The tensors of one file, mapped from disk and not yet read."""

    identity: Identity
    entries: Mapping[str, Entry]
    headers: Mapping[str, TensorHeader]
    file: MappedFile

    @property
    def path(self) -> Path:
        return self.file.path

    def names(self) -> list[str]:
        return [name for name in self.headers if not is_unused(name)]

    def shape(self, name: str) -> Shape:
        return self.headers[name].shape

    def dtype(self, name: str) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.headers[name].dtype)
        return dtype

    def tensor(self, name: str) -> Tensor:
        return self.file.tensor(self.headers[name])

    def require_dtypes(self, dtypes_of: Callable[[str], tuple[str, ...]]) -> None:
        """ModelRejected for a tensor of another dtype than `dtypes_of` its name."""
        for name, header in self.headers.items():
            if header.dtype not in dtypes_of(name):
                raise ModelRejected(
                    f"{plain(self.path.name)}: {quote(name)} is of dtype {plain(header.dtype)};"
                    f" {_are_read(dtypes_of(name))}",
                    "use the bf16 checkpoint of the same model",
                )
            if header.strides is not None and header.dtype not in DTYPES:
                raise spread(self.path, name)


def plain_dtypes(name: str) -> tuple[str, ...]:
    """The dtypes that any tensor may have."""
    return DTYPES


def _are_read(dtypes: tuple[str, ...]) -> str:
    *others, last = dtypes
    return f"{', '.join(others)} and {last} are read" if others else f"it must be {last}"


def open_archives(paths: Iterable[Path]) -> list[Archive]:
    """Open .pth files behind the gate; ModelRejected says what is wrong with one.

    Shards of one model have the same pickle, which is read once.
    """
    described: dict[bytes, Described] = {}
    archives = []
    for path in paths:
        identity = identify(path)
        if read_head(path, len(ZIP_MAGIC)) != ZIP_MAGIC:
            raise foreign(path, identity.size)
        contents = read_directory(path, identity.size)
        if contents.pickle not in described:
            described[contents.pickle] = describe_pickle(path, contents.pickle)
        records = {name: entry.record for name, entry in contents.entries.items()}
        headers = place(path, described[contents.pickle], records)
        archives.append(Archive(identity, contents.entries, headers, MappedFile(path)))
    return archives


def open_archive(path: Path) -> Archive:
    """The same for one file."""
    (archive,) = open_archives([path])
    return archive
