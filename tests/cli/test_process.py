"""Pipes, signals, start: what only a process of its own can show."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import commands
from helpers.models import DATA

TINY = str(DATA / "tiny/bpe1024")
LONG = ["complete", "-m", TINY, "Hello", "-n", "8000", "--ignore-eos", "-t", "0"]


def command(*arguments):
    return [sys.executable, "-m", "llama_cli", *arguments]


def launch(*arguments, **more):
    return subprocess.Popen(command(*arguments), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)


def wait_for_torch(process):
    """Until the process is loading: its handlers are in place, and no token has been made."""
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)


@pytest.mark.promise("P9")
def test_a_reader_that_leaves_ends_it_quietly():
    with launch(*LONG, stdout=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == b""


@pytest.mark.promise("P9")
def test_a_full_disk():
    with open("/dev/full", "wb") as full, launch(*LONG, stdout=full) as process:
        assert process.wait(timeout=30) == 74
        lines = process.stderr.read().decode().splitlines()
    assert lines == ["llama-cli: error: cannot write standard output: no space left on device", "hint: free some space"]


@pytest.mark.promise("P9")
@pytest.mark.parametrize(
    "arguments", [LONG, ["--version"], ["complete", "--help"]], ids=["complete", "version", "help"]
)
def test_a_closed_output(arguments):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command(*arguments)],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert done.returncode == 74
    assert done.stderr.decode().splitlines()[0] == "llama-cli: error: standard output is closed"


@pytest.mark.promise("P9")
@pytest.mark.sampled(6)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("after_bytes", [0, 5])
def test_signals_end_it_with_their_code(number, code, after_bytes):
    with launch(*LONG, stdout=subprocess.PIPE) as process:
        process.stdout.read(after_bytes) if after_bytes else wait_for_torch(process)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(timeout=30) == code
        assert process.stderr.read() == b""


@pytest.mark.promise("P9")
def test_an_ignored_interrupt_stays_ignored():
    """A shell starts background jobs with SIGINT ignored."""
    arguments = ["complete", "-m", TINY, "Hello", "-n", "200", "-t", "0"]
    with launch(
        *arguments, stdout=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    ) as process:
        process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) == 0


def imported(*arguments):
    """The modules that a command line has loaded when it ends."""
    code = "import sys; from llama_cli.cli.app import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [["complete", "-m", TINY, "Hello", "-n", "2"], ["tokenize", "-m", TINY, "Hello"], ["info", "-m", TINY]]
)
def test_the_tokenizer_is_loaded_under_one_name(arguments):
    """Errors and messages of a second copy would be caught and compared by nobody."""
    modules = imported(*arguments)
    assert "llama_cli.tokenizer" in modules
    assert not {name for name in modules if name.partition(".")[0] == "tokenizer"}


@pytest.mark.promise("P20")
@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], [], ["complete", "--help"], ["chat", "--help"]], ids=str
)
def test_help_loads_no_torch(arguments):
    assert not imported(*arguments) & {"prompt_toolkit", "torch", "numpy", "tiktoken", "safetensors", "fairscale"}


def test_help_and_version():
    shown = subprocess.run(command("--help"), capture_output=True, text=True, check=True)
    assert "complete" in shown.stdout
    assert shown.stderr == ""
    version = subprocess.run(command("--version"), capture_output=True, text=True, check=True)
    assert version.stdout.startswith("llama-cli ")
    assert subprocess.run(command(), capture_output=True, text=True, check=True).stdout == shown.stdout


def test_help_of_a_flag_that_turns_off_shows_no_default():
    """`--no-stdin ... [default: True]` read as if standard input were left alone unasked."""
    shown = subprocess.run(command("chat", "--help"), capture_output=True, text=True, check=True).stdout
    assert "--no-stdin" in shown
    assert "--no-session" in shown
    assert "default: True" not in shown


@pytest.mark.promise("P20")
@pytest.mark.slow
def test_help_and_version_are_quick(record_property):
    """At most 0.3 s of processor time more than a bare Python."""
    record_property("cases", 2)

    def cpu_seconds(arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(cpu_seconds(["-c", "pass"]) for _ in range(5))
    for flag in ("--help", "--version"):
        assert min(cpu_seconds(["-m", "llama_cli", flag]) for _ in range(5)) - bare < 0.3


def test_reading_a_model_writes_nothing(tmp_path):
    """A read-only folder is enough."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("params.json", "consolidated.00.pth", "tokenizer.model"):
        (folder / name).write_bytes((DATA / "tiny/bpe1024" / name).read_bytes())
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    folder.chmod(0o555)
    try:
        ended = commands.run("complete", "-m", folder, "x", "-n", "2")
    finally:
        folder.chmod(0o755)
    assert ended.code == 0, ended.err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
