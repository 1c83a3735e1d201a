"""The surroundings: locales, terminals, memory, the network. None of them changes what comes out."""

import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers import commands
from helpers.folders import random_weights, write_meta
from helpers.models import DATA

from llama_cli.checkpoint.params import read_params

TINY = str(DATA / "tiny/bpe1024")
GREEDY = ["-m", TINY, "-n", "12", "-t", "0"]

# Everything that reads the locale, the width and the terminal, in one process.
SCRIPT = """
import sys
from llama_cli.cli.app import main
for line in sys.argv[2:]:
    assert main(line.split("|")) == 0, line
"""
LINES = [
    "complete|naïve 漢字 \\x1b[1m|--echo|" + "|".join(GREEDY),
    "complete|Hello|--json|--logprobs|-n|2|-t|0|--seed|1|-m|" + TINY,
    "tokenize|naïve 漢字|-m|" + TINY,
    "chat|Hello|" + "|".join(GREEDY),
    "score|Hello there|-m|" + TINY,
    "info|-m|" + TINY,
    "complete|--help",
]
LOCALES = [
    {},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "de_DE.ISO-8859-1"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
]
TERMINALS = [
    {},
    {"COLUMNS": "0", "TERM": "dumb", "NO_COLOR": "1"},
    {"COLUMNS": "1", "LINES": "1", "TERM": "xterm-256color"},
    {"COLUMNS": "-5", "FORCE_COLOR": "1"},
    {"COLUMNS": "abc", "TERM": "", "CLICOLOR_FORCE": "1"},
    {"TERM": "nonsense", "COLORTERM": "truecolor", "NO_COLOR": ""},
]


def output_in(environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "TERM", "NO_COLOR")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "-", *LINES],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, env={**clean, **environment},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    changing = rb'"timings": .*|free.*|.*(fits|GiB|MiB).*'  # speeds, and the memory of the moment
    help_begins = done.stdout.index(b"Usage:")
    return re.sub(changing, b"", done.stdout[:help_begins]), re.sub(rb"\s+", b" ", done.stdout[help_begins:])


@pytest.fixture(name="plain", scope="module")
def _plain():
    return output_in({})


@pytest.mark.slow
@pytest.mark.promise("P18")
@pytest.mark.parametrize("terminal", range(len(TERMINALS)))
@pytest.mark.parametrize("locale", range(len(LOCALES)))
def test_the_same_bytes_everywhere(locale, terminal, plain):
    """Help may be broken into other lines; it is never gone."""
    product, help_text = output_in(LOCALES[locale] | TERMINALS[terminal])
    assert product == plain[0]
    assert len(help_text) > 2000


# The network.

NETWORKED = [
    ["complete", "Hello", *GREEDY],
    ["chat", "Hello", *GREEDY],
    ["score", "Hello there", "-m", TINY],
    ["batch", str(DATA / "rows.jsonl"), "-o", "-", *GREEDY],
    ["tokenize", "Hello", "-m", TINY],
    ["info", "-m", TINY],
    ["verify", "-m", TINY],
    ["models"],
    ["config"],
    ["bench", "-m", TINY, "--help"],
]


@pytest.mark.promise("P17")
@pytest.mark.parametrize("arguments", NETWORKED, ids=lambda arguments: arguments[0])
def test_no_socket_is_opened(arguments, tmp_path):
    """Neither by Python, which its audit hook tells, nor by a library: no descriptor of the process is a socket."""
    if arguments[0] == "batch":
        (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
        arguments = ["batch", tmp_path / "rows.jsonl", *arguments[2:]]
    ended = commands.run(*arguments, prepare=partial(_watch_sockets, str(tmp_path / "seen")))
    assert ended.code == 0, ended.err
    assert (tmp_path / "seen").read_text().split() == ["watching"]


def _watch_sockets(path):
    """Note every socket event, and at each event of any kind that comes now and then the sockets that are open."""
    seen = open(path, "a", buffering=1)  # noqa: SIM115
    seen.write("watching\n")
    before = _sockets()

    def watch(event, _):
        if event.startswith("socket."):
            seen.write(event + "\n")
        if event == "import" and _sockets() != before:
            seen.write("a socket of a library\n")

    sys.addaudithook(watch)


def _sockets():
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found |= {target for target in [os.readlink(f"/proc/self/fd/{number}")] if target.startswith("socket:")}
        except OSError:
            continue
    return found


# Memory.


@pytest.mark.promise("P16")
@pytest.mark.sampled(5)
@pytest.mark.parametrize("free", [0, 1, *(1 << power for power in range(10, 27, 1)), 40_000_000])
def test_too_little_memory(free, tmp_path):
    """A model that needs 75 MB and a machine that has less: exit 4 before anything is allocated."""
    args = read_params(BIG)
    write_meta(tmp_path, random_weights(args))
    (tmp_path / "params.json").write_text(str(BIG).replace("'", '"'))
    symbols = [chr(0x4E00 + place) for place in range(args.vocab_size)]
    (tmp_path / "chars.json").write_text(str(symbols).replace("'", '"'), encoding="utf-8")
    ended = commands.run("complete", "-m", tmp_path, symbols[0], prepare=partial(_have, free))
    assert (ended.code, ended.out) == (4, b"")
    assert re.fullmatch(r"llama-cli: error: needs [\d.]+ MiB \(.* of weights, .*\); .* are free", ended.lines[0])
    assert ended.peak_bytes < 330 << 20


BIG = {"dim": 256, "n_layers": 40, "n_heads": 8, "n_kv_heads": 8, "vocab_size": 512, "multiple_of": 64}


def _have(free):
    from llama_cli.parallel import resources

    resources.usable_memory = lambda: free


@pytest.mark.promise("P16")
@pytest.mark.slow
@pytest.mark.parametrize("context", [256, 1024, 2048])
def test_the_estimate_is_the_memory_that_is_used(context, tmp_path):
    """Within a tenth where a full context is computed, and what is planned is enough.

    A tokenizer of 256 characters takes less than BASE allows for, so a small model's process stands for it.
    """
    from llama_cli.backends.offers import ABLE, Wanted, choose_offer
    from llama_cli.memory import BASE, HEADROOM, Stored, plan_memory

    args = read_params({**BIG, "vocab_size": 256})
    write_meta(tmp_path, random_weights(args, dtype=torch.float32))
    (tmp_path / "params.json").write_text(str({**BIG, "vocab_size": 256}).replace("'", '"'))
    symbols = [chr(0x4E00 + place) for place in range(256)]
    (tmp_path / "chars.json").write_text(str(symbols).replace("'", '"'), encoding="utf-8")
    (tmp_path / "text").write_text(symbols[1] * (context - 2), encoding="utf-8")
    flags = ["-m", tmp_path, "-f", tmp_path / "text", "-n", "1", "-t", "0", "-c", context, "--kernels", "plain"]
    small = commands.run("complete", "-m", TINY, "a", "-n", "1", "-c", "16").peak_bytes
    peak = commands.run("complete", *flags, "--dtype", "fp32").peak_bytes
    offer = choose_offer(Wanted("float32", "cpu", kernels="plain"), ABLE)
    plan = plan_memory(args, offer, Stored(4, is_tied=False, is_copied=False), n_slots=1)
    planned = plan.total(context) - BASE * (1 + HEADROOM) + small
    assert planned == pytest.approx(peak, rel=0.1)
    assert planned > 0.97 * peak
