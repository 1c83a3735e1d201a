"""`llama-cli models`: which models are on this machine."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import typer

from ..checkpoint.installed import Installed, installed_models
from ..errors import ModelRejected, NotComputed
from ..memory import format_bytes
from .options import MessageOptions, with_options
from .panels import OUTPUT_PANEL
from .terminal import Terminal, format_table, one_line

TITLES = ("name", "family", "params", "dtype", "shards", "size", "where")


@with_options()
def models(
    names: Annotated[
        bool, typer.Option("--names", help="Print the names alone.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each model.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    *,
    messages: MessageOptions,
) -> None:
    """List the models that -m knows by name.

    Looked for in $LLAMA_CLI_HOME, in ~/.llama/checkpoints (or $LLAMA_STACK_CONFIG_DIR/checkpoints) and in Hugging
    Face's cache. Only headers are read.

    Examples:
      llama-cli models
      llama-cli models --names
    """
    messages.apply()
    found = installed_models()
    terminal = Terminal()
    if names:
        terminal.write("".join(f"{one_line(each.name)}\n" for each in found))
        return
    described = [_describe(each) for each in found]
    if as_json:
        for each in described:
            terminal.write_json(each.facts)
    else:
        terminal.write(format_table(TITLES, map(_row, described)))
    for each in described:
        if each.facts["problem"]:
            messages.note(f"{each.facts['name']}: {each.facts['problem']}")


class Described(NamedTuple):
    """A model's facts, the object of --json, and what stands in place of its family."""

    facts: dict[str, Any]
    family: str


def _describe(model: Installed) -> Described:
    from ..checkpoint.family import family_of
    from ..checkpoint.headers import read_headers

    described: dict[str, Any] = {"name": model.name, "family": None, "parameters": None, "dtype": None, "shards": None}
    described |= {"bytes": None, "folder": str(model.folder), "source": model.source, "problem": None}
    try:
        headers = read_headers(model.folder)
        described |= {
            "parameters": headers.n_stored,
            "dtype": next(iter(headers.dtypes)),
            "shards": len(headers.identities),
            "bytes": headers.file_bytes,
            "folder": str(headers.folder),
        }
        described["family"] = family_of(headers.configuration().args, model.name)
    except ModelRejected as error:
        described["problem"] = error.message
        return Described(described, "not computed" if isinstance(error, NotComputed) else "damaged")
    return Described(described, "-")


def _row(described: Described) -> tuple[str, ...]:
    from ..checkpoint.family import format_count

    model = described.facts
    return (
        model["name"],
        model["family"] or described.family,
        "-" if model["parameters"] is None else format_count(model["parameters"]),
        model["dtype"] or "-",
        str(model["shards"] or "-"),
        "-" if model["bytes"] is None else format_bytes(model["bytes"]),
        model["folder"],
    )
