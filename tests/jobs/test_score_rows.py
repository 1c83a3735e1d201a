"""Rows that are scored into a file: resumed as rows of a batch are, and to the very same digits."""

import json
import os
import signal
from functools import partial
from itertools import count

import pytest
from helpers import commands, faults
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.engine.engine import Engine
from llama_cli.jobs.score import ROWS_TOGETHER
from llama_cli.jobs.stopping import Stopping
from llama_cli.llm import LLM

TINY = ["-m", str(DATA / "tiny/bpe1024"), "--dtype", "fp32", "-q", "-b", "4", "--window", "24"]
N_ROWS = ROWS_TOGETHER + 26  # two groups
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]


def row(n):
    """Texts of one window and of several, ids, and continuations in turn."""
    words = " ".join(WORDS[k * n % 9] for k in range(1, 4 + n % 11))
    if n % 4 == 1:
        return {"id": f"row {n}", "prompt": words, "choices": [" fox", " dogs", f" {n}"]}
    return {"id": f"row {n}", "text": [256, 5 + n, 7, 9] if n % 4 == 2 else words * (1 + n % 3)}


def lines_of(rows):
    return "".join(json.dumps(each) + "\n" for each in rows)


@pytest.fixture(name="files")
def _files(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(lines_of(map(row, range(N_ROWS))))
    return source, tmp_path / "out.jsonl"


@pytest.fixture(name="clean", scope="module")
def _clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    (folder / "in.jsonl").write_text(lines_of(map(row, range(N_ROWS))))
    assert score(folder / "in.jsonl", "-o", folder / "out.jsonl") == 0
    return (folder / "out.jsonl").read_bytes()


def score(source, *arguments):
    return main(["score", "--rows", *map(str, (source, *arguments)), *TINY])


def test_rows_in_a_file_are_those_that_are_printed(files, clean, capfdbinary):
    """Each with a hash of what it asks for, which a later run compares."""
    source, _ = files
    assert score(source) == 0
    printed = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    kept = [json.loads(line) for line in clean.splitlines()]
    assert [list(row)[:3] for row in kept] == [["id", "index", "row_hash"]] * N_ROWS
    assert [{name: value for name, value in row.items() if name != "row_hash"} for row in kept] == printed
    assert score(source, "-o", "-") == 0
    assert [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()] == printed


@pytest.mark.sampled(5)
@pytest.mark.parametrize("n_done", [1, 30, ROWS_TOGETHER - 1, ROWS_TOGETHER, ROWS_TOGETHER + 1, N_ROWS - 1, N_ROWS])
@pytest.mark.parametrize("torn", [b"", b'{"id": "row'])
def test_a_run_goes_on_to_the_same_bytes(files, clean, n_done, torn):
    """The digits of a score hang on its neighbours: a row that is left runs beside those that it always runs beside."""
    source, out = files
    assert score(source, "-o", out) == 0
    out.write_bytes(b"".join(clean.splitlines(keepends=True)[:n_done]) + torn)
    assert score(source, "-o", out) == 0
    assert out.read_bytes() == clean
    assert len(list(out.parent.glob("*.torn-*"))) == bool(torn)


@pytest.mark.promise("P6")
@pytest.mark.parametrize("writes", [(5, 17, 40, 20, 31), (1, 1, 1, 1, 1), (64, 3, 66, 2, 9)])
def test_killed_five_times(files, clean, writes, record_property):
    record_property("cases", len(writes))
    source, out = files
    arguments = ["score", "--rows", source, "-o", out, *TINY]
    for number in writes:
        commands.run(*arguments, prepare=partial(faults.kill_at, "fsync", number))
    assert commands.run(*arguments).code == 0
    assert out.read_bytes() == clean
    assert not out.with_name("out.jsonl.started").exists()


def test_a_signal_lets_the_group_finish_and_the_rest_runs_later(files, clean, monkeypatch):
    source, out = files
    real, calls = Engine._step, count(1)

    def step(self):
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    with monkeypatch.context() as signalled:
        signalled.setattr(Engine, "_step", step)
        assert score(source, "-o", out) == 130
    assert out.read_bytes() == b"".join(clean.splitlines(keepends=True)[:ROWS_TOGETHER])
    assert score(source, "-o", out) == 0
    assert out.read_bytes() == clean


def test_what_has_no_time_to_finish_is_left(files, clean, monkeypatch):
    source, out = files
    calls = count()
    with monkeypatch.context() as late:
        late.setattr(Stopping, "out_of_time", property(lambda stopping: next(calls) > 30))
        assert score(source, "-o", out) == 0  # no signal came, so nothing is told of one
    done = out.read_bytes()
    assert clean.startswith(done)
    assert 0 < len(done) < len(clean)
    assert score(source, "-o", out) == 0
    assert out.read_bytes() == clean


def break_in_text(monkeypatch, error):
    real = LLM.tokenize

    def tokenize(self, text):
        if "break" in text:
            raise error
        return real(self, text)

    monkeypatch.setattr(LLM, "tokenize", tokenize)


@pytest.mark.promise("P24")
@pytest.mark.parametrize("asked", [{"text": "break here"}, {"prompt": "break", "choices": [" a", " b"]}])
def test_an_error_of_the_program_is_one_rows(files, monkeypatch, capfd, asked):
    """It ended the command."""
    source, out = files
    break_in_text(monkeypatch, IndexError("no such token"))
    rows = [row(n) for n in range(12)]
    rows[5] = {"id": "five"} | asked
    source.write_text(lines_of(rows))
    for where in (out, "-"):
        assert score(source, "-o", where, "--debug") == 6
        said = capfd.readouterr()
        assert "IndexError: no such token" in said.err
        found = [json.loads(line) for line in (out.read_text() if where == out else said.out).splitlines()]
        assert [each["index"] for each in found] == list(range(12))
        errors = [each.get("error") for each in found]
        assert errors[5] == {"code": "internal_error", "message": "IndexError: no such token"}
        assert [error for error in errors if error] == errors[5:6]


@pytest.mark.parametrize("n_choices", [2, 9])
def test_a_row_of_many_requests_breaks_in_a_step(files, monkeypatch, n_choices):
    """Some of its requests have not begun when the others break, or when the row runs alone."""
    source, out = files
    real = Engine._start

    def start(self, request):
        if len(request.prompt) > 20 and request.key % n_choices == n_choices - 1:
            raise IndexError("no such place")
        return real(self, request)

    monkeypatch.setattr(Engine, "_start", start)
    short = [{"text": f"word {n}"} for n in range(n_choices)]
    long = {"id": "long", "prompt": "the quick brown fox " * 3, "choices": [f" {n}" for n in range(n_choices)]}
    source.write_text(lines_of([*short, long, *short]))
    assert score(source, "-o", out, "--window", "64") == 6
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["index"] for each in found] == list(range(2 * n_choices + 1))
    assert [each["id"] for each in found if "error" in each] == ["long"]


def test_rows_that_changed_are_refused_or_run_anew(files, clean, capfd):
    source, out = files
    assert score(source, "-o", out) == 0
    rows = [row(n) for n in range(N_ROWS)]
    rows[7] = {"id": "row 7", "text": "something else"}
    source.write_text(lines_of(rows))
    assert score(source, "-o", out) == 7
    assert "changed rows (1): row 7" in capfd.readouterr().err
    assert out.read_bytes() == clean
    assert score(source, "-o", out, "--rerun-changed") == 0
    found, before = out.read_bytes().splitlines(), clean.splitlines()
    assert [n for n in range(N_ROWS) if found[n] != before[n]] == [7]
    assert json.loads(found[7])["tokens"] == json.loads(run_alone(rows[7], capfd))["tokens"]


def run_alone(one, capfd):
    capfd.readouterr()
    assert main(["score", one["text"], "--json", *TINY[:5]]) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--window", "12"], "stride 12, now 6, window 24, now 12"),
        (["--stride", "3"], "stride 12, now 3"),
        (["--logprobs"], "logprobs false, now true"),
        (["-n", "5"], "max_tokens null, now 5"),
    ],
)
def test_other_settings_are_refused_by_name(files, clean, capfd, flags, said):
    source, out = files
    assert score(source, "-o", out) == 0
    assert main(["score", "--rows", str(source), "-o", str(out), *TINY, *flags]) == 7
    assert f"was begun with other settings: {said}" in capfd.readouterr().err
    assert out.read_bytes() == clean


def test_rows_of_another_command_are_refused(files, capfd):
    source, out = files
    source.write_text('{"id": 1, "prompt": "a", "max_tokens": 1}\n')
    assert main(["batch", str(source), "-o", str(out), "--output-format", "simple", *TINY[:5]]) == 0
    source.write_text('{"id": 1, "prompt": "a", "choices": ["b"]}\n')
    assert score(source, "-o", out, "--rerun-changed") == 7
    assert "output_format simple, now scores" in capfd.readouterr().err


def test_what_is_bad_is_run_again_where_asked_for(files, capfd):
    source, out = files
    source.write_text('{"id": 1, "text": ""}\n{"id": 2, "text": "a b c d"}\n')
    assert score(source, "-o", out) == 6
    assert score(source, "-o", out) == 6
    assert score(source, "-o", out, "--retry-errors") == 6
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [1, 2]


def test_ids_stand_for_one_row_where_rows_are_kept(files, capfd):
    source, out = files
    source.write_text('{"id": 1, "text": "a b c d"}\n{"id": 1, "text": "a b c"}\n')
    assert score(source) == 0
    assert [json.loads(line)["id"] for line in capfd.readouterr().out.splitlines()] == [1, 1]
    assert score(source, "-o", out) == 5
    assert "the same custom_id on lines 1, 2" in capfd.readouterr().err


def test_shards_and_strict(files, clean, capfd):
    source, out = files
    assert score(source, "-o", out, "--shard", "2/3") == 0
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == list(range(1, N_ROWS, 3))
    source.write_text('{"text": "a b c"}\n{"text": 5}\n')
    out.unlink()
    assert score(source, "-o", out, "--strict") == 5
    assert "1 row is bad: line 2: text must be a text" in capfd.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("flags", [["-o", "x"], ["--strict"], ["--shard", "1/2"], ["--row-timeout", "5"], ["-b", "4"]])
def test_flags_of_rows_need_rows(capfd, flags):
    assert main(["score", "a text", *flags, *TINY[:2]]) == 2
    assert "is about rows, and there are none" in capfd.readouterr().err


@pytest.mark.parametrize("flag", ["--retry-errors", "--rerun-changed", "--force-resume"])
def test_nothing_is_gone_on_with_where_rows_are_printed(files, capfd, flag):
    assert score(files[0], flag) == 2
    assert "rows go to standard output" in capfd.readouterr().err


def test_a_pipe_goes_on_too(files, clean):
    source, out = files
    out.write_bytes(b"")
    arguments = ["score", "--rows", "-", "-o", out, *TINY]
    data = source.read_bytes()
    assert commands.run(*arguments, stdin=data, prepare=commands.from_pipe).code == 0
    assert out.read_bytes() == clean
    out.write_bytes(b"".join(clean.splitlines(keepends=True)[:40]))
    assert commands.run(*arguments, stdin=data, prepare=commands.from_pipe).code == 0
    assert out.read_bytes() == clean
