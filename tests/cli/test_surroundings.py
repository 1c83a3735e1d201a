"""Commands in odd surroundings: they work, or say in one line what is wrong with those; none calls it a bug."""

import ctypes
import os
import pwd
import re
import subprocess
import sys
import tempfile
from functools import partial

import pytest
from helpers import commands
from helpers.models import DATA

TINY = str(DATA / "tiny/bpe1024")
GREEDY = ["-m", TINY, "-n", "4", "-t", "0", "--kernels", "torch"]
COMMANDS = {
    "complete": ["complete", "Hello", *GREEDY],
    "chat": ["chat", "Hello", *GREEDY],
    "score": ["score", "Hello there", "-m", TINY, "--kernels", "torch"],
    "tokenize": ["tokenize", "Hello", "-m", TINY],
    "verify": ["verify", "-m", TINY, "--quick"],
    "models": ["models", "--names"],
    "info": ["info", "-m", TINY, "--json"],
    "help": ["complete", "--help"],
}


def _variables(**changes):
    """Environment variables as they are to be; None takes one away."""
    for name, value in changes.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    tempfile.tempdir = None


def _no_home():
    """As in a container that runs under a number."""
    _variables(HOME=None, XDG_CONFIG_HOME=None, XDG_CACHE_HOME=None, XDG_STATE_HOME=None, LLAMA_CLI_CONFIG=None)
    pwd.getpwuid = pwd.getpwnam = _nobody


def _nobody(_):
    raise KeyError


def _without(*folders):
    """Mount namespaces are root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (libc.unshare(0x20000), *(libc.umount2(folder.encode(), 2) for folder in folders)):
        if done:
            os._exit(99)


FILE = str(DATA / "tiny/bpe1024/params.json")
ODD = {
    "no home": _no_home,
    "an empty home": partial(_variables, HOME="", LLAMA_CLI_CONFIG=None),
    "a relative home": partial(_variables, HOME="somewhere", LLAMA_CLI_CONFIG=None),
    "a home that is not there": partial(_variables, HOME="/nowhere/at/all", LLAMA_CLI_CONFIG=None),
    "a home that is a file": partial(_variables, HOME=FILE, LLAMA_CLI_CONFIG=None),
    "relative XDG folders": partial(_variables, XDG_CONFIG_HOME="a", XDG_STATE_HOME="b", LLAMA_CLI_CONFIG=None),
    "XDG folders that are files": partial(
        _variables, XDG_CONFIG_HOME=FILE, XDG_CACHE_HOME=FILE, XDG_STATE_HOME=FILE, LLAMA_CLI_CONFIG=None
    ),
    "no temporary folder": partial(_variables, TMPDIR="/nowhere/at/all"),
    "a temporary folder that is a file": partial(_variables, TMPDIR=FILE),
    "an odd terminal": partial(_variables, TERM="nonsense", COLUMNS="abc", LINES="-1"),
    "an odd GPU": partial(_variables, CUDA_VISIBLE_DEVICES="abc"),
    "places of models that are none": partial(_variables, LLAMA_CLI_HOME=FILE, HF_HOME=FILE),
    "standard input closed": partial(commands.close, 0, "stdin"),
    "standard error closed": partial(commands.close, 2, "stderr"),
    "no /proc": partial(_without, "/proc"),
    "no /dev/shm": partial(_without, "/dev/shm"),
}


def _five_digits(text):
    return re.sub(rb"\d+\.\d+", lambda number: b"%.5g" % float(number[0]), text)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_surroundings(odd, name, tmp_path):
    plain = commands.run(*COMMANDS[name])
    ended = commands.run(*COMMANDS[name], prepare=partial(_begin, str(tmp_path), ODD[odd]))
    if ended.code == 99:
        pytest.skip("not allowed here")
    assert (ended.code, ended.err.count("internal error")) == (0, 0), ended.err
    if name not in ("info", "help"):  # what is free at the moment; the width
        # Without /proc torch does not know its processor and adds up in another order.
        shown = _five_digits if (odd, name) == ("no /proc", "score") else bytes
        assert shown(ended.out) == shown(plain.out)
    assert list(tmp_path.iterdir()) == [], "no folder called ~ is made"


def _begin(folder, prepare):
    os.chdir(folder)
    prepare()


# Errors of ours, where it cannot work.


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("/", 2, "/: is a directory"),
        ("/nowhere/x", 2, "there is no /nowhere/x, which LLAMA_CLI_CONFIG names"),
        ("~nobody-of-this-name/x", 2, "there is no ~nobody-of-this-name/x"),
        ("/dev/zero", 2, "/dev/zero: it has more than 1,048,576 bytes"),
        ("a\nb\x1b[2J", 2, "there is no a b\\x1b[2J"),
    ],
)
def test_hostile_names_of_the_settings(value, code, message):
    ended = commands.run(*COMMANDS["complete"], prepare=partial(_variables, LLAMA_CLI_CONFIG=value))
    assert (ended.code, message in ended.lines[0], len(ended.lines)) == (code, True, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "xx"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONOPTIMIZE": "2"},
        {"OMP_NUM_THREADS": "abc"},
        {"OMP_NUM_THREADS": "0"},
        {"MKL_NUM_THREADS": "abc", "KMP_AFFINITY": "x"},
        {"CUDA_VISIBLE_DEVICES": "-7,x"},
        {"WORLD_SIZE": "abc"},
        {"PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": "1"},
    ],
    ids=str,
)
def test_variables_that_are_read_at_the_start(changes):
    command = [sys.executable, "-m", "llama_cli", *COMMANDS["complete"]]
    done = subprocess.run(
        command, env={**os.environ, **changes}, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == commands.run(*COMMANDS["complete"]).out
    assert b"internal error" not in done.stderr


# The shell's completion.


def _as_bash(home):
    from typer import _completion_shared, completion

    _completion_shared._get_shell_name = completion._get_shell_name = lambda: "bash"
    os.environ["HOME"] = home


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (".bashrc", None, ".bashrc: is a directory"),
        (".bashrc", b"caf\xe9\n", "the shell's start file is not UTF-8"),
        (".bash_completions", b"", ".bash_completions: "),
    ],
)
def test_a_completion_that_cannot_be_installed(name, content, reason, tmp_path):
    """It was an internal error; the way by hand is told."""
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    ended = commands.run("--install-completion", prepare=partial(_as_bash, str(tmp_path)))
    assert (ended.code, ended.out) == (74, b"")
    assert ended.lines[0].startswith("llama-cli: error: the completion cannot be installed: ")
    assert reason in ended.lines[0]
    assert 'eval "$(llama-cli --show-completion)"' in ended.lines[1]


def test_a_completion_that_can(tmp_path):
    ended = commands.run("--install_completion", prepare=partial(_as_bash, str(tmp_path)))
    assert (ended.code, ended.err) == (0, "")
    assert "llama-cli.sh" in (tmp_path / ".bashrc").read_text()
