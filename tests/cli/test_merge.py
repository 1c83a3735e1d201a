"""Joining part files."""

import gzip
import json
from itertools import zip_longest

import pytest

from llama_cli.cli.app import main
from llama_cli.engine.request import Sampling
from llama_cli.jobs.identity import keep_identity
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


def merged(tmp_path, *parts, force=False, beside=()):
    """The exit code and the output of parts, with what is said beside each of them."""
    paths = []
    for number, (rows, said) in enumerate(zip_longest(parts, beside)):
        path = tmp_path / f"part{number}.jsonl"
        path.write_bytes(b"".join(rows))
        path.with_name(f"{path.name}.run.json").unlink(missing_ok=True)
        if said is not None:
            keep_identity(path, {"created": 0, "run_seed": 1, "input": {"size": 9}, "fingerprint": "m"} | said)
        paths.append(str(path))
    out = tmp_path / "out.jsonl"
    code = main(["merge", *paths, "-o", str(out), *(["--force"] if force else [])])
    return code, out.read_bytes() if out.exists() else None


def test_parts_are_joined_in_the_order_of_the_input(rows, tmp_path, capfd):
    good, _ = rows
    assert merged(tmp_path, good[2::3], good[0::3], good[1::3]) == (0, b"".join(good))
    told = capfd.readouterr().err.splitlines()
    assert told[0] == "llama-cli: 10 rows, 0 errors, 0 duplicates left out"
    assert told[1].startswith("llama-cli: whether the last rows are there is not known of ")
    shards = [{"shard": f"{number}/3", "rows": n_rows} for number, n_rows in ((3, 3), (1, 4), (2, 3))]
    assert merged(tmp_path, good[2::3], good[0::3], good[1::3], force=True, beside=shards) == (0, b"".join(good))
    assert capfd.readouterr().err.splitlines() == told[:1]


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


def shards(of, n_rows):
    """Rows of an input as so many shards have them, and what is said beside each."""
    rows = [row(index, f"id {index}", 1) for index in range(n_rows)]
    said = [{"shard": f"{number + 1}/{of}", "rows": len(rows[number::of])} for number in range(of)]
    return [rows[number::of] for number in range(of)], said


@pytest.mark.parametrize(
    ("of", "n_rows", "given", "missing", "rows_told"),
    [
        (3, 10, [0, 1], "3/3", "3, 6, 9"),
        (3, 10, [1, 2], "1/3", "1, 4, 7"),
        (3, 10, [0, 2], "2/3", "2, 5, 8"),
        (3, 9, [0, 1], "3/3", "3, 6"),
        (2, 2, [0], "2/2", None),
        (4, 7, [0, 2], "2/4, 4/4", "2, 4, 6"),
        (9, 30, [0], "2/9, 3/9, 4/9, 5/9, 6/9 and 3 more", "2-9, 11-18, 20-27"),
    ],
)
def test_a_missing_shard_is_named(tmp_path, capfd, of, n_rows, given, missing, rows_told):
    """The last one was not missed, nor any one of fewer rows than there are shards."""
    parts, said = shards(of, n_rows)
    code, out = merged(tmp_path, *(parts[each] for each in given), beside=[said[each] for each in given])
    assert code == 6
    assert len(out.splitlines()) == sum(len(parts[each]) for each in given)
    told = capfd.readouterr().err.splitlines()[1:]
    assert told[:-1] == ([] if rows_told is None else [f"llama-cli: rows are missing: {rows_told}"])
    first = missing.split(",")[0]
    assert told[-1] == (
        f"llama-cli: shards are missing: {missing}; run --shard {first} with an -o of its own, and merge that too"
    )


@pytest.mark.parametrize(
    ("of", "n_rows", "which", "n_done", "rows_told"),
    [(3, 10, 0, 3, "10"), (3, 10, 2, 2, "9"), (3, 10, 1, 0, "2, 5, 8"), (1, 6, 0, 4, "5-6"), (2, 9, 1, 3, "8")],
)
def test_an_unfinished_end_is_told(tmp_path, capfd, of, n_rows, which, n_done, rows_told):
    parts, said = shards(of, n_rows)
    n_all = len(parts[which])
    parts[which] = parts[which][:n_done]
    code, out = merged(tmp_path, *parts, beside=said)
    assert code == 6
    assert len(out.splitlines()) == n_rows - n_all + n_done
    assert capfd.readouterr().err.splitlines()[1:] == [
        f"llama-cli: rows are missing: {rows_told}",
        f"llama-cli: {tmp_path}/part{which}.jsonl lacks {n_all - n_done} of the {n_all} rows of shard"
        f" {which + 1}/{of}: run its command again",
    ]


@pytest.mark.parametrize("gone", [None, {"shard": "2/3"}, {"rows": 3}, {"shard": "4/3", "rows": 3}, {"shard": 2}])
def test_what_is_not_said_is_no_alarm(tmp_path, capfd, gone):
    """A part was copied alone, or its run was begun by an earlier version."""
    parts, said = shards(3, 10)
    said[1] = gone
    assert merged(tmp_path, *parts, beside=said)[0] == 0
    assert capfd.readouterr().err.splitlines()[1:] == [
        f"llama-cli: whether the last rows are there is not known of {tmp_path}/part1.jsonl: no .run.json of this"
        " version is beside it; copy it along"
    ]
    (tmp_path / "part0.jsonl.run.json").write_text("damaged")
    (tmp_path / "out.jsonl").unlink()
    assert main(["merge", *(f"{tmp_path}/part{each}.jsonl" for each in range(3)), "-o", f"{tmp_path}/out.jsonl"]) == 0
    assert f"not known of {tmp_path}/part0.jsonl, {tmp_path}/part1.jsonl: " in capfd.readouterr().err


def test_more_shards_than_rows(tmp_path, capfd):
    parts, said = shards(5, 3)
    assert parts[3:] == [[], []]
    assert merged(tmp_path, *parts, beside=said)[0] == 0
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_an_input_that_was_cut_in_two_ways(tmp_path, capfd):
    """1/2 with 2/4 and 4/4 are all rows; a part may also be run in more shards later."""
    halves, of_two = shards(2, 11)
    quarters, of_four = shards(4, 11)
    parts, said = [halves[0], quarters[1], quarters[3]], [of_two[0], of_four[1], of_four[3]]
    assert merged(tmp_path, *parts, beside=said)[0] == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert merged(tmp_path, *parts[:2], beside=said[:2], force=True)[0] == 6
    assert "shards are missing: 4/4; " in capfd.readouterr().err
    whole, of_one = shards(1, 11)
    assert merged(tmp_path, *whole, parts[1], beside=[*of_one, said[1]], force=True)[0] == 0
    thirds, of_three = shards(3, 11)
    assert merged(tmp_path, halves[0], thirds[1], beside=[of_two[0], of_three[1]], force=True)[0] == 6
    assert "shards are missing: 4/6, 6/6; " in capfd.readouterr().err


def test_parts_that_were_begun_with_different_things_are_told(tmp_path, capfd):
    """They may be right: an input can be mended between its shards."""
    parts, said = shards(3, 10)
    said[1]["input"], said[2]["fingerprint"] = {"size": 8}, "n"
    said[0]["input"] = None  # of a pipe
    said[2]["input"] = {"size": 7}
    assert merged(tmp_path, *parts, beside=said)[0] == 0
    told = capfd.readouterr().err.splitlines()[1:]
    assert [line.split(", unlike")[0] for line in told] == [
        f"llama-cli: not all were begun with one input: {tmp_path}/part2.jsonl",
        f"llama-cli: not all were begun with one model: {tmp_path}/part2.jsonl",
    ]


def test_a_shorter_input_is_no_part_of_a_longer_one(tmp_path, capfd):
    parts, said = shards(2, 10)
    shorter, of_shorter = shards(2, 6)
    assert merged(tmp_path, parts[0], shorter[1], beside=[said[0], of_shorter[1]])[0] == 6
    assert "rows are missing: 8" in capfd.readouterr().err


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
