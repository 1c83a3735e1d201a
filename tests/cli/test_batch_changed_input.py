"""A batch goes on with an input that is not the one it began with: nothing is mixed up, nothing is lost."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers import commands, faults
from helpers.models import DATA

from llama_cli.cli.app import main

TINY = ["-m", str(DATA / "tiny/bpe1024"), "--dtype", "fp32", "--seed", "1", "-n", "3"]
TEXTS = ["one", "two", "three", "four"]
OWN = [{"id": f"row {text}", "prompt": text} for text in TEXTS]
SHAPES = ["openai", "simple"]


@pytest.fixture(name="files", params=SHAPES)
def _files(tmp_path, request):
    return Files(tmp_path, request.param)


class Files:
    """An input, an output, and the command between them."""

    def __init__(self, folder, shape="simple"):
        self.source, self.out, self.shape = folder / "in.jsonl", folder / "out.jsonl", shape

    def write(self, rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        self.source.write_text("".join(line + "\n" for line in lines))

    def run(self, *flags):
        return main(["batch", str(self.source), "-o", str(self.out), "--output-format", self.shape, *TINY, *flags])

    def rows(self):
        return [json.loads(line) for line in self.out.read_bytes().splitlines()]

    def ids(self):
        return [row.get("custom_id", row["id"]) for row in self.rows()]

    def texts(self):
        """The text of each id; no id is there twice."""
        found = dict(zip(self.ids(), map(text_of, self.rows()), strict=True))
        assert len(found) == len(self.rows())
        return found


def text_of(row):
    return row["text"] if "text" in row else row["response"]["body"]["choices"][0]["text"]


def clean_texts(folder, rows):
    """What a run that was never interrupted writes."""
    folder.mkdir()
    files = Files(folder)
    files.write(rows)
    assert files.run() == 0
    return files.texts()


@pytest.mark.parametrize(
    "changed",
    [["zero", *TEXTS], TEXTS[1:], ["two", "one", *TEXTS[2:]], ["one", "", "two", "three"], ["one", "2", *TEXTS[2:]]],
    ids=["put on top", "taken off the top", "swapped", "a blank line more", "edited"],
)  # fmt: skip
def test_lines_without_ids_are_not_taken_for_others(files, tmp_path, capfd, changed):
    """The new first line never ran, the last one ran twice, and the exit code was 0."""
    files.write(TEXTS)
    assert files.run() == 0
    before = files.out.read_bytes()
    files.write(changed)
    assert files.run() == 7
    error = capfd.readouterr().err
    assert "changed rows (" in error
    assert "line-00000" in error
    assert "--rerun-changed" in error
    assert files.out.read_bytes() == before
    assert files.run("--rerun-changed") == 0
    expected = clean_texts(tmp_path / "clean", changed)
    assert {name: files.texts()[name] for name in expected} == expected
    assert files.run() == 0


def test_an_edited_row_under_the_same_id(files, tmp_path, capfd):
    """The old answer was kept."""
    files.write(OWN)
    assert files.run() == 0
    first = files.texts()
    edits = [{"prompt": "2"}, {"max_tokens": 2}, {"seed": 5}, {"stop": ["x"]}]
    for edit in edits:
        files.write([OWN[0], OWN[1] | edit, *OWN[2:]])
        capfd.readouterr()
        assert files.run() == 7
        assert "changed rows (1): row two;" in capfd.readouterr().err
    assert files.run("--force-resume") == 0
    assert files.texts() == first
    files.write([OWN[0], OWN[1] | edits[0], *OWN[2:]])
    assert files.run("--rerun-changed") == 0
    assert files.texts() == clean_texts(tmp_path / "clean", [OWN[0], OWN[1] | edits[0], *OWN[2:]])
    assert files.ids() == [row["id"] for row in OWN]


def test_the_same_row_written_otherwise(files):
    """pandas, jq and OpenAI's form: other spaces, another order of keys, 3.0 and null."""
    files.write([row | {"max_tokens": 3, "temperature": 1} for row in OWN])
    assert files.run() == 0
    before = files.out.read_bytes()
    files.write([{"temperature": 1.0, "max_tokens": 3.0, "seed": None, "user": "me"} | row for row in OWN])
    assert files.run() == 0
    asked = [{"model": "m", "max_tokens": 3, "prompt": row["prompt"], "temperature": 1} for row in OWN]
    outer = [{"custom_id": row["id"], "method": "POST", "url": "/v1/completions"} for row in OWN]
    files.write([around | {"body": body} for around, body in zip(outer, asked, strict=True)])
    assert files.run() == 0
    assert files.out.read_bytes() == before


def test_rows_with_ids_may_come_go_and_move(files, tmp_path, capfd):
    files.write(OWN)
    assert files.run() == 0
    new = [{"id": "new", "prompt": "zero"}, *OWN[:0:-1]]
    files.write(new)
    capfd.readouterr()
    assert files.run() == 0
    error = capfd.readouterr().err
    assert "1 row: 1 ok" in error
    assert "are not in the input any more (1): row one" in error
    expected = clean_texts(tmp_path / "clean", new)
    assert {name: files.texts()[name] for name in expected} == expected
    assert set(files.ids()) == {"new", *(row["id"] for row in OWN)}


def test_another_input_altogether(files, capfd):
    files.write(OWN)
    assert files.run() == 0
    before = files.out.read_bytes()
    files.write([{"id": "a", "prompt": "b"}])
    assert files.run() == 7
    assert "none of its rows is in" in capfd.readouterr().err
    assert files.out.read_bytes() == before
    assert files.run("--force-resume") == 0
    assert files.out.read_bytes().startswith(before)


def test_a_mended_row(files, tmp_path, capfd):
    """Its error is no answer to what it asks for now."""
    files.write([OWN[0], {"id": "row two", "prompt": 2}])
    assert files.run() == 6
    assert "2 rows: 1 ok, 1 error (1 invalid_request)" in capfd.readouterr().err
    assert files.run() == 6
    assert "of the rows done before, 1 error (1 invalid_request)" in capfd.readouterr().err
    files.write(OWN[:2])
    assert files.run() == 7
    assert files.run("--retry-errors") == 0
    assert files.texts() == clean_texts(tmp_path / "clean", OWN[:2])
    files.write([OWN[0], {"id": "row two", "prompt": 2}])
    assert files.run("--rerun-changed") == 6
    assert "error" in files.rows()[1]
    files.write(OWN[:2])
    assert files.run("--rerun-changed") == 0
    assert files.run() == 0


@pytest.mark.parametrize(("call", "count"), [("write", 1), ("write", 3), ("fsync", 1), ("fsync", 2), ("fsync", 3)])
def test_killed_while_changed_rows_run_anew(tmp_path, call, count):
    """Old and new answers of an id stand in the file then; the next run ends with the new ones alone."""
    files = Files(tmp_path)
    files.write(OWN)
    assert files.run() == 0
    changed = [row | {"prompt": row["prompt"] * 2} for row in OWN[:3]] + OWN[3:]
    files.write(changed)
    command = ["batch", files.source, "-o", files.out, "--output-format", "simple", *TINY]
    commands.run(*command, "--rerun-changed", prepare=partial(faults.kill_at, call, count))
    assert files.run("--rerun-changed") == 0
    assert files.texts() == clean_texts(tmp_path / "clean", changed)
    assert files.run() == 0


def test_an_output_of_an_earlier_version(files, capfd):
    """Its rows do not tell what they asked for: they go with the input that they were begun with."""
    files.write(OWN)
    assert files.run() == 0
    old = re.sub(rb'"row_hash": "[0-9a-f]{16}", ', b"", files.out.read_bytes())
    old = re.sub(rb"(batch_req_[0-9a-f]{16})[0-9a-f]{16}", rb"\1", old)
    files.out.write_bytes(b"".join(old.splitlines(keepends=True)[:3]))
    assert files.run() == 0
    assert files.ids() == [row["id"] for row in OWN]
    files.write([*OWN, {"id": "new", "prompt": "x"}])
    assert files.run() == 7
    assert "earlier version" in capfd.readouterr().err
    assert files.run("--force-resume") == 0
    assert files.ids() == [*(row["id"] for row in OWN), "new"]


def test_a_piped_input_that_has_changed(tmp_path):
    files = Files(tmp_path)
    words = ["batch", "-", "-o", files.out, "--output-format", "simple", *TINY]

    def piped(rows, *flags):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        return commands.run(*words, *flags, stdin=text.encode(), prepare=commands.from_pipe)

    assert piped(OWN[:2]).code == 0
    ended = piped(OWN)
    assert (ended.code, "2 rows: 2 ok" in ended.err) == (0, True), ended.err
    before = files.out.read_bytes()
    changed = [OWN[0], OWN[1] | {"prompt": "2"}, *OWN[2:]]
    ended = piped(changed)
    assert (ended.code, "changed rows (1): row two;" in ended.err) == (7, True), ended.err
    assert files.out.read_bytes() == before
    assert piped(changed, "--rerun-changed").code == 0
    assert files.texts() == clean_texts(tmp_path / "clean", changed)


def test_a_shard_of_a_changed_input(tmp_path):
    files = Files(tmp_path)
    files.write(OWN)
    assert files.run("--shard", "2/2") == 0
    assert files.ids() == ["row two", "row four"]
    files.write([OWN[0], OWN[1], OWN[2], OWN[3] | {"prompt": "4"}])
    assert files.run("--shard", "2/2") == 7
    files.write([OWN[0] | {"prompt": "1"}, *OWN[1:]])
    assert files.run("--shard", "2/2") == 0


def test_retried_rows_of_a_grown_input_are_all_kept(files):
    """Two rows had the same index then, and one of them was left out."""
    files.write([OWN[0], {"id": "bad", "prompt": 5}])
    assert files.run() == 6
    files.write([{"id": "new", "prompt": "zero"}, OWN[0], {"id": "bad", "prompt": 5}])
    assert files.run("--retry-errors") == 6
    assert sorted(files.ids()) == ["bad", "new", "row one"]


def test_standard_input_that_is_a_file(tmp_path):
    """It was an internal error. What a shell has read of it already is no part of the input."""
    files = Files(tmp_path)
    files.write(["# a note, read by the shell", *OWN])
    script = f'{{ read -r note; "$@"; }} < {files.source}'
    command = [
        sys.executable,
        "-m",
        "llama_cli",
        "batch",
        "-",
        "-o",
        str(files.out),
        "--output-format",
        "simple",
        *TINY,
    ]
    for expected in ("4 rows: 4 ok", "0 rows: 0 ok, 0 errors, 4 done before"):
        done = subprocess.run(["bash", "-c", script, "bash", *command], capture_output=True, text=True, check=False)
        assert (done.returncode, expected in done.stderr) == (0, True), done.stderr
    assert files.ids() == [row["id"] for row in OWN]


@pytest.mark.parametrize("name", ["/dev/stdin", "fifo"])
def test_other_ways_to_a_pipe(tmp_path, name):
    files = Files(tmp_path)
    if name == "fifo":
        name = str(tmp_path / name)
        os.mkfifo(name)
    script = 'cat "$0" | "$@"' if name == "/dev/stdin" else f'cat "$0" > {name} & "$@"'
    files.write(OWN)
    command = [
        sys.executable,
        "-m",
        "llama_cli",
        "batch",
        name,
        "-o",
        str(files.out),
        "--output-format",
        "simple",
        *TINY,
    ]
    done = subprocess.run(
        ["bash", "-c", script, str(files.source), *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert files.texts() == clean_texts(Path(tmp_path, "clean"), OWN)
