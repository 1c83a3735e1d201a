"""A batch whose reads and writes of files end early: its files are the same to the byte."""

import os
import random

import numpy
import pytest
from helpers.short_calls import end_early

from llama_cli.engine.request import Sampling
from llama_cli.jobs.finished import Asked
from llama_cli.jobs.ledger import Ledger
from llama_cli.jobs.results import Answer, RowWriter
from llama_cli.jobs.rows import BatchRow, hash_of
from llama_cli.jobs.source import Source
from llama_cli.jobs.starts import Starts

N_ROWS = 12
SEEDS = pytest.mark.parametrize("seed", range(10))


def rows():
    """Lines of several sizes, as a batch writes them."""
    writer, chance = RowWriter("openai", "model", 7), random.Random(5)
    return [
        writer.answer(
            BatchRow(index, f"id {index}", 7, "prompt", Sampling()),
            [Answer("ab" * chance.randint(0, 99), "stop", 3, None)],
            2,
        )
        for index in range(N_ROWS)
    ]


def asked():
    ids = [hash_of(f"id {index}") for index in range(N_ROWS)]
    return Asked(numpy.array(ids, numpy.uint64), numpy.full(N_ROWS, 7, numpy.uint64))


@SEEDS
def test_rows_are_appended_whole(tmp_path, seed, monkeypatch):
    """The look at the end reads them again, and finds what was written."""
    end_early(monkeypatch, seed)
    with Ledger(tmp_path / "out") as ledger:
        for row in rows():
            ledger.append(row)
    assert (tmp_path / "out").read_bytes() == b"".join(rows())


@SEEDS
def test_a_torn_row_is_moved_aside_whole(tmp_path, seed, monkeypatch):
    """And no row before it: the last newline is looked for in all that was asked for."""
    whole, torn = b"".join(rows()[:-1]), rows()[-1][:-5]
    (tmp_path / "out").write_bytes(whole + torn)
    end_early(monkeypatch, seed)
    with Ledger(tmp_path / "out") as ledger:
        assert ledger.torn is not None
        assert ledger.torn.read_bytes() == torn
    assert (tmp_path / "out").read_bytes() == whole


@SEEDS
def test_rows_are_put_into_order_whole(tmp_path, seed, monkeypatch):
    mixed = [*rows(), *rows()[3:6]]
    random.Random(seed).shuffle(mixed)
    (tmp_path / "out").write_bytes(b"".join(mixed))
    end_early(monkeypatch, seed)
    with Ledger(tmp_path / "out") as ledger:
        ledger.compact(asked())
    assert (tmp_path / "out").read_bytes() == b"".join(rows())


@SEEDS
def test_an_input_is_known_again(tmp_path, seed, monkeypatch):
    (tmp_path / "in").write_bytes(random.Random(1).randbytes(300_000))
    with (tmp_path / "in").open("rb") as file:
        source = Source(file, "in")
        expected = source.describe()
        end_early(monkeypatch, seed)
        assert source.describe() == expected


@SEEDS
def test_what_runs_is_noted_whole(tmp_path, seed, monkeypatch):
    end_early(monkeypatch, seed)
    starts = Starts(tmp_path / "out")
    for index in range(N_ROWS):
        starts.begin(f"id {index}")
    for index in range(0, N_ROWS, 2):
        starts.end(f"id {index}")
    os.close(starts._fd)
    left = Starts(tmp_path / "out")
    assert [index for index in range(N_ROWS) if left.is_suspect(f"id {index}")] == [*range(1, N_ROWS, 2)]
    os.close(left._fd)
