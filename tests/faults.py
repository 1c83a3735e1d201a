"""Kills a command where it hurts: at its n-th write, fsync or rename, or after some time."""

import os
import signal
import subprocess
import sys
import time

# Runs a command line of llama-cli that kills itself at the n-th call of os.write, os.pwrite, os.fsync or os.rename.
PREAMBLE = """
import sys
sys.path.insert(0, sys.argv[1])
import faults
faults.kill_at(sys.argv[2], int(sys.argv[3]))
from llama_cli.cli.app import main
sys.exit(main(sys.argv[4:]))
"""


def kill_at(call, count):
    """Kill this process at its `count`-th call of an os function.

    A write is cut in half first: that is what a kill in the middle of one leaves behind.
    """
    real, n_calls = getattr(os, call), 0

    def counted(*arguments):
        nonlocal n_calls
        n_calls += 1
        if n_calls < count:
            return real(*arguments)
        if call in ("write", "pwrite"):
            fd, data, *place = arguments
            real(fd, bytes(data)[: len(data) // 2], *place)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(os, call, counted)


def run(arguments, **more):
    """A command run to its end: (exit code, stderr)."""
    command = [sys.executable, "-m", "llama_cli", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)
    return done.returncode, done.stderr


def run_killed_at(call, count, arguments):
    """The same, killed at the `count`-th call of an os function; returns whether it got so far."""
    command = [sys.executable, "-c", PREAMBLE, os.path.dirname(__file__), call, str(count), *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode in (0, 6, -signal.SIGKILL), done.stderr
    return done.returncode == -signal.SIGKILL


def run_killed_after(seconds, arguments):
    """The same, killed after some time; returns whether it was still running."""
    command = [sys.executable, "-m", "llama_cli", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        alive = process.poll() is None
        if alive:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return alive
