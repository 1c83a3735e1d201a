"""--help: plain pages with the options in groups, and examples that work."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from helpers.models import DATA

from llama_cli.cli.app import app, main
from llama_cli.cli.page import FEWEST_COLUMNS, MOST_COLUMNS, row_of
from llama_cli.cli.panels import PANELS

PROGRAM = typer.main.get_command(app)
COMMANDS = PROGRAM.commands
CONTEXT = PROGRAM.context_class(PROGRAM, info_name="llama-cli", **PROGRAM.context_settings)
EXAMPLES = [
    line.strip()
    for command in (PROGRAM, *COMMANDS.values())
    for line in (command.epilog or "").splitlines()
    if line.strip() != "Examples:"
]
# Which take long or ask for what a tiny model does not have; and a chat without a message wants a terminal.
ONLY_PARSED = ("bench", "chat -m Llama3.2-1B-Instruct", "--decode", "convert model.gguf")


def page(name):
    command = COMMANDS.get(name, PROGRAM)
    context = CONTEXT if command is PROGRAM else command.context_class(command, info_name=name, parent=CONTEXT)
    return command.get_help(context)


@pytest.fixture(name="home")
def _home(tmp_path, monkeypatch):
    """A folder to work in, with models of the names that the examples use, and their files."""
    models = tmp_path / ".llama/checkpoints"
    models.mkdir(parents=True)
    for name in ("Llama3.2-1B", "Llama3.2-1B-Instruct", "Llama3.1-8B", "Llama3.1-70B"):
        (models / name).symlink_to(DATA / "tiny/bpe1024")
        (tmp_path / name).symlink_to(DATA / "tiny/bpe1024")
    (tmp_path / "story.txt").write_text("Once upon a time")
    (tmp_path / "book.txt").write_text("Call me Ishmael.")
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "Hello", "max_tokens": 4}\n{"prompt": "Bye", "max_tokens": 4}\n'
    )
    (tmp_path / "questions.jsonl").write_text('{"text": "Hello"}\n')
    for name in ("LLAMA_CLI_HOME", "LLAMA_CLI_MODEL", "LLAMA_STACK_CONFIG_DIR", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))  # kernels
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_two_or_three_examples_of_its_own(name):
    heading, *lines = COMMANDS[name].epilog.splitlines()
    assert heading == "Examples:"
    assert 2 <= len(lines) <= 3
    assert all(line.startswith(f"  llama-cli {name}") and len(line) <= 80 for line in lines)


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_are_parsed(line):
    program, name, *words = shlex.split(line)
    assert program == "llama-cli"
    COMMANDS[name].make_context(name, words, parent=CONTEXT)


@pytest.mark.parametrize("line", [line for line in EXAMPLES if not line.endswith(ONLY_PARSED)])
def test_examples_run(line, home, capfd):
    if any(word in line for word in ONLY_PARSED if not word.startswith("chat")):
        pytest.skip("takes long, or another model")
    words = shlex.split(line)[1:]
    if words[0] == "merge":
        for part in ("1/2", "2/2"):
            assert main(["batch", "prompts.jsonl", "-q", "-o", f"part{part[0]}.jsonl", "--shard", part]) == 0
        words = [path.name for word in words for path in (sorted(home.glob(word)) if "*" in word else [Path(word)])]
    if words[0] == "complete" and "-n" not in words:
        words += ["-n", "8"]
    assert main(words) == 0, capfd.readouterr().err


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("columns", ["20", "60", "80", "100", "200"])
def test_no_word_is_lost_or_too_far_right(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    lines = page(name).splitlines()
    width = min(max(int(columns), FEWEST_COLUMNS), MOST_COLUMNS)
    assert [line for line in lines if len(line) > width and len(line.split()) > 1 and "llama-cli " not in line] == []
    words = " ".join(lines).split()
    for parameter in COMMANDS.get(name, PROGRAM).params:
        row = row_of(parameter)
        wanted = row.text.split() if row else []
        assert any(words[at : at + len(wanted)] == wanted for at in range(len(words))), row


def test_a_page_is_plain_text_of_80_columns_in_a_pipe(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("", *COMMANDS):
        shown = page(name)
        assert shown.isascii()
        assert all(line.isprintable() for line in shown.splitlines())
        assert max(map(len, shown.splitlines())) <= 80, name


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("complete", ("--model MODEL", "--max-tokens N", "--temperature X")),
        ("chat", ("--model MODEL", "--system TEXT", "--continue")),
        ("batch", ("--output FILE", "--model MODEL", "--max-tokens N")),
        ("score", ("--model MODEL", "--choices TEXT", "--rows FILE")),
    ],
)
def test_the_first_screen_has_what_a_newcomer_needs(name, first, monkeypatch):
    """An example, and three options before the forty others."""
    monkeypatch.setenv("COLUMNS", "80")
    screen = "\n".join(page(name).splitlines()[:24])
    assert screen.count(f"llama-cli {name}") >= 3
    places = [screen.index(option) for option in ("Main options:", *first)]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_group_a_word_for_its_value_and_a_sentence(name):
    for parameter in COMMANDS[name].params:
        row = row_of(parameter)
        if row is None:
            continue
        assert parameter.param_type_name == "argument" or parameter.rich_help_panel in (*PANELS, None)
        assert "<" not in row.names
        assert row.names.count("None") == 0
        assert row.text.endswith("."), row
    titles = [line[:-1] for line in page(name).splitlines() if line.endswith(":") and line[0] != " "]
    assert [title for title in PANELS if title in titles] == [title for title in titles if title in PANELS]


def test_the_commands_are_listed_in_groups():
    shown = page("")
    assert shown.index("Run a model:") < shown.index("  batch ") < shown.index("Models:") < shown.index("Tools:")
    assert all(f"\n  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_of_a_command_is_the_same_text_by_both_ways(name, capfd):
    assert main([*([name] if name else []), "--help"]) == 0
    wanted = capfd.readouterr()
    assert main(["help", *([name] if name else [])]) == 0
    assert capfd.readouterr() == wanted
    assert wanted.out.startswith(f"Usage: {' '.join(['llama-cli', *([name] if name else [])])} ")


def test_help_comes_where_the_settings_are_broken(tmp_path, monkeypatch, capfd):
    (tmp_path / "config.toml").write_text("nonsense")
    monkeypatch.setenv("LLAMA_CLI_CONFIG", str(tmp_path / "config.toml"))
    assert main(["help", "complete"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("words", [["nosuch"], ["a", "b"]])
def test_help_of_no_command(words, capfd):
    assert main(["help", *words]) == 2
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("shell", "asks"),
    [
        ("bash", {"COMP_WORDS": "llama-cli help b", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "llama-cli help b"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "llama-cli help b", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_the_shell_completes_what_help_is_asked_of(shell, asks):
    code = "import sys; from llama_cli.cli.app import main; sys.argv[0] = 'llama-cli'; main([])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asks, "_LLAMA_CLI_COMPLETE": f"complete_{shell}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert re.findall(r"\w+", done.stdout.replace("_arguments", "")) == ["batch", "bench"], done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["help", "chat"], ["complete", "--help"]], ids=str)
def test_a_reader_of_the_first_line_alone_is_no_error(arguments):
    """`llama-cli --help | head -1`"""
    line = f"{shlex.join([sys.executable, '-m', 'llama_cli', *arguments])} | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: llama-cli")
    assert done.stderr == ""
