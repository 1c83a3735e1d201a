"""Bad .pth files are refused by name, good ones of every kind are read."""

import os
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from helpers.bad_archives import CASES, hide_in, payloads, with_entry, without_entry
from helpers.folders import (
    SHARD,
    assert_same,
    edit_entries,
    listing,
    random_weights,
    read_all,
    read_entries,
    refusal,
    write_meta,
)

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.pth.archive import open_archive, plain_dtypes
from llama_cli.errors import ModelRejected


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return write_meta(tmp_path / "model")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_archive_is_refused_by_name(case, folder, capfd):
    case.build(folder)
    assert case.message in refusal(folder).message
    assert capfd.readouterr() == ("", "")


def test_there_are_enough_cases():
    assert len(CASES) >= 50
    assert len({case.name for case in CASES}) == len(CASES)


def test_zip_bomb_costs_nothing(folder):
    """4 MB that unpack to 8 GiB cost plain torch.load all that memory."""
    with zipfile.ZipFile(folder / SHARD, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"N" * (64 << 20))
    assert "compressed" in refusal(folder).message


def test_cut_at_any_place(folder):
    """An interrupted download: at 40 places, and at each of the last 64 bytes."""
    whole = (folder / SHARD).read_bytes()
    places = random.Random(1).sample(range(len(whole)), 40)
    for place in [*places, *range(len(whole) - 64, len(whole))]:
        (folder / SHARD).write_bytes(whole[:place])
        message = refusal(folder).message
        assert f"{place:,} bytes" in message or place == 0, message


@pytest.mark.parametrize(
    "make",
    [
        random_weights,
        lambda: OrderedDict(random_weights()),
        lambda: {name: torch.nn.Parameter(tensor) for name, tensor in random_weights().items()},
        lambda: random_weights() | {"rope.freqs": torch.ones(2)},
    ],
    ids=["dictionary", "OrderedDict", "parameters", "Llama 2's rope.freqs"],
)
def test_what_people_save_is_read(make, folder):
    torch.save(make(), folder / SHARD)
    weights = read_all(folder)
    assert_same(weights, random_weights())
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_state_dict_of_a_module_is_read(folder):
    """state_dict() is an OrderedDict with an attribute, _metadata."""
    module = torch.nn.Linear(2, 2, bias=False)
    torch.save(module.state_dict(), folder / SHARD)
    assert torch.equal(open_archive(folder / SHARD).tensor("weight"), module.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(dtype, tmp_path):
    folder = write_meta(tmp_path, random_weights(dtype=dtype))
    assert_same(read_all(folder), random_weights(dtype=dtype))
    assert open_checkpoint(folder).dtype == dtype


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit_entries(folder, lambda entries: None),
        with_entry("byteorder", b"little"),
        without_entry("byteorder"),
        lambda folder: (folder / SHARD).rename(folder / "x") and (folder / SHARD).symlink_to("x"),
    ],
    ids=["zipped again", "with byteorder", "without byteorder", "symlink"],
)
def test_harmless_changes_are_accepted(change, folder):
    """Also the control of the table: it is not the zipping again that is refused."""
    change(folder)
    assert_same(read_all(folder), random_weights())


@pytest.mark.parametrize(
    ("make", "flaw"),
    [
        (lambda: "text", "of type str"),
        (lambda: torch.eye(2).to_sparse(), "sparse"),
        (lambda: torch.empty(2, device="meta"), "without data"),
        (lambda: torch.ones(2, dtype=torch.int64), "dtype int64"),
        (lambda: torch._neg_view(torch.ones(2)), "attributes"),
        (lambda: torch.randn(2, 2).T, None),
        (lambda: torch.randn(2, 3).T, None),
        (lambda: torch.randn(2, 3, 4).permute(2, 0, 1), None),
        (lambda: torch.randn(6, 4)[1:3], None),
        (lambda: torch.randn(6, 1).T, None),
        (lambda: torch.ones(0, 3).T, None),
        (lambda: torch.tensor(2.0), None),
        (lambda: torch.ones(2, 3, dtype=torch.int8).T, "dtype int8"),
        (lambda: torch.ones(4, 3)[::2], "not contiguous"),
        (lambda: torch.ones(1, 3).expand(4, 3), "not contiguous"),
        (lambda: torch.randn(2), None),
    ],
)
def test_tensors_are_read_as_torch_reads_them_or_refused_by_name(make, flaw, tmp_path):
    weights = {"other.weight": torch.ones(3), "a.weight": make()}
    torch.save(weights, tmp_path / SHARD)
    if flaw is None:
        found = open_archive(tmp_path / SHARD).tensor("a.weight")
        assert torch.equal(found, weights["a.weight"])
        assert found.stride() == weights["a.weight"].stride() or found.numel() < 2 or 1 in found.shape
    else:
        assert flaw in refusal(tmp_path, open_plain).message


def open_plain(folder):
    open_archive(folder / SHARD).require_dtypes(plain_dtypes)


DTYPES = [
    torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int64,
    torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_mapped_bit_by_bit(dtype, tmp_path):
    """Which of them a weight may have is another question."""
    values = torch.randint(0, 2, (5, 3)).to(dtype)
    torch.save({"a": values, "b": values}, tmp_path / SHARD)
    archive = open_archive(tmp_path / SHARD)
    assert archive.dtype("a") == dtype
    assert torch.equal(archive.tensor("a").view(torch.uint8), values.view(torch.uint8))
    assert archive.tensor("a").data_ptr() == archive.tensor("b").data_ptr(), "storages stay shared"


def test_tensors_that_share_a_storage_lie_where_they_lay(tmp_path):
    storage = torch.randn(40)
    saved = {"a": storage[:12].view(3, 4), "b": storage[12:24].view(4, 3).T, "c": storage[4:36], "d": storage}
    torch.save(saved, tmp_path / SHARD)
    archive = open_archive(tmp_path / SHARD)
    for name, tensor in saved.items():
        assert torch.equal(archive.tensor(name), tensor), name
    assert archive.tensor("a").data_ptr() == archive.tensor("d").data_ptr()


def test_a_pickle_cannot_change_what_it_calls(folder):
    """BUILD sets attributes of whatever lies on the stack: of a function of this program, for all later files."""
    for attributes in (b"}X\x01\0\0\0aK\x01s", b"N}X\x0c\0\0\0__defaults__)s\x86", b"N}X\x09\0\0\0has_dtypeK\x01s\x86"):
        code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + attributes + b"b."
        edit_entries(folder, lambda entries, code=code: entries.update({"data.pkl": code}))
        assert "list of tensors is damaged" in refusal(folder).message
    assert_same(read_all(write_meta(folder)), random_weights())


CONTAINERS = ["zip", "raw", "legacy"]


@pytest.mark.promise("P2")
@pytest.mark.parametrize("container", CONTAINERS)
def test_no_payload_runs(container, folder, record_property):
    record_property("cases", 14)
    canary = folder.parent / "canary"
    for name, payload in payloads(canary).items():
        write_meta(folder)
        hide_in(container, folder, payload)
        message = refusal(folder).message
        assert not canary.exists(), name
        assert container != "zip" or "asks to run" in message, (name, message)


def test_payloads_would_run(tmp_path):
    """The control of the test above."""
    canary = tmp_path / "canary"
    for name, payload in payloads(canary).items():
        pickle.loads(payload)
        assert canary.exists(), name
        canary.rmdir() if canary.is_dir() else canary.unlink()


@pytest.mark.promise("P2")
def test_no_payload_runs_even_if_torch_is_told_to(folder, record_property):
    """TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 makes a bare torch.load execute the pickle; no torch.load is called here.

    Nothing else may start, and no file be opened for writing. That the hook sees such a thing, its last line shows.
    """
    canary = folder.parent / "canary"
    places = []
    for name, payload in payloads(canary).items():
        for container in CONTAINERS:
            places.append(write_meta(folder.parent / f"{container} {name}"))
            hide_in(container, places[-1], payload)
    record_property("cases", 2 * len(places))
    script = """
import os
import sys
import torch
from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.pth import headers
from llama_cli.errors import ModelRejected

STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "os.mkdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def watch(event, arguments):
    if event in STARTS or (event == "open" and arguments[2] & WRITES):
        print(event, arguments[0])

sys.addaudithook(watch)
for folder in sys.argv[2:]:
    try:
        open_checkpoint(folder)
    except ModelRejected:
        continue
    print("accepted", folder)
headers.check_pickle = lambda *_: None  # the reader alone
for folder in sys.argv[2:]:
    try:
        open_checkpoint(folder)
    except ModelRejected:
        continue
    print("accepted", folder)
open_checkpoint(sys.argv[1])
open(os.devnull, "r+b")
"""
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, folder, *places], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"open {os.devnull}\n", "")
    assert not canary.exists()


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four small accidents."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed)) if changed else 0
        kind = chance.randrange(5)
        if kind == 0:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            changed[at : at + chance.randint(1, 8)] = b""
        elif kind == 2:
            changed[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 3:
            changed[at : at + 4] = chance.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"])
        else:
            other = chance.randrange(len(changed)) if changed else 0
            changed[at : at + 16] = changed[other : other + 16]
    return bytes(changed)


def survives(folder) -> None:
    """Only one kind of error, or tensors of the right shapes."""
    said = []
    try:
        read_all(folder)
    except ModelRejected as error:
        said = [error.message, error.hint or "-"]
    assert all(text.isprintable() for text in said), said


def fuzz(folder, seed: int, rounds: int, capfd) -> None:
    chance = random.Random(seed)
    whole = (folder / SHARD).read_bytes()
    program = open_entry(folder, "data.pkl")
    directory = len(whole) - 4096
    for _ in range(rounds):
        kind = chance.randrange(3)
        if kind == 0:
            (folder / SHARD).write_bytes(mutated(whole, chance))
        elif kind == 1:
            (folder / SHARD).write_bytes(whole[:directory] + mutated(whole[directory:], chance))
        else:
            (folder / SHARD).write_bytes(whole)
            edit_entries(folder, lambda entries: entries.update({"data.pkl": mutated(program, chance)}))
        survives(folder)
    assert capfd.readouterr() == ("", "")


def open_entry(folder, name: str) -> bytes:
    return dict(read_entries(folder / SHARD))[name]


@pytest.mark.promise("P3")
@pytest.mark.parametrize("seed", range(3))
def test_mutations_are_refused_or_read(seed, folder, capfd, record_property):
    record_property("cases", 150)
    fuzz(folder, seed, 150, capfd)


@pytest.mark.promise("P3")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 108))
def test_many_mutations_are_refused_or_read(seed, folder, capfd, record_property):
    record_property("cases", 2500)
    fuzz(folder, seed, 2500, capfd)


def test_opening_takes_no_memory_and_no_time(tmp_path):
    """8 GiB of weights that are holes on the disk: nothing of them may be read, let alone allocated."""
    with torch.serialization.skip_data():
        torch.save({f"w{n}": torch.empty(1 << 29, dtype=torch.bfloat16) for n in range(8)}, tmp_path / SHARD)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    archive = open_archive(tmp_path / SHARD)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert len(archive.names()) == 8
    assert grown < 64 << 10, "KiB"
    assert list(listing(tmp_path)) == [str(tmp_path / SHARD)]
