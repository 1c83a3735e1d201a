"""Opens one consolidated.NN.pth: the safety gate before, around and after torch.load.

`weights_only=True` is needed and not enough: it accepts archives with wrong byte order, wrong record
sizes, duplicate entries, quantised or sparse tensors, and unpacks compressed entries of any size. So the
zip directory is checked first, and every tensor afterwards. Nothing is unpacked or executed here.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ModelRejected
from .regular_file import Identity, identify, read_head, unreadable

MAX_ENTRIES = 200_000
MAX_PICKLE_BYTES = 32 << 20
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
DOWNLOAD_AGAIN = "download the file again"
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # PKWARE's APPNOTE 4.3.7

# Entries that torch.save writes, beside data/N.
KNOWN_ENTRIES = {
    "data.pkl",
    "byteorder",
    "version",
    ".format_version",
    ".storage_alignment",
    ".data/serialization_id",
}

# What lies under this name on people's disks instead, by its first bytes.
FOREIGN = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights", "git lfs pull"),
    (b"GGUF", "a GGUF file", "give the folder of Meta's own files"),
    (b"\x80", "an old pickle from before torch 1.6", "load it with that torch and torch.save it again"),
    (b"<", "a web page, not the weights", "download it again, signed in"),
    (b"{", "JSON, not the weights", DOWNLOAD_AGAIN),
)


@dataclass(frozen=True)
class Archive:
    """The tensors of one file, mapped from disk and not yet read."""

    path: Path
    identity: Identity
    tensors: dict[str, Tensor]

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def open_archive(path: Path, *, mmap: bool = True) -> Archive:
    """Open a .pth behind the gate; `mmap=False` reads it into memory instead of mapping it."""
    identity = identify(path)
    _refuse_foreign(path, identity.size)
    records = _check_directory(path, identity.size)
    _refuse_code(path)
    loaded = _load(path, mmap)
    _check_tensors(path, loaded)
    _check_records(path, loaded, records, mmap)
    return Archive(path, identity, {name: tensor for name, tensor in loaded.items() if name != "rope.freqs"})


def _refuse_foreign(path: Path, size: int) -> None:
    head = read_head(path, 512)
    if head.startswith(b"PK\x03\x04"):
        return
    if not head.strip(b"\0"):
        what = f"full of zeros ({size:,} bytes)" if size else "empty"
        raise ModelRejected(f"{path.name} is {what}: a download that failed", DOWNLOAD_AGAIN)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        raise ModelRejected(f"{path.name} is a safetensors file", "rename it to consolidated.safetensors")
    for beginning, what, hint in FOREIGN:
        if head.lstrip().startswith(beginning):
            raise ModelRejected(f"{path.name} is {what}", hint)
    raise ModelRejected(f"{path.name} is no torch checkpoint; it begins with {head[:8]!r}", DOWNLOAD_AGAIN)


@dataclass(frozen=True)
class Record:
    """Where one entry's bytes lie in the file."""

    offset: int
    size: int


def _check_directory(path: Path, size: int) -> list[Record]:
    """Check the zip directory; returns where the tensor data lie."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES:
                raise ModelRejected(f"{path.name} has {len(entries):,} entries; a checkpoint has fewer")
            located = {entry.filename: _locate(path, archive, entry) for entry in entries}
            if len(located) != len(entries):
                raise ModelRejected(f"{path.name}: an entry is there twice", DOWNLOAD_AGAIN)
            _check_overlap(path, entries, located, size)
            return _check_names(path, archive, located)
    except ModelRejected:
        raise
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception:  # zipfile raises many kinds on damaged files
        raise ModelRejected(
            f"{path.name} is cut short or damaged (no zip directory at its end): {size:,} bytes",
            DOWNLOAD_AGAIN,
        ) from None


def _locate(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Record:
    """The place of one entry, which must be stored as it is and named alike in both of its headers."""
    name = entry.filename
    shown = name[:60]
    if entry.flag_bits & 0x1:
        raise ModelRejected(f"{path.name}: entry {shown!r} is encrypted", DOWNLOAD_AGAIN)
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ModelRejected(f"{path.name}: compressed entry {shown!r}; torch writes none", DOWNLOAD_AGAIN)
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise ModelRejected(f"{path.name}: entry {shown!r} points outside the archive", DOWNLOAD_AGAIN)
    assert archive.fp is not None, "the archive is open"
    archive.fp.seek(entry.header_offset)
    header = archive.fp.read(LOCAL_HEADER.size)
    fields = LOCAL_HEADER.unpack(header)
    name_length, extra_length = fields[9], fields[10]
    local_name = archive.fp.read(name_length)
    if fields[0] != b"PK\x03\x04" or local_name != entry.orig_filename.encode("utf-8", "surrogateescape"):
        raise ModelRejected(f"{path.name}: the two headers of entry {shown!r} disagree", DOWNLOAD_AGAIN)
    return Record(entry.header_offset + LOCAL_HEADER.size + name_length + extra_length, entry.file_size)


def _check_overlap(path: Path, entries: list[zipfile.ZipInfo], located: dict[str, Record], size: int) -> None:
    last = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        record = located[entry.filename]
        if entry.header_offset < last or record.offset + record.size > size:
            raise ModelRejected(
                f"{path.name}: entry {entry.filename[:60]!r} overlaps another or the end", DOWNLOAD_AGAIN
            )
        last = record.offset + record.size


def _check_names(path: Path, archive: zipfile.ZipFile, located: dict[str, Record]) -> list[Record]:
    """One root folder with a small data.pkl, little-endian, nothing that torch.save does not write."""
    roots = {name.split("/", 1)[0] for name in located}
    if len(roots) != 1:
        raise ModelRejected(f"{path.name} is no torch checkpoint: it has {len(roots)} root folders", DOWNLOAD_AGAIN)
    root = roots.pop()
    inner = {name[len(root) + 1 :]: record for name, record in located.items()}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise ModelRejected(f"{path.name} is a TorchScript program, not a checkpoint", "give Meta's own file")
    if "data.pkl" not in inner:
        raise ModelRejected(f"{path.name} is a zip archive, but no torch checkpoint (no data.pkl)", DOWNLOAD_AGAIN)
    if inner["data.pkl"].size > MAX_PICKLE_BYTES:
        raise ModelRejected(f"{path.name}: data.pkl has {inner['data.pkl'].size:,} bytes; a checkpoint's has fewer")
    if "byteorder" in inner and archive.read(f"{root}/byteorder") != b"little":
        raise ModelRejected(f"{path.name} is not little-endian", "save it again on a little-endian machine")
    unknown = [name for name in inner if name not in KNOWN_ENTRIES and not name.startswith("data/")]
    if unknown:
        raise ModelRejected(f"{path.name}: unexpected entry {unknown[0][:60]!r}", DOWNLOAD_AGAIN)
    return [record for name, record in inner.items() if name.startswith("data/") and record.size]


def _refuse_code(path: Path) -> None:
    """Name what a pickle would call, without calling it."""
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # it meets damaged pickles with exceptions of many kinds
        raise ModelRejected(f"{path.name}: its list of tensors is damaged", DOWNLOAD_AGAIN) from None
    if wanted:
        raise ModelRejected(
            f"{path.name} asks to run {wanted[0][:80]!r}; refusing: not a plain Llama checkpoint",
            "do not trust the place it came from; get the file from Meta",
        )


def _load(path: Path, mmap: bool) -> dict[str, Tensor]:
    try:
        # weights_only is spelt out: without it, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 would run the pickle.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception:  # torch's own texts advise to turn the protection off
        raise ModelRejected(f"{path.name} is damaged: torch cannot read it", DOWNLOAD_AGAIN) from None
    if type(loaded).__name__ not in ("dict", "OrderedDict"):
        raise ModelRejected(f"{path.name} holds a {type(loaded).__name__}, not a dictionary of tensors")
    return loaded  # type: ignore[no-any-return]


def _check_tensors(path: Path, loaded: dict[str, Tensor]) -> None:
    """Plain dense tensors under text names; nothing is done with a tensor before it passed."""
    for name, tensor in loaded.items():
        if type(name) is not str:
            raise ModelRejected(f"{path.name}: a key is a {type(name).__name__}, not a name")
        flaw = _flaw(tensor)
        if flaw:
            nested = " (nested: save the inner dictionary alone)" if isinstance(tensor, dict) else ""
            raise ModelRejected(f"{path.name}: {name[:80]!r} is {flaw}{nested}")


def _flaw(tensor: object) -> str | None:
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}, not a tensor"
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_nested:
        return "quantised, sparse or nested; only plain tensors are read"
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type!r}, without data"
    if tensor.dtype not in DTYPES:
        return f"of dtype {str(tensor.dtype)[6:]}; bfloat16, float16 and float32 are read"
    if not tensor.is_contiguous():
        return "not contiguous"
    end = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    if end > tensor.untyped_storage().nbytes():
        return "larger than its data"
    return None


def _places(loaded: dict[str, Tensor]) -> Iterator[tuple[int, int]]:
    for tensor in loaded.values():
        storage = tensor.untyped_storage()
        if storage.nbytes():
            yield storage.data_ptr(), storage.nbytes()


def _check_records(path: Path, loaded: dict[str, Tensor], records: list[Record], mmap: bool) -> None:
    """The storages must be the records of the archive, each at its place with its size.

    torch trusts the sizes in the pickle when it maps a file; a wrong one reads a neighbour's weights.
    """
    storages = set(_places(loaded))
    if mmap and storages and records:
        first = min(address for address, _ in storages)
        lowest = min(record.offset for record in records)
        found = sorted((address - first, size) for address, size in storages)
        expected = sorted((record.offset - lowest, record.size) for record in records)
        agrees = found == expected
    else:
        agrees = sorted(size for _, size in storages) == sorted(record.size for record in records)
    if not agrees:
        raise ModelRejected(f"{path.name}: the sizes of its tensors and of its data disagree", DOWNLOAD_AGAIN)
