"""Joining part files."""

import gzip
import json

import pytest

from llama_cli.cli.app import main
from llama_cli.engine.request import Sampling
from llama_cli.jobs.results import Answer, RowWriter
from llama_cli.jobs.rows import BadRow, BatchRow


@pytest.fixture(name="rows", params=["openai", "simple"])
def _rows(request):
    """Ten good rows, and the same as errors, in either shape."""
    writer = RowWriter(request.param, "model", 0)
    text = 'tricky "index": 99, {"error": {"code": "x", "message": "y"}}'
    good = [
        writer.answer(BatchRow(i, f"id {i}", i, text, Sampling()), [Answer(text, "stop", 3, None)], 2)
        for i in range(10)
    ]
    bad = [writer.error(BadRow(i, f"id {i}", i, "invalid_json", 'a "quoted" reason')) for i in range(10)]
    return good, bad


def merged(tmp_path, *parts, force=False):
    paths = []
    for number, rows in enumerate(parts):
        path = tmp_path / f"part{number}.jsonl"
        path.write_bytes(b"".join(rows))
        paths.append(str(path))
    out = tmp_path / "out.jsonl"
    code = main(["merge", *paths, "-o", str(out), *(["--force"] if force else [])])
    return code, out.read_bytes() if out.exists() else None


def test_parts_are_joined_in_the_order_of_the_input(rows, tmp_path, capfd):
    good, _ = rows
    assert merged(tmp_path, good[2::3], good[0::3], good[1::3]) == (0, b"".join(good))
    assert capfd.readouterr().err == "llama-cli: 10 rows, 0 errors, 0 duplicates left out\n"


def test_a_success_is_kept_rather_than_an_error(rows, tmp_path, capfd):
    good, bad = rows
    assert merged(tmp_path, bad[:4], good) == (0, b"".join(good))
    assert merged(tmp_path, good, bad, force=True) == (0, b"".join(good))
    assert "10 duplicates left out" in capfd.readouterr().err


def test_gaps_and_errors_are_told(rows, tmp_path, capfd):
    good, bad = rows
    code, out = merged(tmp_path, [*good[1:3], bad[5], *good[8:]])
    assert code == 6
    assert [json.loads(line)["index"] for line in out.splitlines()] == [1, 2, 5, 8, 9]
    assert capfd.readouterr().err.splitlines()[1] == "llama-cli: rows are missing: 1, 4-5, 7-8"


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b'{"a": 1}\n', "that no batch wrote"),
        (b"text\n", "that no batch wrote"),
        (b'{"index": 0}', "ends in a torn row"),
    ],
)
def test_other_files_are_refused(tmp_path, capfd, content, fragment):
    code, out = merged(tmp_path, [content])
    assert (code, out) == (5, None)
    error = capfd.readouterr().err
    assert fragment in error
    assert "\nhint: " in error


def test_an_output_is_not_overwritten(rows, tmp_path, capfd):
    good, _ = rows
    merged(tmp_path, good)
    assert merged(tmp_path, good[:1])[0] == 7
    assert merged(tmp_path, good[:1], force=True) == (0, good[0])
    assert "exists already" in capfd.readouterr().err


def test_a_part_that_is_not_there(tmp_path, capfd):
    assert main(["merge", str(tmp_path / "absent"), "-o", str(tmp_path / "x")]) == 5
    assert capfd.readouterr().err.splitlines() == [
        f"llama-cli: error: cannot read {tmp_path / 'absent'}: no such file or directory",
        "hint: give the outputs of batch --shard I/N",
    ]


def row(index, custom_id, digest, text="x"):
    job = BatchRow(index, custom_id, digest, text, Sampling())
    return RowWriter("openai", "model", 0).answer(job, [Answer(text, "stop", 3, None)], 2)


@pytest.mark.parametrize(
    ("parts", "fragment"),
    [
        ([[row(0, "a", 1), row(1, "b", 2)], [row(0, "new", 3)]], "row 1 is a and new"),
        ([[row(0, "a", 1), row(1, "b", 2)], [row(1, "b", 3)]], "row 2 is b and b"),
        ([[row(0, "a", 1)], [row(1, "b", 2), row(2, "a", 1)]], "a is row 1 and row 3"),
        ([[row(0, 7, 1)], [row(1, "7", 1)]], "7 is row 1 and row 2"),
    ],
)
def test_parts_of_different_inputs(tmp_path, capfd, parts, fragment):
    """One of two answers was left out as a duplicate."""
    assert merged(tmp_path, *parts) == (5, None)
    assert fragment in capfd.readouterr().err


def test_parts_that_an_editor_has_saved(tmp_path, capfd):
    rows = [row(index, f"id {index}", 1) for index in range(3)]
    edited = [b"\xef\xbb\xbf" + rows[0], b"\n", rows[2].replace(b"\n", b"\r\n"), b"\r\n"]
    code, out = merged(tmp_path, edited, [rows[1]])
    assert (code, out.replace(b"\r", b"")) == (0, b"".join(rows))
    assert merged(tmp_path, [gzip.compress(rows[0])], force=True)[0] == 5
    assert "is gzip" in capfd.readouterr().err


@pytest.mark.parametrize("number", [b"9223372036854775808", b"-1", b"1" + b"0" * 400])
def test_numbers_that_no_row_has(tmp_path, number):
    assert merged(tmp_path, [b'{"id": "a", "index": ' + number + b', "text": ""}\n']) == (5, None)
