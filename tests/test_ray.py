"""The Ray recipe: two actors on this machine, and the crash of one of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import json, os
import ray
from ray_batch import Completer, complete_rows

class Fragile(Completer):
    def __call__(self, block):
        if not os.path.exists(os.environ["DIED"]):
            open(os.environ["DIED"], "w").close()
            os._exit(1)
        return super().__call__(block)

ray.init(num_cpus=2, include_dashboard=False,
         runtime_env={"env_vars": {name: os.environ[name] for name in ("PYTHONPATH", "DIED", "OMP_NUM_THREADS")}})
rows = ray.data.from_items([{"id": f"row {i}", "prompt": f"ROMEO {i % 7}".replace("3", "!").translate(
    str.maketrans("012456", "abcdef"))} for i in range(60)], override_num_blocks=4)
for completer in (Completer, Fragile):
    answers = complete_rows(rows, max_tokens=6, seed=3, batch_size=8, completer=completer).take_all()
    print(json.dumps(sorted((a["id"], a["text"]) for a in answers)))
"""


@pytest.mark.slow
def test_two_actors_and_a_crash_make_the_same_rows(tmp_path):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    died = tmp_path / "died"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]),
        "DIED": str(died),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert len(lines) == 2, done.stderr[-2000:]
    assert died.exists()
    assert lines[0] == lines[1]
    assert len(lines[0]) == 60
