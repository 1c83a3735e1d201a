"""`llama-cli batch`, from the shell, with everything that can happen to it."""

import json
import os
import random
import re
import signal
from functools import partial

import pytest
from helpers import commands, faults
from helpers.models import DATA

from llama_cli.cli.app import main

TINY = ["-m", str(DATA / "tiny/bpe1024"), "--dtype", "fp32", "--seed", "1", "-q"]
BAD_LINES = [b"nonsense", b"[]", b'{"prompt": 5}', b'{"prompt": "x", "bogus": 1}', b"\xff", b'{"prompt": "x", "n": 0}',
             b'{"prompt": [1, 99999]}', b'{"messages": [{"role": "root", "content": "x"}]}']  # fmt: skip


def row(n):
    chance = random.Random(n)
    settings = {"max_tokens": chance.randint(1, 12), "temperature": chance.choice([0, 0.7, 1.5]), "n": 1 + n % 2}
    prompt = "shared beginning of all prompts " * (n % 3) + f"number {n}"
    if n % 5 == 4:
        return {"custom_id": f"row {n}", "body": {"messages": [{"role": "user", "content": prompt}], **settings}}
    return {"custom_id": f"row {n}", "prompt": prompt, **settings}


@pytest.fixture(name="files")
def _files(tmp_path):
    """(input of 30 rows, output)"""
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"".join(json.dumps(row(n)).encode() + b"\n" for n in range(30)))
    return source, tmp_path / "out.jsonl"


def batch(*arguments):
    return main(["batch", *map(str, arguments)])


def normal(data):
    """Rows without the time their run began."""
    return re.sub(rb'"created": \d+', b'"created": 0', data)


@pytest.fixture(name="clean", scope="module")
def _clean(tmp_path_factory):
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("clean")
    (folder / "in.jsonl").write_bytes(b"".join(json.dumps(row(n)).encode() + b"\n" for n in range(30)))
    assert batch(folder / "in.jsonl", "-o", folder / "out.jsonl", *TINY) == 0
    return normal((folder / "out.jsonl").read_bytes())


def test_rows_are_answered_in_order(clean):
    rows = [json.loads(line) for line in clean.splitlines()]
    assert [row["custom_id"] for row in rows] == [f"row {n}" for n in range(30)]
    for n, one in enumerate(rows):
        body = one["response"]["body"]
        assert len(body["choices"]) == row(n)["n"] if "n" in row(n) else True
        assert body["object"] == ("chat.completion" if n % 5 == 4 else "text_completion")
        assert one["error"] is None


@pytest.mark.parametrize("size", [1, 3, 16])
def test_the_batch_size_changes_no_byte(files, clean, size):
    source, out = files
    assert batch(source, "-o", out, *TINY, "-b", size) == 0
    assert normal(out.read_bytes()) == clean


def test_unordered_rows_are_the_same_rows(files, clean):
    source, out = files
    assert batch(source, "-o", out, *TINY, "--unordered") == 0
    assert sorted(normal(out.read_bytes()).splitlines()) == sorted(clean.splitlines())


@pytest.mark.promise("P5")
def test_bad_lines_stop_nothing(files, clean, tmp_path, record_property):
    """A bad line after every good one: the good rows are those of the clean run, but for their indexes."""
    record_property("cases", 30)
    source, out = files
    mixed = tmp_path / "mixed.jsonl"
    lines = [piece for n, line in enumerate(source.read_bytes().splitlines()) for piece in (line, BAD_LINES[n % 8])]
    mixed.write_bytes(b"\n".join(lines) + b"\n")
    assert batch(mixed, "-o", out, *TINY) == 6
    rows = [json.loads(line) for line in normal(out.read_bytes()).splitlines()]
    assert [one["index"] for one in rows] == list(range(60))
    good = [one for one in rows if one["error"] is None]
    assert [one | {"index": n} for n, one in enumerate(good)] == [json.loads(line) for line in clean.splitlines()]
    codes = ["invalid_json", "invalid_json", "invalid_request", "invalid_request", "invalid_unicode"]
    assert [one["error"]["code"] for one in rows[1:11:2]] == codes


@pytest.mark.promise("P5")
def test_two_hundred_bad_lines(tmp_path, record_property):
    """Of every kind, with an edge of its own each, between good ones: each gets its row and code."""
    record_property("cases", 200)
    chance = random.Random(5)
    kinds = [
        ("invalid_json", lambda n: b'{"prompt": "cut %d' % n),
        ("invalid_json", lambda n: b"[" * (n + 1)),
        ("invalid_json", lambda n: b'{"prompt": "x", "temperature": NaN, "seed": %d}' % n),
        ("invalid_unicode", lambda n: b'{"prompt": "' + bytes([0x80 + n % 64]) + b'"}'),
        ("invalid_unicode", lambda n: b'{"prompt": "\\ud8%02x"}' % n),
        ("invalid_request", lambda n: b'{"prompt": %d}' % n),
        ("invalid_request", lambda n: b'{"prompt": "x", "unknown%d": 1}' % n),
        ("invalid_request", lambda n: b'{"prompt": "x", "max_tokens": -%d}' % (n + 1)),
        ("invalid_request", lambda n: b'{"prompt": [%d]}' % (100_000 + n)),
        ("context_length_exceeded", lambda n: b'{"prompt": "%s"}' % (b"word " * (20_000 + n))),
    ]
    lines, expected = [], []
    for n in range(200):
        code, build = kinds[n % len(kinds)]
        lines.append(build(n))
        expected.append(code)
        for _ in range(chance.randint(0, 1)):
            lines.append(json.dumps({"prompt": f"good {n}", "id": f"good {n}", "max_tokens": 2}).encode())
            expected.append(None)
    source, alone = tmp_path / "in.jsonl", tmp_path / "good.jsonl"
    source.write_bytes(b"\n".join(lines) + b"\n")
    good_lines = [line for line, code in zip(lines, expected, strict=True) if code is None]
    alone.write_bytes(b"\n".join(good_lines))
    assert batch(source, "-o", tmp_path / "out.jsonl", *TINY, "--output-format", "simple") == 6
    assert batch(alone, "-o", tmp_path / "clean.jsonl", *TINY, "--output-format", "simple") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    clean = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_bytes().splitlines()]
    assert [row.get("error", {}).get("code") for row in rows] == expected
    assert [row["text"] for row in rows if "error" not in row] == [row["text"] for row in clean]


def test_rows_on_standard_output(files, clean, capfdbinary):
    source, _ = files
    loud = [flag for flag in TINY if flag != "-q"]
    assert batch(source, "-o", "-", *loud) == 0
    printed = capfdbinary.readouterr()
    assert normal(printed.out) == clean
    assert b"cannot be resumed" in printed.err
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_a_row_that_takes_too_long_is_given_up(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "short", "max_tokens": 1}, {"prompt": "long", "max_tokens": 1900, "ignore_eos": True, "n": 2}]
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    arguments = [source, "-o", out, *TINY, "--output-format", "simple", "-b", 4]
    assert batch(*arguments, "--row-timeout", "0.5") == 6
    short, long = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert short["finish_reason"] == "length"
    assert long["error"] == {"code": "timeout", "message": "the row took longer than 0.5 s"}


@pytest.mark.promise("P8")
def test_of_twenty_starts_one_runs(files, clean, record_property):
    """The others are refused with exit 7; the file is the clean one."""
    record_property("cases", 20)
    source, out = files
    started = [commands.start("batch", source, "-o", out, *TINY) for _ in range(20)]
    ended = [each.wait() for each in started]
    codes = [each.code for each in ended]
    assert codes.count(0) >= 1  # a late one finds the file finished
    assert set(codes) <= {0, 7}
    assert all("is being written by another run" in each.err for each in ended if each.code == 7)
    assert normal(out.read_bytes()) == clean


def finish(arguments):
    ended = commands.run(*arguments)
    assert ended.code == 0, ended.err


@pytest.mark.promise("P6")
@pytest.mark.parametrize(
    ("call", "count"), [("write", 1), ("write", 7), ("write", 40), ("fsync", 1), ("fsync", 3), ("fsync", 20)]
)
def test_killed_at_a_write_and_resumed(files, clean, call, count):
    """Half a row on the disk, or a whole one before its fsync: the same command again makes the clean file."""
    source, out = files
    arguments = ["batch", source, "-o", out, *TINY]
    assert was_killed(arguments, call, count)
    finish(arguments)
    assert normal(out.read_bytes()) == clean
    assert not out.with_name("out.jsonl.started").exists()


def was_killed(arguments, call, count):
    """Whether a run got as far as its `count`-th call, where it was killed."""
    ended = commands.run(*arguments, prepare=partial(faults.kill_at, call, count))
    assert ended.code in (0, -signal.SIGKILL), ended.err
    return ended.code != 0


def was_killed_after(arguments, seconds):
    """Whether a run was still at work after some time, when it was killed."""
    started = commands.start(*arguments)
    started.process.join(seconds)
    started.process.kill()
    return started.wait().code != 0


N_KILLS = 25


@pytest.mark.promise("P6")
@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_killed_two_hundred_times(files, clean, tmp_path, part, record_property):
    """At every write and fsync, and at random times, each followed by a resumed run; some killed several times."""
    record_property("cases", N_KILLS)
    source, _ = files
    chance, kills, runs = random.Random(part), 0, 0
    points = [(call, count) for call in ("write", "fsync") for count in range(1 + part, 60, 8)]
    while kills < N_KILLS:
        out = tmp_path / f"out{runs}.jsonl"
        runs += 1
        arguments = ["batch", source, "-o", out, *TINY]
        for _ in range(chance.choice([1, 1, 2])):
            if points:
                kills += was_killed(arguments, *points.pop(chance.randrange(len(points))))
            else:
                kills += was_killed_after(arguments, chance.uniform(0.05, 1))
        finish(arguments)
        assert normal(out.read_bytes()) == clean


def test_a_finished_run_again_writes_nothing(files, clean):
    source, out = files
    assert batch(source, "-o", out, *TINY) == 0
    before = out.stat().st_mtime_ns
    assert batch(source, "-o", out, *TINY) == 0
    assert out.stat().st_mtime_ns == before


def test_other_settings_are_refused_by_name(files, capfd):
    source, out = files
    assert batch(source, "-o", out, *TINY) == 0
    capfd.readouterr()
    assert batch(source, "-o", out, *TINY, "-t", "0.1") == 7
    assert "was begun with other settings: temperature 0.6, now 0.1" in capfd.readouterr().err
    assert batch(source, "-o", out, *TINY[:-2], "2", "-q") == 7
    assert "other settings: seed 1, now 2" in capfd.readouterr().err
    assert batch(source, "-o", out, *TINY, "-t", "0.1", "--force-resume") == 0


def test_rows_that_failed_run_again(files, clean, tmp_path):
    source, out = files
    lines = source.read_bytes().splitlines(keepends=True)
    broken = tmp_path / "broken.jsonl"
    wrong = json.dumps(row(3) | {"bogus": 1}).encode() + b"\n"
    broken.write_bytes(b"".join([*lines[:3], wrong, *lines[4:]]))
    assert batch(broken, "-o", out, *TINY) == 6
    assert batch(broken, "-o", out, *TINY) == 6
    assert batch(source, "-o", out, *TINY, "--retry-errors") == 0
    assert normal(out.read_bytes()) == clean


def test_the_same_id_twice(files, capfd, tmp_path):
    source, out = files
    source.write_bytes(source.read_bytes() + source.read_bytes())
    assert batch(source, "-o", out, *TINY) == 5
    assert "the same custom_id on lines 1, 31 (row 0), and 29 more ids" in capfd.readouterr().err
    assert not out.exists()
    ended = commands.run("batch", "-", "-o", out, *TINY, stdin=source.read_bytes(), prepare=commands.from_pipe)
    assert ended.code == 6, ended.err
    errors = [json.loads(line)["error"] for line in out.read_bytes().splitlines()]
    assert [error and error["code"] for error in errors] == [None] * 30 + ["duplicate_custom_id"] * 30


def test_a_strict_run_touches_nothing(files, capfd):
    source, out = files
    source.write_bytes(source.read_bytes() + b"nonsense\n")
    assert batch(source, "-o", out, *TINY, "--strict") == 5
    assert "line 31: the line is no JSON" in capfd.readouterr().err
    assert not out.exists()


def test_shards_that_are_missing_or_not_done_are_noticed(files, clean, tmp_path, capfd):
    """The files beside the outputs tell how long the input is, the one of a shard that goes on with more rows too."""
    source, _ = files
    parts, rest, out = (
        [tmp_path / f"part{n}" for n in (1, 2, 3)],
        source.read_bytes().splitlines(keepends=True)[-4:],
        tmp_path / "all",
    )
    source.write_bytes(source.read_bytes()[: -len(b"".join(rest))])
    for n, part in enumerate(parts, 1):
        assert batch(source, "-o", part, *TINY, "--shard", f"{n}/3") == 0
    assert main(["merge", *map(str, parts), "-o", str(out)]) == 0
    assert main(["merge", *map(str, parts[:2]), "-o", str(out), "--force"]) == 6
    assert "shards are missing: 3/3; " in capfd.readouterr().err
    with source.open("ab") as file:
        file.writelines(rest)
    assert batch(source, "-o", parts[0], *TINY, "--shard", "1/3") == 0
    assert main(["merge", *map(str, parts), "-o", str(out), "--force"]) == 6
    assert "rows are missing: 27\n" in capfd.readouterr().err
    assert batch(source, "-o", parts[1], *TINY, "--shard", "2/3") == 0
    parts[1].write_bytes(b"".join(parts[1].read_bytes().splitlines(keepends=True)[:-2]))
    assert main(["merge", *map(str, parts), "-o", str(out), "--force"]) == 6
    assert f"{parts[1]} lacks 2 of the 10 rows of shard 2/3: " in capfd.readouterr().err
    for n, part in enumerate(parts[1:], 2):
        assert batch(source, "-o", part, *TINY, "--shard", f"{n}/3") == 0
    assert main(["merge", *map(str, parts), "-o", str(out), "--force"]) == 0
    assert normal(out.read_bytes()) == clean


def test_shards_part_the_rows(files, clean, tmp_path):
    source, out = files
    parts = [tmp_path / f"part{n}.jsonl" for n in (1, 2, 3)]
    for n, part in enumerate(parts, 1):
        assert batch(source, "-o", part, *TINY, "--shard", f"{n}/3") == 0
    assert main(["merge", *map(str, parts), "-o", str(out)]) == 0
    assert normal(out.read_bytes()) == clean


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (["--shard", "0/3"], 2, "--shard '0/3' is not I/N"),
        (["--shard", "4/3"], 2, "--shard '4/3' is not I/N"),
        (["-o", "in.jsonl"], 2, "is the input itself"),
        (["-o", "/proc/nowhere/out"], 74, "cannot write"),
        (["--format", "yaml"], 2, "yaml"),
    ],
)
def test_mistakes(files, capfd, monkeypatch, tmp_path, arguments, code, fragment):
    source, out = files
    monkeypatch.chdir(tmp_path)
    assert batch(source, "-o", out, *TINY, *arguments) == code
    err = capfd.readouterr().err
    assert fragment in err
    assert len(err.splitlines()) <= 2
    assert not out.exists()


def test_rows_too_long_and_models_without_a_chat_format(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"prompt": "a" * 5000},
        {"messages": [{"role": "user", "content": "a"}]},
        {"prompt": "a€"},
        {"prompt": "ok"},
    ]
    source.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert batch(source, "-o", out, "-q", "--output-format", "simple", "-n", "3") == 6
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["error"]["code"] for one in answers[:3]] == [
        "context_length_exceeded",
        "invalid_request",
        "invalid_request",
    ]
    assert len(answers[3]["text"]) == 3


def long_input(tmp_path, n=200):
    source = tmp_path / "long.jsonl"
    # Of different lengths: never do all end in one step, so that a signal always finds one that runs.
    rows = [{"prompt": f"p {i}", "max_tokens": 60 + 7 * (i % 5)} for i in range(n)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return source


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_runs_and_leaves_the_rest(tmp_path, number, code):
    source, out = long_input(tmp_path), tmp_path / "out.jsonl"
    started = commands.start("batch", source, "-o", out, *TINY, "-b", "4")
    started.wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 3)
    os.kill(started.pid, number)
    ended = started.wait()
    assert (ended.code, ended.err) == (code, "")
    done = out.read_bytes()
    assert done.endswith(b"\n")
    assert 3 <= done.count(b"\n") < 200
    assert not out.with_name("out.jsonl.started").exists()
    assert batch(source, "-o", out, *TINY, "-b", "16") == 0
    assert out.read_bytes().startswith(done)
    assert out.read_bytes().count(b"\n") == 200


def test_a_signal_and_how_to_go_on_are_told(tmp_path):
    source, out = long_input(tmp_path), tmp_path / "out.jsonl"
    loud = [flag for flag in TINY if flag != "-q"]
    started = commands.start("batch", source, "-o", out, *loud, "-b", "4")
    started.wait_until(lambda: out.exists() and out.read_bytes())
    os.kill(started.pid, signal.SIGINT)
    ended = started.wait()
    assert ended.code == 130
    assert ended.lines[0] == "llama-cli: stopping: rows that run have 5 s to finish; Ctrl-C once more stops at once"
    assert ended.lines[-1] == "llama-cli: stopped: run the same command again to go on"
    assert len(ended.lines) == 3


def test_a_row_that_kills_the_process_is_given_up(files, clean):
    """Row 7 ends the process whenever it runs. It is found alone, and all the others are right."""
    source, out = files
    lines = source.read_bytes().splitlines(keepends=True)
    killer = json.dumps(row(7) | {"max_tokens": 13}).encode() + b"\n"
    source.write_bytes(b"".join([*lines[:7], killer, *lines[8:]]))
    crash = partial(faults.crash_at_row, 13)
    codes = [commands.run("batch", source, "-o", out, *TINY, prepare=crash).code for _ in range(4)]
    assert codes == [9, 9, 9, 6]
    rows, expected = normal(out.read_bytes()).splitlines(), clean.splitlines()
    assert json.loads(rows[7])["error"]["code"] == "crashed"
    assert rows[:7] + rows[8:] == expected[:7] + expected[8:]


def test_a_session_goes_on_as_the_chat_would(tmp_path, capfd):
    """The model is shown the same by both: the very ids of an answer, or its content where that was edited."""
    settings = [*TINY, "-t", "0", "-n", "8", "--ignore-eos"]
    chat = ["chat", *settings]
    kept, rows, asked = tmp_path / "s.jsonl", tmp_path / "in.jsonl", {"role": "user", "content": "And?"}
    assert main([*chat, "Hi", "--session", str(kept)]) == 0
    for edit in ({}, {"content": "Something else."}):
        (row,) = map(json.loads, kept.read_text().splitlines())
        row["messages"][1] |= edit
        kept.write_text(json.dumps(row))
        row["messages"].append(asked)
        rows.write_text(json.dumps(row))
        capfd.readouterr()
        assert main([*chat, "And?", "--session", str(kept), "--continue", "--json"]) == 0
        said = json.loads(capfd.readouterr().out)
        assert batch(rows, "-o", "-", *settings) == 0
        answer = json.loads(capfd.readouterr().out)["response"]["body"]
        assert answer["choices"][0]["message"]["content"] == said["text"]
        assert answer["usage"] == said["usage"]
        row["messages"].pop()
        kept.write_text(json.dumps(row))


def test_messages_to_a_model_that_does_not_chat_are_told_the_way(tmp_path):
    """The toy continues plain text: rows of messages were refused with no word of what lets them run."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"messages": [{"role": "user", "content": "ROMEO:"}], "max_tokens": 3}) + "\n")
    arguments = [source, "-o", out, "--output-format", "simple", "-q"]
    assert batch(*arguments) == 6
    assert "no chat format; --chat-template none" in json.loads(out.read_text())["error"]["message"]
    out.unlink()
    assert batch(*arguments, "--chat-template", "none", "--force-resume") == 0
    assert json.loads(out.read_text())["text"]
