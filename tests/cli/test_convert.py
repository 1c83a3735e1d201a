"""`llama-cli convert`, as a user types it: exit codes, kills, full disks, and that what it makes runs."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers import commands, faults
from helpers.models import DATA, golden

import llama_cli
from llama_cli.cli.app import main
from llama_cli.errors import OutputFailed

TINY = DATA / "tiny/bpe1024"
TOY = Path(llama_cli.__file__).parent / "toy"


@pytest.fixture(name="convert")
def _convert(capfd, monkeypatch):
    """Run one command line in this process: (exit code, stderr)."""
    monkeypatch.setattr("os.fsync", lambda handle: None)

    def run(*arguments):
        code = main(["convert", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert out == "", "what is made is the folder"
        return code, err

    return run


def greedy_ids(folder, ids, capfd):
    line = ["--prompt-ids", ",".join(map(str, ids)), "-n", "32", "-t", "0", "--ignore-eos", "--dtype", "fp32", "--json"]
    assert main(["complete", "-m", str(folder), *line]) == 0
    return json.loads(capfd.readouterr().out)["token_ids"]


FORMS = {
    "one": [],
    "two": ["--mp", "2"],
    "fp32": ["--dtype", "fp32"],
    "safetensors": ["--format", "safetensors"],
    "hf": ["--format", "hf"],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", ["tiny/bpe1024", "tiny/scaled", "hf/gqa-v4"])
def test_every_output_gives_metas_ids(source, form, convert, capfd, tmp_path):
    target = tmp_path / "model"
    code, err = convert(DATA / source, target, *FORMS[form])
    assert code == 0, err
    assert err.startswith(f"llama-cli: {target}: ")
    for name, case in golden(DATA / source)["prompts"].items():
        wanted = case.get("greedy32_f32") or case["greedy24_f32"]
        if len(case["ids"]) < 30:
            assert greedy_ids(target, case["ids"], capfd)[: len(wanted)] == wanted, name


def test_what_is_there_is_kept_without_force(convert, tmp_path):
    target = tmp_path / "model"
    assert convert(TINY, target)[0] == 0
    before = (target / "params.json").stat().st_ino
    code, err = convert(TINY, target)
    assert code == 7
    assert err.splitlines() == [
        f"llama-cli: error: {target} exists already",
        "hint: give another folder, or --force to replace it",
    ]
    assert (target / "params.json").stat().st_ino == before
    assert convert(TINY, target, "--force", "--mp", "2")[0] == 0
    assert sorted(path.name for path in target.iterdir()) == [
        "consolidated.00.pth",
        "consolidated.01.pth",
        "params.json",
        "tokenizer.model",
    ]


def test_a_model_does_not_replace_itself(convert, tmp_path):
    source = shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "link").symlink_to(source)
    for target in (source, tmp_path / "link"):
        code, err = convert(source, target, "--force")
        assert code == 7
        assert "would be replaced by itself" in err
    file = source / "consolidated.00.pth"
    assert convert(file, source, "--force")[0] == 7
    assert file.read_bytes() == (TINY / "consolidated.00.pth").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([TINY, "{}/a", "--mp", "3"], 2, "--mp 3: cannot be divided so: n_heads 8, n_kv_heads 4, hidden_dim 192"),
        ([TINY, "{}/a", "--mp", "2", "--format", "hf"], 2, "--mp 2: only .pth files are split by rank"),
        (["{}/none", "{}/a"], 3, "there is no {}/none"),
        ([TINY, "{}/none/a"], 74, "cannot write {0}/none/a: there is no folder {0}/none"),
        ([TINY, "/dev/null"], 7, "/dev/null exists already"),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
def test_refusals(arguments, code, message, convert, tmp_path):
    found, err = convert(*(str(argument).format(tmp_path) for argument in arguments))
    first = err.splitlines()[0]
    assert (found, len(err.splitlines())) == (code, 2), err
    assert message.format(tmp_path) in first or message.startswith("--mp 3")
    assert not message.startswith("--mp 3") or "--mp with one of 1, 2, 4" in err
    assert list(tmp_path.iterdir()) == []


def test_the_disk_is_asked_first(convert, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=100_000))
    code, err = convert(TINY, tmp_path / "model")
    assert code == OutputFailed.exit_code == 74
    assert f"on the disk of {tmp_path}, 0.00 GB are free" in err
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_after_all(tmp_path):
    """A limit on the size of a file stands for it: the system writes a part, and refuses the rest."""
    half = (TINY / "consolidated.00.pth").stat().st_size // 2
    ended = commands.run("convert", TINY, tmp_path / "model", prepare=partial(faults.limit_files, half))
    assert ended.code == 74
    assert ended.lines == [
        f"llama-cli: error: cannot write {tmp_path / 'model'}: file too large",
        "hint: allow larger files (ulimit -f unlimited) or write to another disk",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("call", "count"), [("pwrite", 1), ("pwrite", 9), ("fsync", 3), ("rename", 1)])
def test_a_kill_leaves_no_folder_and_the_next_run_makes_it(call, count, convert, tmp_path):
    target = tmp_path / "model"
    killed = commands.run("convert", TINY, target, prepare=partial(faults.kill_at, call, count))
    assert killed.code == -signal.SIGKILL
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".model.partial"]
    assert convert(TINY, target)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_bar_is_for_terminals(tmp_path):
    primary, secondary = pty.openpty()
    prepare = partial(commands.complain_to, os.ttyname(secondary))
    ended = commands.run("convert", TINY, tmp_path / "model", prepare=prepare)  # the terminal holds all that it says
    shown = os.read(primary, 1 << 16)
    for descriptor in (primary, secondary):
        os.close(descriptor)
    assert (ended.code, ended.out) == (0, b"")
    assert b"checking" in shown
    assert b"checked" in shown


def test_a_log_gets_a_line_now_and_then(convert, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_cli.cli.progress.PhaseProgress.SECONDS_BETWEEN_LINES", 0)
    lines = convert(TINY, tmp_path / "model")[1].splitlines()
    assert lines[0].startswith("llama-cli: writing: 0.0 of 0.0 GB")
    assert lines[-2].startswith("llama-cli: checking: ")
    assert len(convert(TINY, tmp_path / "quiet", "-q")[1].splitlines()) == 0


def test_a_model_without_tokenizer_is_converted_and_told_of(convert, tmp_path):
    source = shutil.copytree(TINY, tmp_path / "source", ignore=shutil.ignore_patterns("tokenizer.model"))
    code, err = convert(source, tmp_path / "model")
    assert code == 0
    assert "no tokenizer.model or chars.json" in err
    assert convert(source, tmp_path / "whole", "--tokenizer", TINY / "tokenizer.model")[0] == 0
    assert (tmp_path / "whole/tokenizer.model").read_bytes() == (TINY / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"AAAA 0\n!!!! 1\n"])
def test_a_damaged_tokenizer_is_copied_and_told_of(content, convert, tmp_path):
    source = shutil.copytree(TINY, tmp_path / "source")
    (source / "tokenizer.model").write_bytes(content)
    code, err = convert(source, tmp_path / "model")
    assert code == 0
    assert (tmp_path / "model/tokenizer.model").read_bytes() == content
    (warning,) = [line for line in err.splitlines() if "warning" in line]
    assert warning.startswith("llama-cli: warning: the tokenizer is copied as it is, though it cannot be read here: ")
    assert str(tmp_path) not in warning


def test_the_toy_keeps_its_characters(convert, tmp_path, capfd):
    assert convert(TOY, tmp_path / "model", "--format", "safetensors")[0] == 0
    assert main(["complete", "-m", str(tmp_path / "model"), "ROMEO:", "-n", "5", "-t", "0"]) == 0
    mine = capfd.readouterr().out
    assert main(["complete", "-m", str(TOY), "ROMEO:", "-n", "5", "-t", "0"]) == 0
    assert capfd.readouterr().out == mine


def test_help_loads_no_torch():
    code = "import sys; from llama_cli.cli.app import main; main(['convert', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "--format" in done.stdout
