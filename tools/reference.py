"""Write docs/reference/: a page for each command, from the command itself, and the site's list of these pages.

`--check` tells what has changed since.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from llama_cli.cli.app import app
from llama_cli.cli.page import panel_of, row_of

PROGRAM = "llama-cli"
FOLDER = Path(__file__).parent.parent / "docs/reference"
SITE = Path(__file__).parent.parent / "zensical.toml"
LISTED = re.compile(r'(?:^    \{ "[\w-]+" = "reference/[\w-]+\.md" \},\n)+', re.MULTILINE)  # its pages on the site
WIDTH = 120
WRITTEN = "<!-- Written by tools/reference.py from the command itself: `make reference` after a change of flags. -->"

# The page that explains what a command does.
EXPLAINED = {
    "complete": ("Text", "../complete.md"),
    "chat": ("Chat", "../chat.md"),
    "batch": ("Batches", "../batch.md"),
    "merge": ("Batches", "../batch.md#many-machines"),
    "score": ("Scores", "../score.md"),
    "tokenize": ("Tokens", "../tokenize.md"),
    "models": ("Models", "../models.md"),
    "info": ("Models", "../models.md#info"),
    "verify": ("Models", "../models.md#verify"),
    "convert": ("Conversion", "../convert.md"),
    "bench": ("Speed", "../speed.md"),
    "config": ("Settings", "../settings.md"),
}


def plain(text: str) -> str:
    """A text of the help as Markdown that shows the same."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*")


def paragraphs(text: str) -> Iterator[str]:
    """A docstring's, each wrapped anew."""
    for paragraph in textwrap.dedent(text).strip().split("\n\n"):
        yield textwrap.fill(plain(" ".join(paragraph.split())), WIDTH, break_on_hyphens=False, break_long_words=False)


def examples(epilog: str | None) -> Iterator[str]:
    """What stands below a command's help, as lines that can be typed."""
    if epilog is None:
        return
    lines = [line.strip() for line in epilog.replace("\b", "").splitlines() if line.strip()]
    if lines and lines[0].rstrip(":").casefold() in ("example", "examples"):
        yield "## Examples"
        yield "\n".join(["```sh", *lines[1:], "```"])
    else:
        yield from paragraphs(epilog)


def item(names: str, text: str) -> str:
    """One flag or argument, as a bullet."""
    told = f"- `{names.strip()}`: {plain(' '.join(text.split()))}"
    return textwrap.fill(told, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def options(command: Any, context: Any) -> Iterator[str]:
    """The arguments, then the options group by group, in the order of the help; what help hides is left out."""
    shown = [(each, row) for each in command.get_params(context) if (row := row_of(each)) is not None]
    arguments = [row for each, row in shown if each.param_type_name == "argument"]
    if arguments:
        yield "## Arguments"
        yield "\n".join(item(*row) for row in arguments)
    flags = [(panel_of(each), row) for each, row in shown if each.param_type_name != "argument"]
    order = list(dict.fromkeys(panel for panel, _ in flags))
    flags.sort(key=lambda flag: order.index(flag[0]))
    for panel, group in groupby(flags, key=lambda flag: flag[0]):
        yield f"## {panel}"
        yield "\n".join(item(*row) for _, row in group)


def page_of(name: str, command: Any, program: Any) -> str:
    """The page of a command; `program` is the context that it runs in."""
    context = command.context_class(command, info_name=name, parent=program)
    usage = " ".join([PROGRAM, name, *command.collect_usage_pieces(context)])
    parts = [f"# {PROGRAM} {name}", WRITTEN, f"```text\n{usage}\n```", *paragraphs(command.help or "")]
    if name in EXPLAINED:
        title, page = EXPLAINED[name]
        parts.append(f"More: [{title}]({page}).")
    return "\n\n".join([*parts, *examples(command.epilog), *options(command, context)]) + "\n"


def group_of(command: Any) -> str | None:
    """The group that the program's help lists a command in."""
    return command.rich_help_panel if isinstance(command.rich_help_panel, str) else None


def index_of(commands: dict[str, Any]) -> str:
    """The page that lists the commands, in the groups of the program's own help."""
    order = list(dict.fromkeys(group_of(command) for command in commands.values()))
    parts = ["# Commands", WRITTEN]
    for panel in order:
        named = [(name, each) for name, each in commands.items() if group_of(each) == panel]
        listed = "\n".join(
            f"- [`{PROGRAM} {name}`]({name}.md): {plain(each.get_short_help_str(WIDTH))}" for name, each in named
        )
        parts += [listed] if panel is None else [f"## {panel}", listed]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """Every page by the name of its file."""
    group: Any = typer.main.get_command(app)
    commands = {name: command for name, command in group.commands.items() if not command.hidden}
    program = group.context_class(group, info_name=PROGRAM, **group.context_settings)
    of_commands = {f"{name}.md": page_of(name, command, program) for name, command in commands.items()}
    return {"index.md": index_of(commands), **of_commands}


def site_of(names: Iterable[str], site: str) -> str:
    """The site's settings with a line for the page of each command, in the place of those that are there."""
    lines = (f'    {{ "{Path(name).stem}" = "reference/{name}" }},\n' for name in names if name != "index.md")
    listed = "".join(['    { "Commands" = "reference/index.md" },\n', *lines])
    return LISTED.sub(lambda _: listed, site, count=1)


def main() -> int:
    """Write the pages, or with --check tell which are not as they would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page differs")
    asked = parser.parse_args()
    wanted = pages()
    there = {path.name: path.read_text() for path in FOLDER.glob("*.md")}
    site = SITE.read_text()
    if asked.check:
        stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
        for name in stale:
            sys.stderr.write(f"docs/reference/{name} is not what its command says: make reference\n")
        if site_of(wanted, site) != site:
            stale.append(SITE.name)
            sys.stderr.write(f"{SITE.name} does not list the pages of all commands: make reference\n")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name in there.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    SITE.write_text(site_of(wanted, site))
    return 0


if __name__ == "__main__":
    sys.exit(main())
