"""What is planted at the name of a file that the program keeps beside another is refused, unread and unwritten."""

import os
from pathlib import Path

import pytest
from helpers.models import DATA
from helpers.planted import KINDS, plant

from llama_cli.cli.app import main
from llama_cli.jobs.ledger import Ledger

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


@pytest.mark.parametrize("content", ["my own notes\n", "- one\n- two\n", '{"id": "a", "prompt": "b"}\n', "\0\0"])
@pytest.mark.parametrize("is_input", [False, True], ids=["beside", "the input itself"])
def test_a_file_of_the_users_at_the_name_of_the_starts_is_left(tmp_path, capsys, content, is_input):
    """It was written to, and removed at the end of the run."""
    notes, source = tmp_path / "out.jsonl.started", tmp_path / "in.jsonl"
    notes.write_text(content)
    source.write_text('{"prompt": "one"}\n')
    read = notes if is_input else source
    code = main(["batch", str(read), "--format", "text", "-o", str(tmp_path / "out.jsonl"), *FLAGS])
    err = capsys.readouterr().err
    assert (code, "out.jsonl.started is none of this program's" in err) == (7, True), err
    assert notes.read_text() == content


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text('{"created": 1, "run_seed": 2}')])
def test_what_says_who_wrote_an_output_is_there_at_the_end(tmp_path, capsys, monkeypatch, change):
    """A run ended with exit code 0, and the next start refused its output."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    real, done = Ledger.append, []

    def changed(ledger, row):
        if not done:
            done.append(change(out.with_name("out.jsonl.run.json")))
        real(ledger, row)

    monkeypatch.setattr(Ledger, "append", changed)
    assert main(["batch", str(source), "-o", str(out), *FLAGS]) == 0
    assert "it is written anew" in capsys.readouterr().err
    assert main(["batch", str(source), "-o", str(out), *FLAGS]) == 0


@pytest.mark.parametrize("kind", [*KINDS, "notes"])
def test_of_a_cache(tmp_path, capsys, kind):
    """What a link led to was overwritten, and so were a user's own notes."""
    cache, victim = tmp_path / "talk.jsonl.cache", tmp_path / "victim"
    if kind == "notes":
        cache.write_text("my own notes\n")
    else:
        plant(kind, cache, victim)
    flags = ["--session", str(tmp_path / "talk.jsonl"), "--save-cache"]
    assert main(["chat", "Hi", *flags, *FLAGS]) == 7
    assert capsys.readouterr().out == ""
    assert kind == "notes" or victim.read_bytes() == b"mine"
    assert kind != "notes" or cache.read_text() == "my own notes\n"
    assert not (tmp_path / "absent").exists()
