"""Names of files that no file has: empty ones, as those of a variable that is not set, and ones too long."""

import os

import pytest
from helpers.models import DATA

from llama_cli import LlamaError, load
from llama_cli.cli.app import main

TINY = str(DATA / "tiny/bpe1024")
LONG = "x" * 300


@pytest.fixture(name="here")
def _here(tmp_path, monkeypatch):
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        ["batch", os.devnull, "-o", ""],
        ["score", "--rows", os.devnull, "-o", ""],
        ["merge", "", "-o", "joined"],
        ["merge", "a", "-o", ""],
        ["convert", TINY, ""],
        ["convert", "", "made"],
        ["convert", TINY, "made", "--tokenizer", ""],
        ["complete", "-f", ""],
        ["complete", "Hi", "-m", ""],
        ["complete", "Hi", "--tokenizer", ""],
        ["chat", "Hi", "--session", ""],
        ["info", ""],
        ["info", "-m", ""],
        ["verify", "-m", ""],
        ["bench", "-m", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_is_not_the_current_folder(line, here, capfd):
    assert main(line) == 2
    assert "is empty" in capfd.readouterr().err
    assert not list(here.iterdir())


def test_an_empty_name_from_python():
    with pytest.raises(LlamaError, match="is empty"):
        load("")
    with pytest.raises(LlamaError, match="is empty"):
        load(tokenizer="")


@pytest.mark.parametrize(
    "line",
    [
        ["batch", os.devnull, "-o", LONG],
        ["score", "--rows", os.devnull, "-o", LONG],
        ["convert", LONG, "made"],
        ["convert", TINY, LONG],
        ["merge", LONG, "-o", "joined"],
        ["chat", "Hi", "-m", TINY, "--session", LONG],
        ["complete", "Hi", "--tokenizer", LONG],
        ["info", LONG],
        ["verify", f"{LONG}/{LONG}"],
    ],
    ids=lambda line: line[0],
)
def test_a_name_that_is_too_long(line, here, capfd):
    assert main(line) in (2, 3, 5, 7, 74)
    assert "file name too long" in capfd.readouterr().err.lower()
