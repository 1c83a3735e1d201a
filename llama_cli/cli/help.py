"""`llama-cli help`: the page of a command, as its --help shows it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .options import with_options
from .spellings import unknown_command


def complete_command(context: typer.Context, incomplete: str) -> list[str]:
    """Commands that begin so, for the shell."""
    return [name for name in _commands(context) if name.startswith(incomplete)]


@with_options()
def help_(
    context: typer.Context,
    command: Annotated[
        str | None,
        typer.Argument(metavar="COMMAND", autocompletion=complete_command, help="Which. Default: all, in a list."),
    ] = None,
) -> None:
    """Show how a command is used.

    The same as its --help.

    Examples:
      llama-cli help
      llama-cli help batch
    """
    program: Any = context.parent
    if command is None:
        typer.echo(program.get_help())
        return
    commands = _commands(context)
    if command not in commands:
        raise unknown_command(command, commands, "help")
    asked = commands[command]
    typer.echo(asked.get_help(asked.context_class(asked, info_name=command, parent=program)))


def _commands(context: typer.Context) -> dict[str, Any]:
    program: Any = context.parent
    commands: dict[str, Any] = program.command.commands
    return commands
