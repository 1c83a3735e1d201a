"""`llama-cli models`, names for -m, and what the shell completes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers.models import DATA

from llama_cli.cli.app import main


@pytest.fixture(name="run")
def _run(capfdbinary, monkeypatch, tmp_path):
    for name in ("LLAMA_CLI_MODEL", "LLAMA_STACK_CONFIG_DIR", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLAMA_CLI_HOME", str(tmp_path / "models"))
    for name, source in {"Tiny-A": "tiny/gqa", "Tiny-B": "tiny/bpe1024", "Four": "mp/kv8-mp4"}.items():
        shutil.copytree(DATA / source, tmp_path / "models" / name)

    def run(*arguments):
        code = main(list(map(str, arguments)))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_the_table(run, tmp_path):
    code, out, err = run("models")
    rows = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert rows[0] == ["name", "family", "params", "dtype", "shards", "size", "where"]
    assert [row[0] for row in rows[1:]] == ["Four", "Tiny-A", "Tiny-B", "toy"]
    assert rows[1][1:5] == ["-", "656K", "bfloat16", "4"]
    assert rows[1][-1] == str(tmp_path / "models" / "Four")


def test_a_name_is_one_line(run, tmp_path):
    """The shell took a folder's name with a line break in it for two."""
    (tmp_path / "models" / "Tiny-A").rename(tmp_path / "models" / "a\nb")
    assert run("models", "--names")[1].splitlines() == ["a b", "Four", "Tiny-B", "toy"]


def test_json_and_names(run, tmp_path):
    found = [json.loads(line) for line in run("models", "--json")[1].splitlines()]
    assert list(found[0]) == [
        "name", "family", "parameters", "dtype", "shards", "bytes", "folder", "source", "problem",
    ]  # fmt: skip
    assert found[0]["bytes"] == sum(path.stat().st_size for path in (tmp_path / "models/Four").glob("*.pth"))
    assert [each["name"] for each in found] == run("models", "--names")[1].splitlines()


def test_a_damaged_model_is_listed_with_what_is_wrong(run, tmp_path):
    (tmp_path / "models/Tiny-A/consolidated.00.pth").write_text("version https://git-lfs.github.com/spec/v1")
    code, out, err = run("models")
    assert code == 0
    assert "Tiny-A  damaged" in out
    assert err == "llama-cli: Tiny-A: consolidated.00.pth is a git-lfs pointer, not the file itself\n"
    assert run("models", "-q")[2] == ""


def test_a_model_of_another_kind_is_not_called_damaged(run, tmp_path):
    settings = tmp_path / "models/Tiny-A/params.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"use_qk_norm": True}))
    _, out, err = run("models")
    assert "Tiny-A  not computed" in out
    assert "use_qk_norm" in err


def test_every_command_takes_names(run):
    by_name = run("complete", "-m", "tiny-b", "Hello", "-t", 0, "-n", 5, "--json")
    by_path = run("complete", "-m", DATA / "tiny/bpe1024", "Hello", "-t", 0, "-n", 5, "--json")
    ids = [json.loads(out)["token_ids"] for _, out, _ in (by_name, by_path)]
    assert ids[0] == ids[1]
    assert json.loads(by_name[1])["model"] == "Tiny-B"
    assert run("tokenize", "-m", "TINY-B", "Hello", "--count") == run("tokenize", "-m", "tiny-b", "Hello", "--count")
    code, out, err = run("score", "-m", "tiny", "Hello")
    assert (code, out) == (3, "")
    assert "'tiny' could be Tiny-A, Tiny-B" in err


def test_the_shell_completes_names_without_torch(run):
    environment = os.environ | {
        "_LLAMA_CLI_COMPLETE": "complete_bash",
        "COMP_WORDS": "llama-cli complete -m ti",
        "COMP_CWORD": "3",
    }
    script = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr));"
    script += "from llama_cli.cli.app import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tiny-A", "tiny-B"]  # as typed, which -m takes too
    assert done.stderr == "False\n"
