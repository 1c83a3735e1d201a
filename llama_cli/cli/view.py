"""How the answers of a chat are shown: its flags are its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from .options import Wrap
from .panels import OUTPUT_PANEL


@dataclass(frozen=True)
class View:
    """May be replaced between answers."""

    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown", help="On a terminal, draw finished answers again as Markdown.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = False
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print the exact prompts and their ids.", rich_help_panel=OUTPUT_PANEL)
    ] = False
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Report speed and memory after each answer.", rich_help_panel=OUTPUT_PANEL),
    ] = False
    wrap: Wrap = True
