"""consolidated.NN.pth as torch.save writes them, with the tensors filled in later and one piece at a time."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from .tensor_file import Place, TensorFile

Shape = tuple[int, ...]

# PKWARE's APPNOTE: 4.3.9 the descriptor behind an entry's data, 4.3.12 an entry of the directory.
DESCRIPTOR_MAGIC, DIRECTORY_MAGIC = b"PK\x07\x08", b"PK\x01\x02"
CHECKSUM_IN_DESCRIPTOR, CHECKSUM_IN_DIRECTORY = 4, 16
DIRECTORY_ENTRY = struct.Struct("<4s6H3I5H2I")
LOCAL_HEADER_BYTES = 30


class PthFile:
    """One shard. Tensors that share their values (a tied output matrix) are written once, under both names."""

    def __init__(self, path: Path, shapes: Mapping[str, Shape], dtype: torch.dtype, shared: Mapping[str, str]) -> None:
        self._records = _lay_out(path, shapes, dtype, shared)
        self._file = TensorFile(path, {name: place for name, (_, place) in self._records.items()})
        self.append = self._file.append

    def close(self) -> None:
        """Write the checksums, which stand behind the data of a record and in the archive's directory."""
        checksums = {record: self._file.checksums[name] for name, (record, _) in self._records.items()}
        for name, (_, place) in self._records.items():
            descriptor = place.offset + place.n_bytes + CHECKSUM_IN_DESCRIPTOR
            self._file.write_at(descriptor, struct.pack("<I", self._file.checksums[name]))
        for record, offset in _directory_entries(self._file.path).items():
            if record in checksums:
                self._file.write_at(offset + CHECKSUM_IN_DIRECTORY, struct.pack("<I", checksums[record]))
        self._file.close()


def _lay_out(
    path: Path, shapes: Mapping[str, Shape], dtype: torch.dtype, shared: Mapping[str, str]
) -> dict[str, tuple[str, Place]]:
    """Let torch.save write the archive without the tensors' data: the record and the place of each tensor."""
    try:
        weights = _blank_tensors(path.with_suffix(".blank"), shapes, dtype)
        with torch.serialization.skip_data():
            torch.save(weights | {name: weights[source] for name, source in shared.items()}, path)
    except RuntimeError:
        # torch does not tell what the system said: ask it again, with the last byte of such a file.
        with path.open("wb") as file:
            file.seek(sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize)
            file.write(b"\0")
        raise
    places = _places(path)
    records = {name: f"data/{number}" for number, name in enumerate(shapes)}  # numbered as torch.save meets them
    return {name: (record, places[record]) for name, record in records.items()}


def _blank_tensors(blank: Path, shapes: Mapping[str, Shape], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors without memory, mapped from an empty file: torch.save asks for their sizes only."""
    blank.touch()
    weights = {}
    for name, shape in shapes.items():
        n_bytes = torch.Size(shape).numel() * dtype.itemsize
        data = torch.from_file(str(blank), shared=True, size=n_bytes, dtype=torch.uint8)
        weights[name] = data.view(dtype).view(shape)
    blank.unlink()
    return weights


def _places(path: Path) -> dict[str, Place]:
    """Where the data of each record lie, by its name without the root folder."""
    found = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            file.seek(entry.header_offset + LOCAL_HEADER_BYTES - 4)
            name_bytes, extra_bytes = struct.unpack("<2H", file.read(4))
            start = entry.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
            found[entry.filename.partition("/")[2]] = Place(start, entry.file_size)
            file.seek(start + entry.file_size)
            assert file.read(len(DESCRIPTOR_MAGIC)) == DESCRIPTOR_MAGIC, "torch.save writes a descriptor"
    return found


def _directory_entries(path: Path) -> dict[str, int]:
    """Where the directory's entry of each record begins."""
    found = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        offset = archive.start_dir
        for entry in archive.infolist():
            file.seek(offset)
            fields = DIRECTORY_ENTRY.unpack(file.read(DIRECTORY_ENTRY.size))
            assert fields[0] == DIRECTORY_MAGIC, "entries follow one another"
            found[entry.filename.partition("/")[2]] = offset
            offset += DIRECTORY_ENTRY.size + sum(fields[10:13])
    return found
