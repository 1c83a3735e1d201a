"""Bad consolidated.00.pth files: (name, what turns the good file of a folder into it, part of the message)."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from helpers.folders import SHARD, edit_entries, random_weights, read_entries, write_entries
from safetensors.torch import save_file

NAME = "norm.weight"


class BadArchive(NamedTuple):
    name: str
    build: Callable[[Path], object]
    message: str


def bytes_are(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / SHARD).write_bytes(content)


def bytes_become(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / SHARD).write_bytes(change((folder / SHARD).read_bytes()))


def saved(make: Callable[[], object], **options: object) -> Callable[[Path], None]:
    """The whole object that torch.save writes."""

    def build(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(make(), folder / SHARD, **options)

    return build


def with_value(make: Callable[[], object]) -> Callable[[Path], None]:
    """A good checkpoint but for one value."""
    return saved(lambda: random_weights() | {NAME: make()})


def entries_become(edit: Callable[[dict[str, bytes]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_entries(folder, edit)


def with_entry(name: str, data: bytes = b"x") -> Callable[[Path], None]:
    return entries_become(lambda entries: entries.update({name: data}))


def without_entry(name: str) -> Callable[[Path], None]:
    return entries_become(lambda entries: entries.pop(name))


def rezipped(compression: int, only: str | None = None) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        entries = read_entries(folder / SHARD)
        with zipfile.ZipFile(folder / SHARD, "w") as archive:
            for name, data in entries:
                how = compression if only in (None, name) else zipfile.ZIP_STORED
                archive.writestr("archive/" + name, data, compress_type=how)

    return build


def central(name: str, offset: int, layout: str, value: int) -> Callable[[Path], None]:
    """Overwrite one field of an entry's header in the central directory."""

    def build(folder: Path) -> None:
        data = bytearray((folder / SHARD).read_bytes())
        at = data.rfind(f"consolidated.00/{name}".encode()) - 46
        assert data[at : at + 4] == b"PK\x01\x02"
        struct.pack_into(layout, data, at + offset, value)
        (folder / SHARD).write_bytes(data)

    return build


def grown(name: str, by: int) -> Callable[[Path], None]:
    """An entry that claims more bytes than it has, in both sizes."""

    def build(folder: Path) -> None:
        size = next(len(data) for entry, data in read_entries(folder / SHARD) if entry == name)
        central(name, 20, "<I", size + by)(folder)
        central(name, 24, "<I", size + by)(folder)

    return build


def duplicated(folder: Path) -> None:
    entries = read_entries(folder / SHARD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_entries(folder / SHARD, [*entries, entries[-1]])


def second_root(folder: Path) -> None:
    with zipfile.ZipFile(folder / SHARD, "a") as archive:
        archive.writestr("other/data/0", b"x")


def with_extra(folder: Path) -> None:
    with zipfile.ZipFile(folder / SHARD, "a") as archive:
        info = zipfile.ZipInfo(archive.namelist()[0].split("/")[0] + "/data/99")
        info.extra = struct.pack("<2H4s", 0x5455, 4, b"time")
        archive.writestr(info, b"x")


def directory_of(archive: bytes, shift: int) -> bytes:
    """The directory of what torch.save wrote, as it is where the archive lies `shift` bytes further on."""
    (start,) = struct.unpack_from("<Q", archive, len(archive) - 98 + 48)
    directory = bytearray(archive[start:-98])
    at = 0
    while at < len(directory):
        name_length, extra_length = struct.unpack_from("<2H", directory, at + 28)
        (place,) = struct.unpack_from("<I", directory, at + 42)
        struct.pack_into("<I", directory, at + 42, place + shift)
        at += 46 + name_length + extra_length
    return bytes(directory)


def other_directory(folder: Path) -> None:
    """The ZIP64 locator names a second end record and directory, which torch follows and Python's zipfile does not."""
    good = (folder / SHARD).read_bytes()
    torch.save({"hidden": torch.ones(1 << 20)}, folder / SHARD)
    hidden = (folder / SHARD).read_bytes()
    both = good[:-98] + hidden[:-98]
    directories = [directory_of(hidden, len(good) - 98), directory_of(good, 0)]
    ends = []
    for directory in directories:
        end = bytearray(hidden[-98:-42])
        count = directory.count(b"PK\1\2")
        struct.pack_into("<4Q", end, 24, count, count, len(directory), len(both))
        ends.append(end)
        both += directory + (end if len(ends) == 1 else b"")
    at = len(good) - 98 + len(hidden) - 98 + len(directories[0])
    locator = b"PK\6\7" + struct.pack("<IQI", 0, at, 1)
    (folder / SHARD).write_bytes(both + ends[1] + locator + hidden[-22:])


def safetensors_renamed(folder: Path) -> None:
    save_file(random_weights(), folder / SHARD)


def tar(folder: Path) -> None:
    with tarfile.open(folder / SHARD, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def real_torchscript(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), folder / SHARD)


def sparse_csr() -> torch.Tensor:
    return torch.eye(32).to_sparse_csr()


class Odd(torch.Tensor):
    """A subclass, which torch pickles by its name."""


def with_attribute() -> torch.Tensor:
    tensor = torch.ones(32, dtype=torch.bfloat16)
    tensor.is_contiguous_really = True  # type: ignore[attr-defined]
    return tensor


# An OrderedDict whose own `items` would show no tensor: {"evil": []} with the attribute items = OrderedDict.
SHADOWED_ITEMS = (
    b"\x80\x02ccollections\nOrderedDict\n)R"
    + (b"X\x04\0\0\0evil" + b"]s")
    + (b"}X\x05\0\0\0items" + b"ccollections\nOrderedDict\nsb.")
)


def deep_list() -> list:
    nested: list = []
    for _ in range(300):
        nested = [nested, nested]
    return nested


def byte_array(folder: Path) -> None:
    """torch's own list allows bytearray, and so 2 ** 40 bytes."""
    program = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R."
    edit_entries(folder, lambda entries: entries.update({"data.pkl": program}))


def program(code: bytes) -> Callable[[Path], None]:
    return with_entry("data.pkl", code)


ZEROS = b"\0" * 4096
DAMAGED = "cut short or damaged"
SIZES = "sizes of its tensors and of its data disagree"

FOREIGN = [
    BadArchive("empty", bytes_are(b""), "is empty"),
    BadArchive("one byte", bytes_are(b"P"), "it has 1 bytes and begins with b'P'"),
    BadArchive("all zeros", bytes_are(ZEROS), "full of zeros (4,096 bytes)"),
    BadArchive("text", bytes_are(b"hello world\n"), "unknown kind"),
    BadArchive("control characters", bytes_are(b"\x1b[2J\x1b]0;x\x07"), r"begins with b'\x1b[2J"),
    BadArchive("git-lfs pointer", bytes_are(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git-lfs"),
    BadArchive("web page", bytes_are(b"\n<!DOCTYPE html><html>"), "web page"),
    BadArchive("XML", bytes_are(b"<?xml version='1.0'?><Error>AccessDenied</Error>"), "web page"),
    BadArchive("JSON", bytes_are(b'{"error": "gated"}'), "JSON"),
    BadArchive("GGUF", bytes_are(b"GGUF\3\0\0\0" + ZEROS), "GGUF"),
    BadArchive("gzip", bytes_are(gzip.compress(b"x")), "gzip"),
    BadArchive("tar", tar, "tar archive"),
    BadArchive("safetensors", safetensors_renamed, "a safetensors file"),
    BadArchive("bare pickle", bytes_are(pickle.dumps({"a": 1})), "old pickle"),
    BadArchive("legacy format", saved(dict, _use_new_zipfile_serialization=False), "old pickle"),
]

ZIP = [
    BadArchive("only a local header", bytes_are(b"PK\x03\x04"), DAMAGED),
    BadArchive("no end", bytes_become(lambda data: data[:-22]), DAMAGED),
    BadArchive("half", bytes_become(lambda data: data[: len(data) // 2]), DAMAGED),
    BadArchive("zeros at the end", bytes_become(lambda data: data[:-4096] + ZEROS), DAMAGED),
    BadArchive("many zeros appended", bytes_become(lambda data: data + b"\0" * 70000), DAMAGED),
    BadArchive("all deflated", rezipped(zipfile.ZIP_DEFLATED), "is compressed"),
    BadArchive("deflated pickle", rezipped(zipfile.ZIP_DEFLATED, "data.pkl"), "'archive/data.pkl' is compressed"),
    BadArchive("deflated weights", rezipped(zipfile.ZIP_DEFLATED, "data/0"), "'archive/data/0' is compressed"),
    BadArchive("bzip2", rezipped(zipfile.ZIP_BZIP2, "data/0"), "is compressed"),
    BadArchive("lzma", rezipped(zipfile.ZIP_LZMA, "data/0"), "is compressed"),
    BadArchive("encrypted", central("data/0", 8, "<H", 1), "is encrypted"),
    BadArchive("sizes differ", central("data/0", 20, "<I", 8), "is compressed"),
    BadArchive("entry twice", duplicated, "an entry is there twice"),
    BadArchive("entry twice but for case", with_entry("DATA.PKL"), "an entry is there twice"),
    BadArchive("parent folder", with_entry("data/../../../etc/passwd"), "points outside"),
    BadArchive("backslash", with_entry("data\\..\\0"), "points outside"),
    BadArchive("zero in a name", bytes_become(lambda d: d.replace(b"/version", b"/vers\0on")), "points outside"),
    BadArchive("other local name", bytes_become(lambda d: d.replace(b"/version", b"/revisio", 1)), "headers of entry"),
    BadArchive("local header elsewhere", central("data/1", 42, "<I", 7), "headers of entry"),
    BadArchive("overlap", grown("data/0", 4096), "overlaps"),
    BadArchive("beyond the end", grown("data/0", 1 << 30), "overlaps"),
    BadArchive("two archives", bytes_become(lambda data: data + data), "two archives"),
    BadArchive("bytes in front", bytes_become(lambda data: b"PK\x03\x04" + ZEROS + data), "two archives"),
    BadArchive("a directory for torch alone", other_directory, "two archives"),
    BadArchive("bytes behind", bytes_become(lambda data: data + b"trailing"), "two archives"),
    BadArchive("comment", bytes_become(lambda data: data[:-2] + b"\3\0abc"), "two archives"),
    BadArchive("locator elsewhere", bytes_become(lambda d: d[:-34] + b"\7" + d[-33:]), "two archives"),
    BadArchive("another count", bytes_become(lambda d: d[:-12] + b"\1\0" + d[-10:]), "two archives"),
    BadArchive("extra field", with_extra, "extra field"),
    BadArchive("second root", second_root, "several roots"),
    BadArchive("unexpected entry", with_entry("run.sh"), "unexpected entry 'run.sh'"),
    BadArchive("escape in a name", with_entry("\x1b[2J\n"), r"unexpected entry '\x1b[2J\n'"),
    BadArchive("TorchScript entries", with_entry("constants.pkl"), "TorchScript"),
    BadArchive("TorchScript code", with_entry("code/__torch__.py"), "TorchScript"),
    BadArchive("TorchScript", real_torchscript, "TorchScript"),
    BadArchive("no pickle", without_entry("data.pkl"), "no data.pkl"),
    BadArchive("huge pickle", with_entry("data.pkl", b"N" * (5 << 20)), "data.pkl has 5,242,880 bytes"),
    BadArchive("huge byteorder", with_entry("byteorder", b"little" * 1000), "byteorder has 6,000 bytes"),
    BadArchive("big-endian", with_entry("byteorder", b"big"), "little-endian"),
    BadArchive("unused record", with_entry("data/99", b"\0" * 64), SIZES),
    BadArchive("missing record", without_entry("data/0"), "damaged"),
    BadArchive("short record", entries_become(lambda e: e.update({"data/0": e["data/0"][:-8]})), SIZES),
    BadArchive("long record", entries_become(lambda e: e.update({"data/0": e["data/0"] + b"\0" * 8})), SIZES),
    BadArchive("empty record", entries_become(lambda e: e.update({"data/0": b""})), SIZES),
]

PICKLE = [
    BadArchive("no program", program(b""), "list of tensors is damaged"),
    BadArchive("no end of program", program(b"\x80\x02}"), "list of tensors is damaged"),
    BadArchive("unknown operation", program(b"\x80\x02\xff."), "list of tensors is damaged"),
    BadArchive("empty stack", program(b"\x80\x02."), "list of tensors is damaged"),
    BadArchive("extension registry", program(b"\x80\x02\x82\x01."), "list of tensors is damaged"),
    BadArchive("protocol 0", saved(random_weights, pickle_protocol=0), "list of tensors is damaged"),
    BadArchive("protocol 4", saved(random_weights, pickle_protocol=4), "pickle protocol 4"),
    BadArchive("byte array", byte_array, "'builtins.bytearray'"),
    BadArchive("numpy array", with_value(lambda: torch.ones(3).numpy()), "asks to run 'numpy"),
    BadArchive("module", saved(lambda: torch.nn.Linear(2, 2)), "asks to run 'torch.nn"),
    BadArchive("number", saved(lambda: 1), "of type int"),
    BadArchive("nothing", saved(lambda: None), "of type NoneType"),
    BadArchive("list", saved(lambda: [torch.ones(2)]), "of type list"),
    BadArchive("billion laughs", saved(deep_list), "of type list"),
    BadArchive("bare tensor", saved(lambda: torch.ones(2)), "of type Tensor"),
    BadArchive("empty dictionary", saved(dict), "tok_embeddings.weight is missing"),
    BadArchive("nested twice", saved(lambda: {"model": {"model": random_weights()}}), "'model' is of type dict"),
    BadArchive(
        "an optimizer beside",
        saved(lambda: {"model": random_weights(), "optimizer": {0: torch.ones(2)}}),
        "'optimizer'",
    ),
    BadArchive(
        "two models", saved(lambda: {"model": random_weights(), "ema": random_weights()}), "'ema', of type dict"
    ),
    BadArchive("numbers alone", saved(lambda: {"model": {"epoch": 3}, "epoch": 3}), "'model' is of type dict"),
    BadArchive(
        "laughs beside", saved(lambda: random_weights() | {"x": [deep_list(), torch.ones(2)]}), "'x' is of type list"
    ),
    BadArchive(
        "one weight twice", saved(lambda: random_weights() | {f"_orig_mod.{NAME}": torch.ones(32)}), "under two names"
    ),
    BadArchive("dictionary with own items", program(SHADOWED_ITEMS), "'evil' is of type list"),
    BadArchive("number as a value", with_value(lambda: 3), f"'{NAME}' is of type int"),
    BadArchive("text as a value", with_value(lambda: "x"), f"'{NAME}' is of type str"),
    BadArchive("number as a key", saved(lambda: random_weights() | {7: torch.ones(1)}), "a key is of type int"),
    BadArchive("tuple as a key", saved(lambda: random_weights() | {(1,): torch.ones(1)}), "a key is of type tuple"),
    BadArchive("escape in a key", saved(lambda: {"\x1b[2J\n": 1}), r"'\x1b[2J\n' is of type int"),
]


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(32), 0.1, 0, torch.qint8)


def nested_tensor() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


TENSORS = [
    BadArchive("quantized", with_value(quantized), "quantized tensors"),
    BadArchive("sparse", with_value(lambda: torch.eye(32).to_sparse()), "sparse tensors"),
    BadArchive("sparse rows", with_value(sparse_csr), "sparse tensors"),
    BadArchive("nested tensor", with_value(nested_tensor), "nested tensors"),
    BadArchive("meta", with_value(lambda: torch.empty(32, device="meta")), "tensors without data"),
    BadArchive("subclass", with_value(lambda: torch.ones(32).as_subclass(Odd)), "class of their own"),
    BadArchive("attribute", with_value(with_attribute), "attributes"),
    BadArchive("negation bit", with_value(lambda: torch._neg_view(torch.ones(32))), "it has attributes"),
    BadArchive("complex", with_value(lambda: torch.ones(32, dtype=torch.complex64)), "dtype complex64"),
    BadArchive("float64", with_value(lambda: torch.ones(32, dtype=torch.float64)), "dtype float64"),
    BadArchive("int8", with_value(lambda: torch.ones(32, dtype=torch.int8)), "dtype int8"),
    BadArchive("bool", with_value(lambda: torch.ones(32, dtype=torch.bool)), "dtype bool"),
    BadArchive("float8", with_value(lambda: torch.ones(32).to(torch.float8_e4m3fn)), "dtype float8_e4m3fn"),
    BadArchive("stride 0", with_value(lambda: torch.ones(1).expand(1 << 30)), "not contiguous"),
    BadArchive("every second column", with_value(lambda: torch.ones(4, 8)[:, ::2]), "not contiguous"),
    BadArchive("transposed float64", with_value(lambda: torch.ones(4, 8, dtype=torch.float64).T), "dtype float64"),
    BadArchive("part of a storage", with_value(lambda: torch.ones(64, dtype=torch.bfloat16)[::2]), "not contiguous"),
    BadArchive("scalar", with_value(lambda: torch.tensor(1.0)), "must have 1 dimensions"),
]

CASES = [*FOREIGN, *ZIP, *PICKLE, *TENSORS]


def calling(function: str, *arguments: object) -> bytes:
    """A pickle that calls a function and is good otherwise: the result is thrown away."""
    module, name = function.rsplit(".", 1)
    packed = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + packed + b"R0}."


def payloads(canary: Path) -> dict[str, bytes]:
    """Programs that make a file. Each is called by plain pickle as it is."""
    touch = f"touch '{canary}'"
    write = f"open({str(canary)!r}, 'w').close()"
    nested = f"__import__('os').system({touch!r})"
    return {
        "system": calling("posix.system", touch),
        "os": calling("os.system", touch),
        "eval": calling("builtins.eval", nested),
        "exec": calling("builtins.exec", write),
        "popen": calling("subprocess.getoutput", touch),
        "check_output": calling("subprocess.check_output", ["touch", str(canary)]),
        "mknod": calling("os.mknod", str(canary)),
        "mkdir": calling("os.mkdir", str(canary)),
        "copy": calling("shutil.copyfile", __file__, str(canary)),
        "torch.save": calling("torch.save", 1, str(canary)),
        "INST": b"\x80\x02(" + pickle.dumps(touch, protocol=2)[2:-1] + b"iposix\nsystem\n0}.",
        "OBJ": b"\x80\x02(cposix\nsystem\n" + pickle.dumps(touch, protocol=2)[2:-1] + b"o0}.",
        "STACK_GLOBAL": pickle.dumps(_Call(os.system, touch), protocol=4),
        "protocol 5": pickle.dumps(_Call(os.mkdir, str(canary)), protocol=5),
    }


class _Call:
    def __init__(self, function: Callable, argument: str) -> None:
        self._reduced = (function, (argument,))

    def __reduce__(self) -> tuple:
        return self._reduced


def hide_in(container: str, folder: Path, payload: bytes) -> None:
    """Put a program into the folder's checkpoint, in one of the forms that torch has read."""
    if container == "zip":
        edit_entries(folder, lambda entries: entries.update({"data.pkl": payload}))
    elif container == "raw":
        (folder / SHARD).write_bytes(payload)
    else:
        legacy = io.BytesIO()
        torch.save({}, legacy, _use_new_zipfile_serialization=False)
        (folder / SHARD).write_bytes(legacy.getvalue()[:-2] + payload[2:])
