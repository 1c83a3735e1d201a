"""The page that --help shows: plain text, examples first, the options in groups.

It is as wide as the terminal, within bounds, and 80 columns in a pipe. Commands of an example stay on one line, so
that they can be copied.
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from typer.core import TyperCommand, TyperGroup

from .panels import GENERAL_PANEL, OPTIONS_PANEL, PANELS

FEWEST_COLUMNS, MOST_COLUMNS = 50, 100
WIDEST_NAMES = 26  # what is longer has a line of its own
INDENT, GAP = "  ", "  "
SHORT = len("-x, ")

EXAMPLES = "Examples:"
SETTINGS = "llama-cli config lists the options that the environment and config.toml can set."
MORE = "llama-cli COMMAND --help tells all of a command."


class Row(NamedTuple):
    """What stands on the left and on the right."""

    names: str
    text: str


Sections = dict[str, list[Row]]


def text_and_examples(command: Callable[..., None]) -> tuple[str, str | None]:
    """A command's docstring: what it says, and the lines that can be typed under their heading."""
    text, heading, lines = inspect.cleandoc(command.__doc__ or "").partition(EXAMPLES)
    return text.strip(), heading + lines.rstrip() if heading else None


class Command(TyperCommand):
    """A command whose help is a page."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What must be given, and where the rest goes."""
        return ["[OPTIONS]", *_wanted(self.params)]

    def get_help(self, ctx: Any) -> str:
        has_settings = any(each.envvar for each in self.params)
        return _page(self, ctx, [_options(self.get_params(ctx))], [SETTINGS] if has_settings else [])


class Commands(TyperGroup):
    """The program, whose help lists its commands in groups."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["COMMAND [OPTIONS]"]

    def get_help(self, ctx: Any) -> str:
        commands: Sections = {}
        for name, command in self.commands.items():
            if not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or OPTIONS_PANEL
                commands.setdefault(panel, []).append(Row(name, command.get_short_help_str(MOST_COLUMNS)))
        options = [_aligned(row) for each in self.get_params(ctx) if (row := row_of(each)) is not None]
        return _page(self, ctx, [commands, {OPTIONS_PANEL: options}], [MORE, SETTINGS])


def panel_of(parameter: Any) -> str:
    """The group that an option is shown in."""
    if parameter.name == "help":
        return GENERAL_PANEL
    return getattr(parameter, "rich_help_panel", None) or OPTIONS_PANEL


def row_of(parameter: Any) -> Row | None:
    """How an option or an argument is told of; None for what is hidden."""
    if parameter.hidden:
        return None
    text = " ".join((parameter.help or "").split())
    if parameter.param_type_name == "argument":
        return Row(parameter.display_name_raw, text)
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names = " / ".join(filter(None, (names, *parameter.secondary_opts)))
    elif not parameter.is_flag:
        names += f" {parameter.metavar}"
    return Row(names, " ".join(filter(None, (text, *_remarks(parameter, text)))))


def _remarks(parameter: Any, text: str) -> Iterator[str]:
    """What follows an option's own text: its default, whether it may be repeated, its environment variable."""
    default = parameter.default
    if parameter.show_default and "Default:" not in text:
        if parameter.secondary_opts:
            yield f"Default: {(parameter.opts if default else parameter.secondary_opts)[0]}."
        elif not isinstance(default, bool) and default not in (None, ""):
            yield f"Default: {default:g}." if isinstance(default, float) else f"Default: {default}."
    if getattr(parameter, "multiple", False):
        yield "May be given several times."
    if parameter.show_envvar and parameter.envvar:
        yield f"Environment: {parameter.envvar}."


def _wanted(parameters: Iterable[Any]) -> Iterator[str]:
    """The usage line's parts: required options, then arguments, in brackets where they may be left out."""
    for each in sorted(parameters, key=lambda each: each.param_type_name == "argument"):
        if each.param_type_name != "argument":
            if each.required:
                yield f"{min(each.opts, key=len)} {each.metavar}"
        else:
            yield each.display_name_raw if each.required else f"[{each.display_name_raw}]"


def _options(parameters: Iterable[Any]) -> Sections:
    arguments: list[Row] = []
    found: Sections = {panel: [] for panel in PANELS}
    for each in parameters:
        row = row_of(each)
        if row is None:
            continue
        if each.param_type_name == "argument":
            arguments.append(row)
        else:
            found.setdefault(panel_of(each), []).append(_aligned(row))
    return {title: rows for title, rows in {"Arguments": arguments, **found}.items() if rows}


def _aligned(row: Row) -> Row:
    """The row of an option without a short name, indented so that all long names begin in one column."""
    return row._replace(names=" " * SHORT + row.names) if row.names.startswith("--") else row


def _page(command: Any, context: Any, tables: list[Sections], footer: list[str]) -> str:
    width = min(max(shutil.get_terminal_size().columns, FEWEST_COLUMNS), MOST_COLUMNS)
    usage = " ".join(["Usage:", context.command_path, *command.collect_usage_pieces(context)])
    blocks = [_wrapped(usage, width, "", " " * len("Usage: "))]
    blocks += [_wrapped(paragraph, width, INDENT) for paragraph in (command.help or "").split("\n\n")]
    if command.epilog:
        blocks.append(command.epilog)
    blocks += [section for sections in tables for section in _sections(sections, width)]
    blocks.append("\n".join(_wrapped(line, width) for line in footer))
    return "\n\n".join(filter(None, blocks))


def _sections(sections: Sections, width: int) -> Iterator[str]:
    """Each with its heading; the texts of all begin at the same place."""
    names = [len(row.names) for rows in sections.values() for row in rows]
    column = max((length for length in names if length <= WIDEST_NAMES), default=WIDEST_NAMES)
    for title, rows in sections.items():
        yield "\n".join([f"{title}:", *(_row(row, column, width) for row in rows)])


def _row(row: Row, column: int, width: int) -> str:
    left = " " * (len(INDENT) + column + len(GAP))
    text = _wrapped(row.text, width, left)
    if len(row.names) > column:
        return f"{INDENT}{row.names}\n{text}".rstrip()
    return f"{INDENT}{row.names:<{column}}{GAP}{text[len(left) :]}".rstrip()


def _wrapped(text: str, width: int, indent: str = "", more: str | None = None) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=indent,
        subsequent_indent=indent if more is None else more,
        break_long_words=False,
        break_on_hyphens=False,
    )
