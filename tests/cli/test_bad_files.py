"""Every bad folder through the command line: refused by name, quickly, and nothing else happens."""

import re

import pytest
from helpers import commands
from helpers.bad_folders import CASES, write_good
from helpers.folders import listing, write_hf, write_meta

MOST_SECONDS, MOST_BYTES = 2.0, 400 << 20
PROMPT = ["0", "-n", "1", "-t", "0"]


def test_there_are_three_hundred():
    assert len(CASES) >= 300
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("base", [write_meta, write_hf])
def test_the_good_folder_runs(base, tmp_path):
    """The control: it is the change that is refused."""
    ended = commands.run("complete", "-m", write_good(tmp_path / "model", base), *PROMPT)
    assert (ended.code, ended.err) == (0, "")
    assert ended.peak_bytes < MOST_BYTES


@pytest.mark.promise("P1")
@pytest.mark.sampled(25, kind=lambda case: case.kind)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_folder_is_refused(case, tmp_path):
    folder = write_good(tmp_path / "model", case.base)
    case.build(folder)
    before = listing(tmp_path)
    ended = commands.start("complete", "-m", folder, *PROMPT).wait(30)  # on a machine that has other things to do
    assert ended.code == case.code, ended
    assert ended.out == b""
    assert re.search(case.fragment, ended.lines[0]), ended.err
    assert ended.lines[0].startswith("llama-cli: error: ")
    assert len(ended.lines) <= 2
    assert all(line.isprintable() for line in ended.lines)
    assert "Traceback" not in ended.err
    assert ended.seconds < MOST_SECONDS
    assert ended.peak_bytes < MOST_BYTES
    assert listing(tmp_path) == before, "nothing is written, least of all by what the file asks to run"
