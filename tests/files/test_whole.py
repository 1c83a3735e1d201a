"""Calls of the system that end early: no byte is lost, none comes twice."""

import os
import random

import pytest
from helpers.short_calls import end_early

from llama_cli.files.whole import read_at, write_all, write_all_at
from llama_cli.files.write import replace_file

DATA = random.Random(3).randbytes(10_000)


@pytest.fixture(name="handle")
def _handle(tmp_path):
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield handle
    os.close(handle)


@pytest.mark.parametrize("seed", range(20))
def test_all_is_written_and_read(handle, seed, monkeypatch):
    end_early(monkeypatch, seed)
    write_all(handle, DATA[:6000])
    write_all_at(handle, memoryview(DATA)[5000:], 5000)
    assert read_at(handle, len(DATA), 0) == DATA
    assert read_at(handle, 4000, 123) == DATA[123:4123]


def test_a_file_may_end_before(handle):
    write_all(handle, DATA)
    assert read_at(handle, 500, len(DATA) - 20) == DATA[-20:]
    assert read_at(handle, 500, len(DATA)) == read_at(handle, 500, 2 * len(DATA)) == read_at(handle, 0, 0) == b""


def test_nothing_to_write(handle):
    write_all(handle, b"")
    write_all_at(handle, b"", 7)
    assert os.fstat(handle).st_size == 0


def test_a_full_disk_is_told(handle, monkeypatch):
    """It takes a part first; the error comes with the rest."""
    sizes = iter([3, 2])

    def write(handle, data):
        try:
            return next(sizes)
        except StopIteration:
            raise OSError(28, "No space left on device") from None

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        write_all(handle, b"1234567")


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    """Python's own files go on by themselves."""
    end_early(monkeypatch)
    replace_file(tmp_path / "file", iter([DATA, b"", DATA[::-1]]))
    assert (tmp_path / "file").read_bytes() == DATA + DATA[::-1]
