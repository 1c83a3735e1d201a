"""The lines of installation in docs/start.md, run in an empty environment."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def lines_of_the_page():
    block = (ROOT / "docs/start.md").read_text().partition("## Install")[2].partition("```sh\n")[2].partition("```")[0]
    return re.findall(r"^(.*?)(?:  +#.*)?$", block.strip(), flags=re.MULTILINE)


def test_the_lines_of_the_page(tmp_path):
    """Each as it is, by a user whose home is empty, with the versions of constraints.txt; then both commands run."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists() and not name.startswith("tests/"):
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "clone" / name, follow_symlinks=False)  # one link is to a folder
    lines = lines_of_the_page()
    assert len(lines) >= 5
    uses = [
        "cd /",
        "llama-cli complete ROMEO: -n 5 -t 0 -q",
        "llama-native --version",
        "pip show -q gguf sentencepiece",
    ]
    ours = ("LLAMA_CLI", "PYTHON", "VIRTUAL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        ["bash", "-ec", "\n".join([*lines, *uses])],
        cwd=tmp_path / "clone",
        env={**kept, "HOME": str(tmp_path), "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_QUIET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^llama-cli \d+\.\d+\.\d+$", done.stdout, flags=re.MULTILINE), done.stdout
