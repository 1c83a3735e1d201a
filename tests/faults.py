"""Kills a command where it hurts: at its n-th write, fsync or rename, or after some time."""

import os
import signal
import subprocess
import sys
import time

# Runs a command line of llama-cli that kills itself at the n-th call of os.write, os.pwrite, os.fsync or
# os.rename. A write is cut in half first: that is what a kill in the middle of one leaves behind.
PREAMBLE = """
import os, signal, sys
call, count = sys.argv[1], int(sys.argv[2])
real_write, real_pwrite, real_fsync, real_rename, calls = os.write, os.pwrite, os.fsync, os.rename, 0

def counted(name):
    global calls
    calls += name == call
    return name == call and calls == count

def write(fd, data):
    if counted("write"):
        real_write(fd, bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return real_write(fd, data)

def pwrite(fd, data, offset):
    if counted("pwrite"):
        real_pwrite(fd, bytes(data)[: len(data) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)
    return real_pwrite(fd, data, offset)

def fsync(fd):
    if counted("fsync"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real_fsync(fd)

def rename(*paths):
    if counted("rename"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real_rename(*paths)

os.write, os.pwrite, os.fsync, os.rename = write, pwrite, fsync, rename
from llama_cli.cli.app import main
sys.exit(main(sys.argv[3:]))
"""


def run(arguments, **more):
    """A command run to its end: (exit code, stderr)."""
    command = [sys.executable, "-m", "llama_cli", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)
    return done.returncode, done.stderr


def run_killed_at(call, count, arguments):
    """The same, killed at the `count`-th call of an os function; returns whether it got so far."""
    command = [sys.executable, "-c", PREAMBLE, call, str(count), *map(str, arguments)]
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
