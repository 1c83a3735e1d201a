"""How the process ends: with its code and all that was written, and without Python's slow tear-down."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys

class Late:
    def __del__(self):
        print("torn down")

late = Late()
sys.argv = ["llama-cli", *sys.argv[1:]]
from llama_cli.__main__ import main
code = main()
atexit.register(print, "what others had registered")
sys.exit(code)
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["nonsense"], 2), (["info", "/nowhere"], 3)])
def test_it_leaves_when_all_is_done(arguments, code):
    ended = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout.endswith("what others had registered\n")
    assert ended.stdout.startswith("llama-cli ") == (code == 0)
    assert "torn down" not in ended.stdout
    assert bool(ended.stderr) == (code != 0)


def test_an_exception_of_its_own_is_pythons_to_report():
    script = SCRIPT.replace("code = main()", "from llama_cli.cli import app; app.main = None; code = main()")
    ended = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "TypeError" in ended.stderr
