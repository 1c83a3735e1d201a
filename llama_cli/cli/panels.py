"""The groups of options in --help, in the order in which they are shown, and the words for their values."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from typer.models import ArgumentInfo

FIRST_PANEL = "Main options"  # what a newcomer needs: each command names its own
OPTIONS_PANEL = "Options"  # of options that name no group
INPUT_PANEL = "Input"
ROWS_PANEL = "Rows"
CHAT_PANEL = "Conversation"
OUTPUT_PANEL = "Output"
MODEL_PANEL = "Model"
SAMPLING_PANEL = "Sampling"
GENERAL_PANEL = "Messages and help"

PANELS = (
    *(FIRST_PANEL, OPTIONS_PANEL, INPUT_PANEL, ROWS_PANEL, CHAT_PANEL, OUTPUT_PANEL, MODEL_PANEL, SAMPLING_PANEL),
    GENERAL_PANEL,
)

# Words for values that say more than their type does.
METAVARS = {
    "model": "MODEL",
    "tokenizer": "FILE",
    "device": "DEVICE",
    "chat_template": "FORMAT",
    "logit_bias": "ID=BIAS",
    "stop_token_ids": "ID",
}
OF_TYPES: Mapping[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "FILE"}
MOST_CHOICES = 30  # characters that choices may have where they are the word for a value


class _Placed(NamedTuple):
    panel: int
    place: int
    flag: inspect.Parameter


def arranged(flags: Iterable[inspect.Parameter], first: Sequence[str]) -> list[inspect.Parameter]:
    """The arguments as they come, the flags named in `first`, the others group by group; each value has a word."""
    placed = [_placed(flag, first) for flag in flags]
    assert {each.flag.name for each in placed} >= set(first), f"no such options: {first}"
    return [each.flag for each in sorted(placed, key=lambda each: each[:2])]


def _placed(flag: inspect.Parameter, first: Sequence[str]) -> _Placed:
    value_type, *metadata = get_args(flag.annotation)
    info = copy.copy(metadata[-1])  # several commands have it
    choices = _choices(value_type)
    if info.metavar is None:
        info.metavar = _metavar(flag.name, value_type, choices)
    if choices and info.metavar != "|".join(choices):
        info.help += f" One of {', '.join(choices)}."
    if flag.name in first:
        info.rich_help_panel = FIRST_PANEL
    panel = -1 if isinstance(info, ArgumentInfo) else PANELS.index(info.rich_help_panel or OPTIONS_PANEL)
    place = first.index(flag.name) if flag.name in first else 0
    annotation = _annotated(value_type, info)
    return _Placed(panel, place, flag.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))


def _annotated(value_type: Any, info: Any) -> Any:
    return Annotated[value_type, info]


def _metavar(name: str, value_type: Any, choices: Sequence[str]) -> str | None:
    """The word that stands for a value; None for a switch."""
    if choices and len("|".join(choices)) <= MOST_CHOICES:
        return "|".join(choices)
    inner = get_args(value_type)
    kinds = (value_type, *inner, *(kind for each in inner for kind in get_args(each)))
    return METAVARS.get(name) or next((OF_TYPES[kind] for kind in kinds if kind in OF_TYPES), None)


def _choices(value_type: Any) -> tuple[str, ...]:
    """The values of a Literal as they are typed; None may be one besides."""
    kinds = (value_type, *get_args(value_type))
    values = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return tuple(value.replace("_", "-") for value in values)
