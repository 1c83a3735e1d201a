"""Standard input: joined with a word, waited for with a word, left alone where that is asked for."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import commands
from helpers.models import DATA

from llama_cli.cli import waiting
from llama_cli.cli.prompts import read_prompt, stdin_text_lines
from llama_cli.errors import UsageError

TINY = str(DATA / "tiny/bpe1024")
JOINED = "llama-cli: {} bytes of standard input are joined to the prompt; --no-stdin leaves it alone"


def echoed(ended):
    return json.loads(ended.out)["text"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "text", "said"),
    [
        (["Hello"], b"more\n", "Hello\nmore", [JOINED.format(5)]),
        (["Hello", "-q"], b"more\n", "Hello\nmore", []),
        (["Hello", "--no-stdin"], b"more\n", "Hello", []),
        (["Hello", "--no_stdin"], b"", "Hello", []),
        (["Hello"], b"", "Hello", []),
        ([], b"piped\n", "piped", []),
        (["-"], b"piped\n", "piped", []),
        (["-", "--no-stdin"], b"piped\n", "piped", []),  # asked for by its name
    ],
)
def test_what_becomes_of_it(arguments, stdin, text, said):
    ended = commands.run("complete", "-m", TINY, "-n", 0, "--echo", "--json", *arguments, stdin=stdin)
    assert (ended.code, echoed(ended), ended.lines) == (0, text, said)


@pytest.mark.parametrize("command", [["complete"], ["chat"], ["score"], ["tokenize", "--count"]])
def test_every_command_that_joins_says_so(command):
    flags = ["-n", 4] if command[0] in ("complete", "chat") else []
    told = commands.run(*command, "-m", TINY, "Hello", *flags, stdin=b"x y")
    alone = commands.run(*command, "-m", TINY, "Hello", "--no-stdin", *flags, stdin=b"x y")
    assert (told.code, alone.code) == (0, 0)
    assert JOINED.format(3) in told.lines
    assert JOINED.format(3) not in alone.lines


def test_a_loop_over_lines_sees_all_of_them(tmp_path):
    """`while read x; do llama-cli complete "$x"; done < list`: the first run ate the list."""
    (tmp_path / "list").write_text("one\ntwo\n")
    line = f'while read x; do "$0" -m llama_cli complete -m {TINY} "$x" -n 0 --echo --no-stdin; done < list'
    done = subprocess.run(["sh", "-c", line, sys.executable], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "")


@pytest.mark.parametrize("value", ["0", "false", "no"])
def test_the_setting(value):
    ended = commands.run(
        "complete", "-m", TINY, "Hello", "-n", 0, "--echo", "--json", stdin=b"more", prepare=_Setting(value)
    )
    assert (ended.code, echoed(ended)) == (0, "Hello")


def test_the_setting_in_the_file(tmp_path):
    (tmp_path / "config.toml").write_text("stdin = false\n")
    setting = _Setting(file=tmp_path / "config.toml")
    ended = commands.run("complete", "-m", TINY, "a", "-n", 0, "--echo", "--json", stdin=b"b", prepare=setting)
    assert echoed(ended) == "a"


class _Setting:
    """Done in the command's own process."""

    def __init__(self, value="", file=None):
        self.value, self.file = value, file

    def __call__(self):
        if self.value:
            os.environ["LLAMA_CLI_STDIN"] = self.value
        if self.file:
            os.environ["LLAMA_CLI_CONFIG"] = str(self.file)


def test_no_prompt_where_it_is_left_alone():
    ended = commands.run("complete", "-m", TINY, "--no-stdin", stdin=b"x")
    assert (ended.code, ended.lines[0]) == (2, "llama-cli: error: no prompt, and standard input is left alone")


# Waiting.


class Pipe(io.RawIOBase):
    """Gives nothing until somebody was told that it is waited for."""

    def __init__(self):
        super().__init__()
        self.told = threading.Event()

    def readable(self):
        return True

    def readinto(self, buffer):
        assert self.told.wait(60), "nobody was told"
        return 0


@pytest.fixture(name="pipe")
def _pipe(monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0)
    pipe = Pipe()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(pipe), isatty=lambda: False))
    monkeypatch.setattr("llama_cli.cli.prompts.is_piped", lambda: True)
    pipe.said = []
    pipe.note = lambda text: (pipe.said.append(text), pipe.told.set())
    return pipe


def test_a_pipe_that_does_not_end_is_told(pipe):
    assert read_prompt("Hello", None, None, stdin=True, note=pipe.note) == "Hello"
    assert pipe.said == ["waiting for standard input to end; --no-stdin leaves it alone"]


def test_the_same_without_another_prompt(pipe):
    assert read_prompt(None, None, None, stdin=True, note=pipe.note) == ""
    assert pipe.said == ["waiting for standard input to end; a prompt may be an argument too"]


def test_lines_that_do_not_come_are_told(pipe):
    assert list(stdin_text_lines(pipe.note)) == []
    assert pipe.said == ["waiting for the first line of standard input"]


def test_it_is_not_looked_at_where_it_is_to_be_left_alone(pipe):
    assert read_prompt("Hello", Path(os.devnull), None, stdin=False, note=pipe.note) == "Hello\n"
    with pytest.raises(UsageError, match="no prompt"):
        read_prompt(None, None, None, stdin=False, note=pipe.note)
    assert pipe.said == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["complete", "chat", "score"])
def test_a_program_that_forgets_to_close_the_pipe(command):
    arguments = [sys.executable, "-m", "llama_cli", command, "-m", TINY, "Hello"]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr.readline() == "llama-cli: waiting for standard input to end; --no-stdin leaves it alone\n"
        process.stdin.close()
        assert process.wait(60) == 0


# What was typed and may have been meant otherwise.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Hello", "--stop", r"\n"], [r"--stop \n: \n is a backslash and an n; the shell makes a line break of $'\n'"]),
        (["Hello", "--stop", r"a\tb"], [r"--stop a\tb: \t is a backslash and a t; the shell makes a tab of $'\t'"]),
        (["Hello", r"--stop=\r\n"], [r"--stop \r\n: \r is a backslash and an r; the shell makes a carriage return"]),
        (["Hello", "--stop", "\n", "--stop", "\\", "--stop", r"\d"], []),
        ([r"Q: x\nA:"], [r"the prompt: \n is a backslash and an n; the shell makes a line break of $'\n'"]),
        ([r"the operator \nabla"], []),
        (["a real\nline and \\n"], []),
        (["<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"], ["<|start_header_id|> in the text stays text"]),
        (["<|im_start|>user"], ["<|im_start|> in the text stays text"]),
        (["<s>[INST] Hi [/INST]"], ["<s> in the text stays text"]),
        (["<s>struck</s> <|> a <| b |>"], []),
        (["<|eot_id|>", "-q", "--stop", r"\n"], []),
    ],
)  # fmt: skip
def test_doubts(arguments, said):
    ended = commands.run("complete", "-m", TINY, *arguments, "-n", 1)
    assert ended.code == 0
    assert len(ended.lines) == len(said)
    assert all(line.startswith(f"llama-cli: {text}") for line, text in zip(ended.lines, said, strict=True))


def test_doubts_of_messages():
    ended = commands.run("chat", "-m", TINY, "--stdin", "-n", 1, stdin=b"Hi\n<|eot_id|> there\n")
    assert sum("<|eot_id|> in the text stays text" in line for line in ended.lines) == 1
    ended = commands.run("score", "-m", TINY, "<|eot_id|> there")
    assert sum("<|eot_id|> in the text stays text" in line for line in ended.lines) == 1
