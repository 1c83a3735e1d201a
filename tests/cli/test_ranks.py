"""Commands on several ranks: the same output, exit codes and files as from one process, whoever dies."""

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from helpers.models import DATA

TINY = DATA / "tiny/bpe1024"
TESTS = Path(__file__).parents[1]


def run(arguments, **more):
    """A command run to its end: (exit code, stderr)."""
    command = [sys.executable, "-m", "llama_cli", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)
    return done.returncode, done.stderr


def command(*arguments):
    return [sys.executable, "-m", "llama_cli", *map(str, arguments)]


def output_of(*arguments, stdin=None, launcher=None):
    start = launcher or command()
    done = subprocess.run([*start, *map(str, arguments)], input=stdin, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def torchrun(n_ranks, *options):
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(n_ranks),
        *options,
        "-m",
        "llama_cli",
    ]


def outside_listeners(process):
    """Sockets of a process and its children that listen on more than the loopback."""
    numbers = {each.pid for each in [process, *process.children(recursive=True)]}
    return [
        connection
        for connection in psutil.net_connections(kind="inet")
        if connection.pid in numbers
        and connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in ("127.0.0.1", "::1")
    ]


def test_complete_reads_a_pipe_and_listens_to_nobody_outside():
    """Rank 0 alone reads and prints; stdout is the same to the byte."""
    arguments = ["complete", "-m", TINY, "-n", "12", "-t", "0", "--dtype", "fp32", "--ignore-eos"]
    expected = output_of(*arguments, stdin=b"Hello there")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(*arguments, "--tp", "2"), **pipes) as process:
        process.stdin.write(b"Hello there")
        process.stdin.close()
        begun = process.stdout.read(1)
        if sys.platform == "linux":
            assert psutil.Process(process.pid).children(), "a second rank"
            assert not outside_listeners(psutil.Process(process.pid))
        assert begun + process.stdout.read() == expected
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 0


def test_too_many_ranks():
    code, error = run(["complete", "-m", TINY, "--tp", "3", "x"])
    assert code == 2
    assert error.splitlines()[1] == "hint: --tp may be 1, 2, 4, 8"


def write_rows(folder, n=24):
    chance = random.Random(5)
    rows = [
        {"id": f"row {i}", "prompt": "Hello " * chance.randint(1, 9), "max_tokens": chance.randint(3, 60)}
        for i in range(n)
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def batch(folder, output, *more):
    """Flags of a batch whose output rounding cannot change: the sums of two ranks are not those of one process.

    With this seed and top-p no draw, and no sum that top-p looks at, lies within 8e-6 of where another token would be
    chosen. With top-p 0.9 the first tokens of many rows lie within 1e-6.
    """
    return [
        "batch", folder / "in.jsonl", "-o", folder / output, "-m", TINY, "--dtype", "fp32", "-b", "3", "--seed", "6",
        "--top-p", "0.8", "--ignore-eos", "--output-format", "simple", "--threads", "1", *more,
    ]  # fmt: skip


def begin(arguments, start=None):
    start = start or command()
    return subprocess.Popen([*start, *map(str, arguments)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def held_after(n_rows):
    """The program, which suspends itself once it has written so many rows."""
    program = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); from helpers import faults; faults.stop_after_rows({n_rows});"
        "from llama_cli.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", program]


def is_held(process):
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def wait_for(condition, process):
    """Wait until something is so of a running batch."""
    while process.poll() is None and not condition():
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read().decode()


def wait_for_rows(n_rows, output, process):
    wait_for(lambda: output.exists() and output.read_bytes().count(b"\n") >= n_rows, process)


def ranks_of(process):
    """The processes of a run by their rank, those that have been started."""
    found = {0: psutil.Process(process.pid)}
    for each in found[0].children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a short-lived one
            rank = each.environ().get("RANK")  # not yet there in the moment between fork and exec
            if rank is not None:
                found[int(rank)] = each
    return found


def is_gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def seconds_until_gone(processes):
    began = time.monotonic()
    while not all(map(is_gone, processes)):
        assert time.monotonic() - began < 60  # 10 s are promised, where nothing else runs
        time.sleep(0.01)
    return time.monotonic() - began


def check_rank_death(folder, flags, whom, n_rows, delay):
    """Kill a rank some seconds after so many rows; the others end, the same command goes on.

    Rank 0 waits for the kill, without a delay at that row and else at a later one: the run cannot be over before.
    Returns the seconds until all are gone.
    """
    output, arguments = folder / "ranks.jsonl", batch(folder, "ranks.jsonl", *flags)
    expected = (folder / "alone.jsonl").read_bytes()
    with begin(arguments, held_after(n_rows if delay is None else n_rows + 8)) as process:
        wait_for(lambda: len(ranks_of(process)) == n_ranks_of(flags), process)
        ranks = ranks_of(process)
        if n_rows:
            wait_for_rows(n_rows, output, process)
        if delay is None:
            wait_for(lambda: is_held(process), process)
        else:
            time.sleep(delay)
        ranks[whom].kill()
        process.send_signal(signal.SIGCONT)
        seconds = seconds_until_gone(ranks.values())
        error, code = process.stderr.read().decode(), process.wait()
    if whom == 0:
        assert (code, error) == (-signal.SIGKILL, "")
    else:
        assert code == 1
        assert error.splitlines()[0] == f"llama-cli: error: rank {whom} was killed by SIGKILL"
    written = output.read_bytes() if output.exists() else b""
    assert written.count(b"\n") >= n_rows
    assert expected.startswith(written), "rows in order, none altered"
    assert whom == 0 or not written or written.endswith(b"\n"), "who lives on leaves whole rows"
    code, error = run(arguments)
    assert code == 0, error
    assert output.read_bytes() == expected
    return seconds


def n_ranks_of(flags):
    return math.prod(map(int, flags[1::2]))


@pytest.fixture(name="rows")
def _rows(tmp_path):
    """Rows, and what one process makes of them."""
    write_rows(tmp_path)
    code, error = run(batch(tmp_path, "alone.jsonl"))
    assert code == 0, error
    return tmp_path


class Kill(NamedTuple):
    """Which rank of which ranks dies, and when."""

    flags: tuple[str, ...]
    whom: int
    n_rows: int  # in the output by then
    delay: float  # a part of 1: of a twentieth of a second, or while ranks start of half the time one process runs


def kills():
    """20 of them: each rank several times, four while the ranks start, the others from the 2nd row to the 32nd."""
    chance = random.Random(19)
    groups = {("--tp", "2"): 4, ("--dp", "2"): 2, ("--tp", "2", "--dp", "2"): 2}
    ranks = [(flags, whom) for flags, n in groups.items() for whom in range(n_ranks_of(flags)) for _ in range(n)]
    chance.shuffle(ranks)
    return [Kill(*rank, max(2 * (i - 3), 0), chance.random()) for i, rank in enumerate(ranks)]


@pytest.fixture(name="many_rows", scope="module")
def _many_rows(tmp_path_factory):
    """More rows, what one process makes of them, and its seconds."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder, 200)
    began = time.monotonic()
    code, error = run(batch(folder, "alone.jsonl"))
    assert code == 0, error
    return folder, time.monotonic() - began


def test_groups_share_the_rows_and_a_dead_one_loses_none(many_rows):
    folder, _ = many_rows
    check_rank_death(folder, ("--dp", "2"), whom=1, n_rows=3, delay=None)


@pytest.mark.slow
@pytest.mark.promise("P19")
@pytest.mark.parametrize("kill", kills(), ids=lambda kill: f"{''.join(kill.flags)}-rank{kill.whom}-{kill.n_rows}rows")
def test_whoever_dies(kill, many_rows, tmp_path, record_property):
    """kill -9 of any rank at any time: the others end, no row is lost, and the same command completes the output."""
    folder, seconds_alone = many_rows
    n_rows = 60 if "--tp" in kill.flags else 200  # without sums over ranks 60 are done at once
    for name in ("in.jsonl", "alone.jsonl"):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        (tmp_path / name).write_bytes(b"".join(lines[:n_rows]))
    delay = kill.delay * (0.05 if kill.n_rows else seconds_alone / 2)
    seconds = check_rank_death(tmp_path, kill.flags, kill.whom, kill.n_rows, delay)
    record_property("seconds_until_gone", round(seconds, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_all_ranks(number, code, rows):
    with begin(batch(rows, "ranks.jsonl", "--tp", "2", "--dp", "2"), held_after(3)) as process:
        wait_for(lambda: is_held(process), process)
        ranks = ranks_of(process)
        assert len(ranks) == 4
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=20) == code
        assert "rows: " in process.stderr.read().decode()
    seconds_until_gone(ranks.values())
    assert run(batch(rows, "ranks.jsonl"))[0] == 0, "one process goes on where four have stopped"
    assert (rows / "ranks.jsonl").read_bytes() == (rows / "alone.jsonl").read_bytes()


def test_ranks_import_nothing_from_the_current_folder(tmp_path):
    """It may be a model's, with modules of whoever made it."""
    for name in ("torch", "numpy", "pydantic", "files", "json"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'a').close()\n")
    assert run(["complete", "-m", TINY, "Hello", "-n", "4", "-t", "0", "--tp", "2"], cwd=tmp_path) == (0, "")
    assert not (tmp_path / "imported").exists()


@pytest.mark.slow
def test_a_follower_says_why_it_cannot_go_on(tmp_path):
    """Its error and exit code are those of the command."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"import pathlib, sys; sys.path[:] = sys.argv[1:]; p = pathlib.Path({str(folder / 'params.json')!r});"
        " p.write_text(p.read_text().replace('1024', '1023')); from llama_cli.worker import main; main()"
    )
    trick = (
        "import pathlib, sys; import llama_cli.parallel.launch as launch;"
        f"launch.WORKER = pathlib.Path({str(worker)!r});"
        "from llama_cli.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", trick, "complete", "-m", str(folder), "x", "--tp", "2"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert re.match(
        r"llama-cli: error: .* on rank 1 is not the model of rank 0|llama-cli: error: rank 1: ", done.stderr
    )
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["chat", "-m", TINY, "--dtype", "fp32", "-t", "0", "-n", "20", "Hello", "--chat-template", "llama3"],
        ["complete", "-m", TINY, "--dtype", "fp32", "Hello", "-n", "20", "--num-samples", "3", "--seed", "4"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_prints_the_same_on_torchruns_ranks(arguments):
    expected = output_of(*arguments)
    assert output_of(*arguments, launcher=torchrun(2, "--master-port", "29617")) == expected
    assert output_of(*arguments, "--tp", "2") == expected


@pytest.mark.slow
def test_score_on_ranks():
    """But for rounding: the sums of two ranks are not those of one process."""
    arguments = ["score", "-m", TINY, "--dtype", "fp32", "--json", "Hello there, what a long text this is."]
    expected = json.loads(output_of(*arguments))
    for launcher, flags in ((torchrun(2, "--master-port", "29617"), []), (None, ["--tp", "2"])):
        assert json.loads(output_of(*arguments, *flags, launcher=launcher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_commands_without_a_model_run_once_under_torchrun():
    launcher = torchrun(2, "--master-port", "29618")
    assert output_of("tokenize", "-m", TINY, "Hello", launcher=launcher) == output_of("tokenize", "-m", TINY, "Hello")
    assert output_of("complete", "--help", launcher=launcher) == output_of("complete", "--help")


@pytest.mark.slow
def test_bench_on_ranks():
    arguments = ["bench", "-m", TINY, "--rounds", "1", "--lengths", "8", "--rows", "1,2", "--new-tokens", "4", "--json"]
    measured = json.loads(output_of(*arguments, "--tp", "2"))["measured"]
    assert [each["rows"] for each in measured] == [1, 2]
    assert all(each["decode_tokens_per_second"] > 0 for each in measured)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


MACHINES = ("llama-a", "llama-b")


@pytest.fixture(name="machines")
def _machines():
    """Two network namespaces with a wire between them, as two machines have."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and iproute2")
    try:
        for name in MACHINES:
            ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("this machine allows no network namespaces")
    try:
        ip("link", "add", "wire", "netns", MACHINES[0], "type", "veth", "peer", "name", "wire", "netns", MACHINES[1])
        for number, name in enumerate(MACHINES, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "wire")
            for device in ("wire", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield MACHINES
    finally:
        for name in MACHINES:
            ip("netns", "del", name)


def begin_on(machines, n_ranks, arguments):
    """torchrun on each machine."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "wire", "OMP_NUM_THREADS": "1"}
    processes = []
    for number, name in enumerate(machines):
        options = ["--nnodes", "2", "--node-rank", str(number), "--master-addr", "10.77.0.1", "--master-port", "29619"]
        start = ["ip", "netns", "exec", name, *torchrun(n_ranks, *options), *map(str, arguments)]
        processes.append(subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    return processes


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_machines_share_the_rows(machines, rows):
    """Two groups of two ranks, one on each; a killed rank ends both within 10 s, and the same again completes it."""
    output, arguments = rows / "ranks.jsonl", batch(rows, "ranks.jsonl", "--dp", "2")
    processes = begin_on(machines, 2, arguments)
    while processes[0].poll() is None and not (output.exists() and output.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    far_ranks = psutil.Process(processes[1].pid).children()
    assert len(far_ranks) == 2
    far_ranks[1].kill()
    said = [process.communicate(timeout=20)[0].decode() for process in processes]  # torchrun's own end included
    assert [process.returncode for process in processes] == [1, 1]
    assert "llama-cli: error: a rank at 10.77.0.2 has ended before its time" in said[0]
    before = output.read_bytes()
    assert before.count(b"\n") >= 3
    again = begin_on(machines, 2, arguments)
    said = [process.communicate(timeout=120)[0].decode() for process in again]
    assert [process.returncode for process in again] == [0, 0], said
    assert output.read_bytes() == (rows / "alone.jsonl").read_bytes()
    assert Path(output).read_bytes().startswith(before)
