"""What is planted at the name of a file that the program keeps beside another is refused, unread and unwritten."""

import os

import pytest
from files.test_own import KINDS, plant
from helpers.models import DATA

from llama_cli.cli.app import main

pytestmark = pytest.mark.promise("P22")

FLAGS = ["-m", str(DATA / "tiny/bpe1024"), "--dtype", "fp32", "--seed", "1", "-n", "2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["out.jsonl.started", "out.jsonl.run.json"])
def test_of_a_batch(tmp_path, capsys, kind, name):
    """Links were written through, a pipe was waited for, a folder was an internal error."""
    source, victim = tmp_path / "in.jsonl", tmp_path / "victim"
    source.write_text('{"prompt": "one"}\n')
    plant(kind, tmp_path / name, victim)
    code = main(["batch", str(source), "-o", str(tmp_path / "out.jsonl"), *FLAGS])
    err = capsys.readouterr().err
    assert (code, f"{tmp_path / name} is not a plain file of yours" in err) == (7, True), err
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_at_old_names_of_parts_is_left(tmp_path, kind):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "one"}\n')
    for name in ("out.jsonl.part", "out.jsonl.run.json.part"):
        plant(kind, tmp_path / name, tmp_path / f"victim of {name}")
    assert main(["batch", str(source), "-o", str(out), *FLAGS]) == 0
    assert main(["batch", str(source), "-o", str(out), "--retry-errors", *FLAGS]) == 0
    for name in ("out.jsonl.part", "out.jsonl.run.json.part"):
        assert (tmp_path / f"victim of {name}").read_bytes() == b"mine"
        assert os.path.lexists(tmp_path / name)
