"""A disk that is full, fails or may not be written: whole rows stay, and the same command goes on later."""

import errno
import json
import os
import re
import subprocess
from functools import partial

import pytest
from helpers import commands, faults
from helpers.models import DATA

N_ROWS = 12
FLAGS = ["-m", DATA / "tiny/bpe1024", "--seed", "1", "-q", "-n", "6"]
ROW_BYTES = 500  # about
pytestmark = pytest.mark.promise("P7")


@pytest.fixture(name="source")
def _source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"number {n}"}) + "\n" for n in range(N_ROWS)))
    return path


@pytest.fixture(name="clean")
def _clean(source, tmp_path):
    """What a run on a good disk writes."""
    (tmp_path / "clean").mkdir()
    out = tmp_path / "clean/out.jsonl"
    assert commands.run("batch", source, "-o", out, *FLAGS).code == 0
    return normal(out)


def normal(path):
    return re.sub(rb'"created": \d+', b"", path.read_bytes())


def assert_stopped(ended, out, clean):
    """Exit 74 with one reason and one thing to do; the file is a beginning of the clean one, row by row."""
    assert ended.code == 74, ended
    assert ended.out == b""
    assert len(ended.lines) == 2
    assert ended.lines[0].startswith(f"llama-cli: error: cannot write {out}")
    written = normal(out)
    assert written == b"" or written.endswith(b"\n")
    assert clean.startswith(written)
    assert written.count(b"\n") < N_ROWS


def resume(source, out, clean):
    assert commands.run("batch", source, "-o", out, *FLAGS).code == 0
    assert normal(out) == clean


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_what_the_system_says_in_the_middle(call, number, source, clean, tmp_path):
    """The call is one of those for rows; those before it are for run.json and the list of started rows."""
    out = tmp_path / "out.jsonl"
    ended = commands.run("batch", source, "-o", out, *FLAGS, prepare=partial(fail_on_rows, call, str(out), number))
    assert_stopped(ended, out, clean)
    assert os.strerror(number).lower() in ended.lines[0]
    resume(source, out, clean)


def fail_on_rows(call, path, number):
    """The third call on the output file itself, and those after it."""
    real, n_calls = getattr(os, call), 0

    def guarded(fd, *data):
        nonlocal n_calls
        n_calls += os.readlink(f"/proc/self/fd/{fd}") == path
        if n_calls < 3:
            return real(fd, *data)
        if data:
            real(fd, bytes(data[0])[: len(data[0]) // 2])
        raise OSError(number, os.strerror(number))

    setattr(os, call, guarded)


@pytest.mark.parametrize("rows", [0.5, 2.5, 5.2])
def test_a_limit_for_files(rows, source, clean, tmp_path):
    out = tmp_path / "out.jsonl"
    prepare = partial(faults.limit_files, int(rows * ROW_BYTES) + 1200)  # run.json has its 700 bytes
    assert_stopped(commands.run("batch", source, "-o", out, *FLAGS, prepare=prepare), out, clean)
    resume(source, out, clean)


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path):
    """A file system of 16 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full(source, clean, small_disk):
    out, ballast = small_disk / "out.jsonl", small_disk / "ballast"
    ballast.write_bytes(bytes(4096))
    (small_disk / "more").write_bytes(bytes(4096))
    assert_stopped(commands.run("batch", source, "-o", out, *FLAGS), out, clean)
    ballast.unlink()
    (small_disk / "more").unlink()
    resume(source, out, clean)


def test_a_disk_that_may_only_be_read(source, clean, small_disk):
    out = small_disk / "out.jsonl"
    remount = ["mount", "-o", "remount,size=1m", str(small_disk)]
    subprocess.run(remount, check=True)
    assert commands.run("batch", source, "-o", out, *FLAGS, "--shard", "1/1").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended = commands.run("batch", source, "-o", small_disk / "other.jsonl", *FLAGS)
    assert (ended.code, len(ended.lines)) == (74, 2)
    assert "read-only file system" in ended.lines[0]
    assert normal(out) == clean
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


@pytest.mark.parametrize("arguments", [["complete", "Hello"], ["score", "Hello"], ["tokenize", "Hello"], ["models"]])
def test_standard_output_on_a_full_disk(arguments, tmp_path):
    """What is printed is part of it too: /dev/full."""
    ended = commands.run(
        *arguments, *(FLAGS[:2] if arguments[0] != "models" else []), prepare=partial(commands.print_to, "/dev/full")
    )
    assert ended.code == 74
    assert ended.lines == ["llama-cli: error: cannot write standard output: no space left on device",
                           "hint: free some space"]  # fmt: skip
