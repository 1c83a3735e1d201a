"""How the process ends: with its code and all that was written, and without Python's slow tear-down."""

import gc
import json
import subprocess
import sys

import pytest

from llama_cli.cli.app import main

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


def test_nobody_looks_for_garbage_among_the_imports():
    """It took a sixth of the time until the first token."""
    counted = "sum(each['collections'] for each in gc.get_stats())"
    watched = f"import gc; before = {counted}; code = main(); print('passes:', {counted} - before)"
    script = SCRIPT.replace("code = main()", watched)
    arguments = ["complete", "ROMEO:", "-n", "1", "-q"]
    ended = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "passes: 0\n" in ended.stdout


def test_rows_leave_no_cycles(tmp_path):
    """So that it hardly matters how seldom garbage is looked for."""
    found = []
    for n_rows in (20, 20, 200):
        rows = [{"prompt": f"ROMEO: {n}", "max_tokens": 1 + n % 3, "n": 1 + n % 2} for n in range(n_rows)]
        rows[::7] = [{"prompt": "x", "bogus": 1} for _ in rows[::7]]
        rows[::5] = [{"prompt": "x" * 5000} for _ in rows[::5]]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        gc.collect()
        gc.disable()
        try:
            assert main(["batch", f"{tmp_path}/in.jsonl", "-o", f"{tmp_path}/out{len(found)}.jsonl", "-q"]) == 6
            found.append(gc.collect())
        finally:
            gc.enable()
    assert found[2] < found[1] + 90, "half an object for each row more"
