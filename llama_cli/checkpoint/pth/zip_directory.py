"""Reads the directory of a .pth archive, and refuses whatever torch.save does not write.

Nothing may be compressed, so nothing can be larger than the file; every byte belongs to one entry at most;
and this reader, torch's and any other must see the same entries.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain, quote
from ...files.regular_file import unreadable
from ...files.whole import read_at

MAX_ENTRIES = 200_000
MAX_READ = 64 << 20  # a directory of that many entries has less
MAX_PICKLE_BYTES = 4 << 20  # 405B's have 0.1 MiB
MAX_SMALL_ENTRY = 1024
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # PKWARE's APPNOTE 4.3.7
END = struct.Struct("<4s4H2IH")  # 4.3.16
END_64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
LOCATOR_64 = struct.Struct("<4sIQI")  # 4.3.15
EXTRA = struct.Struct("<2H")  # 4.5: which, and how many bytes
ZIP64_EXTRA = 1

# Entries that torch.save writes, beside data/N.
SMALL_ENTRIES = {"byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id"}


class Record(NamedTuple):
    """Where one entry's bytes lie in the file."""

    offset: int
    size: int


class Entry(NamedTuple):
    """One entry of an archive; its checksum is the CRC-32 that the directory promises."""

    record: Record
    crc: int


class Contents(NamedTuple):
    """What the gate needs of an archive."""

    pickle: bytes
    records: list[Record]  # the tensors' data, without empty ones
    entries: dict[str, Entry]  # all of them, by their names below the root


class _Bounded(io.FileIO):
    """A file that hands out no more at once than a sound archive asks for."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > MAX_READ:
            raise zipfile.BadZipFile("an absurd size")
        found = read_at(self.fileno(), wanted, self.tell())
        self.seek(len(found), os.SEEK_CUR)
        return found


def read_directory(path: Path, size: int) -> Contents:
    """Check the archive at `path`, `size` bytes long; ModelRejected says what is wrong."""
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(path, entries)
            _check_end(path, file, archive.start_dir, len(entries), size)
            records = [_locate(path, file, entry) for entry in entries]
            _check_places(path, entries, records, archive.start_dir)
            return _contents(path, archive, entries, records)
    except ModelRejected:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to nowhere is damage, not the disk's fault
            raise unreadable(path, error) from None
    except Exception:  # noqa: S110  # zipfile raises many kinds on damaged files; all mean what follows
        pass
    raise ModelRejected(
        f"{plain(path.name)} is cut short or damaged (no sound zip directory at its end): it has {size:,} bytes",
        DOWNLOAD_AGAIN,
    )


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise ModelRejected(f"{plain(path.name)} has {len(entries):,} entries; a checkpoint has fewer", DOWNLOAD_AGAIN)
    inner = [entry.filename.partition("/")[2] for entry in entries]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        raise ModelRejected(f"{plain(path.name)} is a TorchScript program, not a checkpoint", "give Meta's own file")
    # torch looks names up without regard to case.
    if len({entry.filename.lower() for entry in entries}) != len(entries):
        raise ModelRejected(f"{plain(path.name)}: an entry is there twice", DOWNLOAD_AGAIN)
    for entry in entries:
        flaw = _flaw(entry)
        if flaw:
            raise ModelRejected(f"{plain(path.name)}: entry {quote(entry.orig_filename)} {flaw}", DOWNLOAD_AGAIN)


def _flaw(entry: zipfile.ZipInfo) -> str | None:
    name = entry.orig_filename
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "is compressed; torch compresses none"
    if name != entry.filename or name.startswith("/") or "\\" in name or {"..", "."} & set(name.split("/")):
        return "points outside the archive"
    if entry.extra:
        which, length = EXTRA.unpack_from(entry.extra)
        if which != ZIP64_EXTRA or EXTRA.size + length != len(entry.extra):
            return "has an extra field; torch writes none but sizes"
    return None


def _locate(path: Path, file: io.FileIO, entry: zipfile.ZipInfo) -> Record:
    """The place of one entry's data, which follow a header of their own under the same name."""
    file.seek(entry.header_offset)
    fields = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    name_length, extra_length = fields[9], fields[10]
    name = file.read(name_length)
    if fields[0] != b"PK\x03\x04" or name != entry.orig_filename.encode():
        raise ModelRejected(
            f"{plain(path.name)}: the two headers of entry {quote(entry.orig_filename)} disagree", DOWNLOAD_AGAIN
        )
    return Record(entry.header_offset + LOCAL_HEADER.size + name_length + extra_length, entry.file_size)


def _check_end(path: Path, file: io.FileIO, start: int, n_entries: int, size: int) -> None:
    """The directory lies at `start` for every reader of archives, with `n_entries`, and nothing lies behind it.

    Readers look for a directory in ways of their own: bytes in front or behind, a comment, a second end record
    would show each of them another archive.
    """
    length = size - END.size - start
    file.seek(max(size - END.size - LOCATOR_64.size - END_64.size, 0))
    tail = file.read(END.size + LOCATOR_64.size + END_64.size)
    expected = b""
    if tail[END_64.size :].startswith(b"PK\x06\x07"):
        length -= END_64.size + LOCATOR_64.size
        versions = END_64.unpack_from(tail)[2:4]
        where = (n_entries, n_entries, length, start)
        expected = END_64.pack(b"PK\x06\x06", END_64.size - 12, *versions, 0, 0, *where)
        expected += LOCATOR_64.pack(b"PK\x06\x07", 0, start + length, 1)
    count = min(n_entries, 0xFFFF)
    expected += END.pack(b"PK\x05\x06", 0, 0, count, count, min(length, 0xFFFFFFFF), min(start, 0xFFFFFFFF), 0)
    if not tail.endswith(expected):
        raise ModelRejected(
            f"{plain(path.name)} holds two archives, or bytes around one: its directory is ambiguous", DOWNLOAD_AGAIN
        )


def _check_places(path: Path, entries: list[zipfile.ZipInfo], records: list[Record], start_dir: int) -> None:
    """Entries one after the other from the file's first byte, the directory behind them."""
    end = 0
    for entry, record in sorted(zip(entries, records, strict=True), key=lambda pair: pair[1].offset):
        if entry.header_offset < end or record.offset + record.size > start_dir:
            raise ModelRejected(
                f"{plain(path.name)}: entry {quote(entry.filename)} overlaps another or the end", DOWNLOAD_AGAIN
            )
        end = record.offset + record.size


def _contents(path: Path, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], records: list[Record]) -> Contents:
    """One root folder with a small data.pkl, little-endian, nothing that torch.save does not write."""
    name = plain(path.name)
    root = entries[0].filename.split("/", 1)[0]
    if any(not entry.filename.startswith(root + "/") for entry in entries):
        raise ModelRejected(f"{name} is a zip archive, but no torch checkpoint: it has several roots", DOWNLOAD_AGAIN)
    inner = {entry.filename[len(root) + 1 :]: record for entry, record in zip(entries, records, strict=True)}
    if "data.pkl" not in inner:
        raise ModelRejected(f"{name} is a zip archive, but no torch checkpoint (no data.pkl)", DOWNLOAD_AGAIN)
    limits = dict.fromkeys(SMALL_ENTRIES, MAX_SMALL_ENTRY) | {"data.pkl": MAX_PICKLE_BYTES}
    for entry, record in inner.items():
        if entry.startswith("data/"):
            continue
        if entry not in limits:
            raise ModelRejected(f"{name}: unexpected entry {quote(entry)}", DOWNLOAD_AGAIN)
        if record.size > limits[entry]:
            raise ModelRejected(
                f"{name}: {entry} has {record.size:,} bytes; a checkpoint's has at most {limits[entry]:,}",
                DOWNLOAD_AGAIN,
            )
    if "byteorder" in inner and archive.read(f"{root}/byteorder") != b"little":
        raise ModelRejected(f"{name} is not little-endian", "save it again on a little-endian machine")
    data = [record for entry, record in inner.items() if entry.startswith("data/") and record.size]
    crcs = [entry.CRC for entry in entries]
    named = {name: Entry(record, crc) for (name, record), crc in zip(inner.items(), crcs, strict=True)}
    return Contents(archive.read(f"{root}/data.pkl"), data, named)
