"""Every command under every signal, at many moments: the exit code is that of the signal, and nobody complains."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from helpers import commands
from helpers.models import DATA

TINY = str(DATA / "tiny/bpe1024")
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
ENDLESS = ["-m", TINY, "-n", "8000", "--ignore-eos", "-t", "0"]
pytestmark = pytest.mark.promise("P9")


def arguments_of(command, tmp_path):
    """(arguments, the file that grows while it works)"""
    if command == "complete":
        return ["complete", "Hello", *ENDLESS], "out"
    if command == "chat":
        return ["chat", "Hello", *ENDLESS], "out"
    if command == "score":
        rows = "".join(json.dumps({"text": f"some text of row {n} " * 9}) + "\n" for n in range(900))
        (tmp_path / "texts.jsonl").write_text(rows)
        return ["score", "--rows", tmp_path / "texts.jsonl", "-m", TINY, "-q"], "out"
    rows = "".join(json.dumps({"prompt": f"row {n}", "max_tokens": 30}) + "\n" for n in range(300))
    (tmp_path / "in.jsonl").write_text(rows)
    return ["batch", tmp_path / "in.jsonl", "-o", "-", "-m", TINY, "-q", "-b", "4"], "out"


def signalled(command, number, n_bytes, tmp_path):
    """How a command ends that gets a signal once it has written so much."""
    arguments, _ = arguments_of(command, tmp_path)
    started = commands.start(*arguments)
    started.wait_until(lambda: (started.folder / "out").stat().st_size >= n_bytes)
    os.kill(started.pid, number)
    return started.wait()


def assert_quiet_end(ended, code, command):
    assert ended.code == code, ended
    assert ended.err == "", ended.err
    if command in ("batch", "score"):
        assert ended.out == b"" or ended.out.endswith(b"\n"), "whole lines"


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["complete", "chat", "batch", "score"])
def test_a_signal_after_some_output(command, number, tmp_path):
    assert_quiet_end(signalled(command, number, 100, tmp_path), SIGNALS[number], command)


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [1, 10, 40, 300, 700, 1500, 2500, 4000, 5000])
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["complete", "chat", "batch", "score"])
def test_signals_at_many_moments(command, number, n_bytes, tmp_path):
    assert_quiet_end(signalled(command, number, n_bytes, tmp_path), SIGNALS[number], command)


START = """
import sys
from llama_cli.__main__ import main
print("Python is there", flush=True)
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6])
@pytest.mark.parametrize("number", SIGNALS)
def test_signals_while_it_starts(number, after):
    """typer, torch and the weights come first: whatever is being imported, nothing is printed.

    Before our handlers are there the signal itself ends the process, which is the same to a shell.
    """
    command = [sys.executable, "-c", START, "complete", "Hello", *ENDLESS]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(after)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(timeout=60) in (SIGNALS[number], -number)
        assert process.stderr.read() == b""


LINES = {
    "complete": ["complete", "Hello", *ENDLESS],
    "chat": ["chat", "Hello", *ENDLESS],
    "tokenize": ["tokenize", "-m", TINY, "word " * 20_000],
    "score": ["score", "-m", TINY, "word"],
    "help": ["complete", "--help"],
}


@pytest.mark.parametrize("command", LINES)
def test_a_reader_that_leaves(command, tmp_path):
    """`| head -c 10`. What fits into the pipe's own buffer may have been written before anybody left."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    started = commands.start(*LINES[command], prepare=partial(commands.print_to, str(fifo)))
    with fifo.open("rb", buffering=0) as pipe:
        pipe.read(10 if command in ("complete", "chat") else 0)
    ended = started.wait()
    assert (ended.code, ended.err) == (141, "")


@pytest.mark.parametrize("command", ["chat", "tokenize", "score"])
def test_a_closed_output(command):
    ended = commands.run(*LINES[command], prepare=partial(commands.close, 1, "stdout"))
    assert ended.code == 74
    assert ended.lines[0] == "llama-cli: error: standard output is closed"
