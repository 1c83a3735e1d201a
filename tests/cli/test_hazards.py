"""Dangers that no list of promises names: each was tried from a shell, and broke something once."""

import contextlib
import fcntl
import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers import commands
from helpers.folders import write_meta
from helpers.models import DATA

from llama_cli import memory
from llama_cli.cli import prompts
from llama_cli.memory import free_memory
from llama_cli.tokenizer import TokenizerError, load_tokenizer

TINY = str(DATA / "tiny/bpe1024")
BATCH = ["-m", TINY, "-q", "--seed", "1", "-n", "3"]
F_SETPIPE_SZ = 1031


@pytest.fixture(name="source")
def _source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    return path


def process(*arguments, **more):
    command = [sys.executable, "-m", "llama_cli", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60, **more)


# Files that are none.


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), Path.mkdir])
def test_an_output_that_is_no_file(make, source, tmp_path):
    """Opening a pipe waited for ever; beside /dev/null a /dev/null.run.json was made."""
    make(tmp_path / "out")
    ended = commands.run("batch", source, "-o", tmp_path / "out", *BATCH)
    assert (ended.code, ended.out) == (7, b"")
    assert "out is no regular file" in ended.lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out"]


@pytest.mark.parametrize("text", ["my notes\nthe last line", "one line", '{\n "a": 1\n}', '{"a": 1}', "x" * 5000])
def test_somebody_elses_file_stays_as_it_is(text, source, tmp_path):
    """A last line without its newline was moved aside as torn before the file was found to be none of ours."""
    out = tmp_path / "notes.txt"
    out.write_text(text)
    ended = commands.run("batch", source, "-o", out, *BATCH)
    assert (ended.code, ended.out) == (7, b"")
    assert "no batch wrote" in ended.lines[0]
    assert out.read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "notes.txt"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_session_that_is_no_file(make, tmp_path):
    """A pipe was waited for, and /dev/zero read until memory ended."""
    make(tmp_path / "talk")
    ended = commands.run("chat", "Hi", "-m", TINY, "-n", "2", "--session", tmp_path / "talk", "--continue")
    assert (ended.code, ended.out) == (7, b"")
    assert ended.lines[0].endswith(("talk is no regular file", "talk is a folder"))
    assert [path.name for path in tmp_path.iterdir()] == ["talk"]


def test_a_pipe_in_the_hubs_cache(tmp_path):
    """`models` waited for ever."""
    repository = tmp_path / "models--a--b"
    write_meta(repository / "snapshots/1")
    (repository / "refs").mkdir()
    os.mkfifo(repository / "refs/main")
    ended = commands.run("models", "--names", prepare=partial(_live_in, str(tmp_path)))
    assert (ended.code, ended.out) == (0, b"a/b\ntoy\n")


def _live_in(folder):
    os.environ.update({"HF_HUB_CACHE": folder, "HOME": folder})


# Files that are damaged.


@pytest.mark.parametrize("started", [b'+[1]\n+{"a": 1}\n+null\n', b"+\xff\xfe\n\0\0\n", b"+" + b"[" * 99999 + b"\n"])
def test_the_list_of_started_rows_is_damaged(started, source, tmp_path):
    out = tmp_path / "out.jsonl"
    out.with_name("out.jsonl.started").write_bytes(started)
    assert commands.run("batch", source, "-o", out, *BATCH).code == 0
    assert out.read_bytes().count(b"\n") == 2
    assert not out.with_name("out.jsonl.started").exists()


@pytest.mark.parametrize("identity", [b"", b"{}", b'{"model": 1}', b'{"created": "x", "run_seed": []}', b"[" * 99999])
def test_the_identity_of_a_run_is_damaged(identity, source, tmp_path):
    out = tmp_path / "out.jsonl"
    assert commands.run("batch", source, "-o", out, *BATCH).code == 0
    rows = out.read_bytes()
    out.with_name("out.jsonl.run.json").write_bytes(identity)
    ended = commands.run("batch", source, "-o", out, *BATCH)
    assert ended.code == 7
    assert "out.jsonl.run.json is damaged" in ended.lines[0]
    out.with_name("out.jsonl.run.json").unlink()
    assert commands.run("batch", source, "-o", out, *BATCH, "--force-resume").code == 0
    assert out.read_bytes() == rows


# Endless and huge things.


def test_an_endless_prompt(monkeypatch, tmp_path):
    """`yes | llama-cli complete` took all memory."""
    monkeypatch.setattr(prompts, "MAX_BYTES", 1000)
    with open("/dev/zero") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(prompts.InputRejected, match="standard input has more than 1,000 bytes"):
            prompts.read_prompt("-", None, None, stdin=True, note=print)
        with pytest.raises(prompts.InputRejected, match="line 1 of standard input has more than 1,000 bytes"):
            next(prompts.stdin_text_lines(print))
    with pytest.raises(prompts.InputRejected, match="/dev/zero has more than 1,000 bytes"):
        prompts.read_text_file(Path("/dev/zero"))


@pytest.mark.parametrize("beginning", [b"IQ== 0\nIg== 1\n", b'["a"', b"\n\x0e"])
@pytest.mark.parametrize("name", ["tokenizer.model", "chars.json"])
def test_a_huge_tokenizer_is_not_read(name, beginning, tmp_path):
    """100 GB of holes."""
    path = tmp_path / name
    path.write_bytes(beginning)
    os.truncate(path, 100 << 30)
    with pytest.raises(TokenizerError, match="has 107,374,182,400 bytes; a tokenizer has fewer"):
        load_tokenizer(path)


# Streams.


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_does_not_wait(unbuffered):
    """Who starts it may have made the pipe a non-blocking one: what did not fit at once was lost, with exit 0.

    Python's unbuffered streams do not even raise: they say how much they took.
    """
    arguments = ["complete", "-m", TINY, "Hi", "-n", "600", "--ignore-eos", "-t", "0"]
    expected = process(*arguments).stdout
    assert len(expected) > 4096
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    started = subprocess.Popen(
        [sys.executable, "-m", "llama_cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    with started, open(reader, "rb", buffering=0) as pipe:
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(8)  # long enough for most machines to fill the pipe
        found = pipe.readall()
        assert started.wait(60) == 0
        assert started.stderr.read() == b""
    assert found == expected


def test_closed_streams_are_not_given_to_files(source, tmp_path):
    """The output of a batch got the number of the closed standard error, where libraries print."""
    code = f"""
import os, sys
from llama_cli.jobs import ledger
real = ledger.Ledger._repair
def repair(self):
    os.write(2, b"a library complains")
    assert self._fd > 2
    return real(self)
ledger.Ledger._repair = repair
from llama_cli.cli.app import main
sys.exit(main(["batch", {str(source)!r}, "-o", {str(tmp_path / "out")!r}, *{BATCH!r}]))
"""
    closing = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", code], stdout=subprocess.PIPE, check=False
    )
    assert closing.returncode == 0
    assert [json.loads(line)["error"] for line in (tmp_path / "out").read_bytes().splitlines()] == [None, None]


@pytest.mark.parametrize("arguments", [["complete", "-m", "/nowhere", "x"], ["complete", "-m", TINY, "x", "-n", "2"]])
def test_nobody_hears_the_complaint(arguments):
    """A full standard error changes no exit code."""
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "llama_cli", *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=full, check=False)
    assert done.returncode == (3 if "/nowhere" in arguments else 0)


# Where it is started.


def test_a_module_in_the_current_folder_is_not_run(tmp_path):
    """`cd MODEL && python -m llama_cli` ran the torch.py of whoever made the model."""
    for name in ("torch", "tiktoken", "numpy", "safetensors", "pydantic"):
        (tmp_path / f"{name}.py").write_text("print('owned'); raise SystemExit")
    done = process("complete", "-m", TINY, "Hi", "-n", "2", cwd=tmp_path, env={**os.environ, "PYTHONPATH": _root()})
    assert done.returncode == 0, done.stderr
    assert b"owned" not in done.stdout


def _root():
    return str(Path(__file__).parent.parent.parent)


def test_a_folder_that_was_deleted(tmp_path):
    """oneMKL ended the process, with exit 2 and a complaint about a library."""
    ended = commands.run("complete", "-m", TINY, "Hi", prepare=partial(_go_nowhere, str(tmp_path / "gone")))
    assert ended.code == 2
    assert ended.lines[0] == "llama-cli: error: the current folder is not there any more"


def _go_nowhere(folder):
    os.mkdir(folder)
    os.chdir(folder)
    os.rmdir(folder)


OPTIMISED = [sys.executable, "-OO", "-m", "llama_cli"]


def test_optimised_python_checks_as_much(tmp_path):
    """-OO takes away assert statements and docstrings: no check may be one."""
    folder = write_meta(tmp_path / "model")
    (folder / "consolidated.00.pth").write_bytes(b"PK\3\4")
    refused = subprocess.run([*OPTIMISED, "info", "-m", str(folder)], capture_output=True, check=False)
    assert (refused.returncode, refused.stdout) == (3, b"")


@pytest.mark.slow
def test_optimised_python_answers_the_same():
    """It compiles all of torch's sources anew where it may not keep what comes out."""
    flags = ["complete", "-m", TINY, "Hi", "-n", "8", "-t", "0"]
    same = subprocess.run([*OPTIMISED, *flags], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert same.stdout == process(*flags).stdout


# What is told.


def test_a_hint_can_be_typed_whatever_the_folder_is_called(tmp_path):
    """`ls -lL my model;rm -rf ~/params.json` was the thing to type."""
    folder = write_meta(tmp_path / "my model;touch owned;$(touch owned)`touch owned`'")
    (folder / "params.json").unlink()
    (folder / "params.json").symlink_to("params.json")
    ended = commands.run("info", "-m", folder)
    (folder / "params.json").unlink()
    (folder / "params.json").mkdir()
    again = commands.run("info", "-m", folder)
    assert {ended.code, again.code} == {3}
    hints = [line.removeprefix("hint: ") for line in (*ended.lines, *again.lines) if line.startswith("hint: ls")]
    for hint in hints:
        assert shlex.split(hint)[:2] == ["ls", "-lL"]
        assert shlex.split(hint)[2].startswith(str(folder))
    (folder / "params.json").rmdir()
    (folder / "params.json").write_bytes(b" " * (2 << 20))
    large = commands.run("info", "-m", folder)
    assert shlex.quote(str(folder / "params.json")) in large.lines[1]


# Limits.


def test_limits_of_every_cgroup_around_it(tmp_path, monkeypatch):
    """`systemd-run -p MemoryMax=...` limits a group inside the one that was looked at."""
    (tmp_path / "own").write_text("4:memory:/old/x\n0::/user/session\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    free = free_memory()
    for place, kind, room in [
        ("user/session", "memory.max memory.current", 9000),
        ("user", "memory.max memory.current", 5000),
        ("memory/old", "memory.limit_in_bytes memory.usage_in_bytes", 700),
    ]:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        limit, used = kind.split()
        (tmp_path / place / limit).write_text(f"{room + 100}\n")
        (tmp_path / place / used).write_text("100\n")
        assert free_memory() == room < free


def test_a_limit_of_its_own_address_space():
    """ulimit -v: too little is exit 4 with the arithmetic, no MemoryError in the middle."""
    ended = commands.run("complete", "-m", TINY, "Hi", prepare=_limit_memory)
    assert ended.code == 4, ended
    assert len(ended.lines) == 2


def _limit_memory():
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (12 << 20), used + (12 << 20)))
