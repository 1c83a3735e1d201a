"""Commands as a user types them: processes of their own, of the script that pip has installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("llama-cli")


def environment(**more):
    """Of a user without settings, where nothing is fetched from a hub. One thread: tests run side by side."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_CLI_")}
    return {**kept, "LLAMA_CLI_CONFIG": os.devnull, "LLAMA_CLI_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def ended(*arguments, stdin="", code=0, settings=None):
    """A command to its end, which must be `code`, and what it wrote."""
    command = [str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(
        command, input=stdin.encode(), capture_output=True, env=environment(**(settings or {})), timeout=300
    )
    assert done.returncode == code, f"{' '.join(command)}: exit {done.returncode}\n{done.stderr.decode()}"
    return done


def run(*arguments, **more):
    """What it printed, as text."""
    return ended(*arguments, **more).stdout.decode()


def start(*arguments, **more):
    """A command that goes on beside the test."""
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **more}
    return subprocess.Popen([str(PROGRAM), *map(str, arguments)], env=environment(), **more)


def rows_of(text):
    """JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


def answers(*arguments, **more):
    """What `complete --json` and the like print."""
    return rows_of(run(*arguments, "--json", **more))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
