"""What a person waits for is shown on a terminal, and leaves nothing behind."""

import subprocess
import sys

from helpers.models import DATA
from helpers.screen import Terminal

import llama_cli
from llama_cli.cli.progress import Loading, shown_while_read
from llama_cli.engine.engine import Stats

TINY = DATA / "tiny/bpe1024"

# Waits until its line has been drawn three times, with a warning and the product in between.
WAITER = """
import sys, threading
from llama_cli.cli.progress import Waiting
from llama_cli.cli.terminal import Terminal, write_stderr
drawn, times = threading.Event(), []
def tell():
    times.append(1)
    if len(times) >= 3:
        drawn.set()
    return f"reading\\x1b[31m the prompt, {len(times)}"
with Waiting(tell, quiet="-q" in sys.argv, patience=0):
    if sys.stderr.isatty() and "-q" not in sys.argv:
        drawn.wait()
    write_stderr("WARNING: of something")
Terminal().write("the answer\\n")
write_stderr(f"asked {min(len(times), 3)} times")
"""


def lines_of(program):
    assert program.wait_for_end() == 0
    return [line for line in program.text() if line]


def test_a_line_that_is_drawn_again_and_leaves_no_trace():
    """A warning meanwhile has a line of its own; the cursor is seen, also by who ends the program now."""
    with Terminal(["-c", WAITER], program=(sys.executable,)) as program:
        program.wait(lambda: any(r"reading\x1b[31m the prompt" in line for line in program.shown()))
        assert lines_of(program) == ["WARNING: of something", "the answer", "asked 3 times"]
        assert program.sent.rindex(b"\x1b[?25h") > program.sent.rindex(b"\x1b[?25l")
        assert b"\x1b[31m the" not in program.sent


def test_nothing_is_drawn_where_nobody_looks():
    with Terminal(["-c", WAITER, "-q"], program=(sys.executable,)) as program:
        assert lines_of(program) == ["WARNING: of something", "the answer", "asked 0 times"]
    with Terminal(
        ["-c", WAITER.replace("isatty()", "closed")], program=(sys.executable,), env={"TERM": "dumb"}
    ) as dumb:
        assert lines_of(dumb) == ["WARNING: of something", "the answer", "asked 0 times"]
    done = subprocess.run([sys.executable, "-c", WAITER], capture_output=True, check=True)
    assert done.stdout == b"the answer\n"
    assert done.stderr == b"WARNING: of something\nasked 0 times\n"


def test_layers_are_counted():
    seen = []
    llama_cli.load(TINY, on_layer=lambda done, n_layers: seen.append((done, n_layers)))
    assert seen == [(place + 1, len(seen)) for place in range(len(seen))]
    assert seen
    with Loading(str(TINY), quiet=True) as loading:
        loading.on_layer(3, 16)
        assert loading._tell() == "loading bpe1024, 3 of 16 layers"
    assert Loading(None, quiet=True)._tell() == "loading the toy"


def test_an_answer_is_what_it_was():
    """All of it, none of it, and an error on the way."""
    assert list(shown_while_read(iter("abc"), 3, Stats(), quiet=True)) == ["a", "b", "c"]
    assert list(shown_while_read(iter(""), 3, Stats(), quiet=True)) == []
