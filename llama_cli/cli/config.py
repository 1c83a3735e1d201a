"""`llama-cli config`: every setting, its value, and where that came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from ..engine.request import Sampling
from ..errors import LlamaError
from ..options import LoadOptions
from .info import chosen_model
from .options import (
    AS_MANY_AS_FIT,
    KeepSession,
    MessageOptions,
    ModelSettings,
    OneJsonObject,
    UseStdin,
    is_setting,
    with_options,
)
from .settings import config_file, source_of
from .terminal import Terminal, format_table


@with_options()
def config(
    context: typer.Context,
    *,
    model: ModelSettings = AS_MANY_AS_FIT,
    sampling: Sampling,
    stdin: UseStdin = True,
    keep_session: KeepSession = True,
    as_json: OneJsonObject = False,
    messages: MessageOptions,
) -> None:
    """Show every setting and where it comes from.

    A flag, the environment, config.toml, the model, or the default. Give it the flags of another command to see
    what that would run with.

    Examples:
      llama-cli config
      llama-cli config -m Llama3.2-1B -t 0
    """
    messages.apply()
    path = config_file()
    values: dict[str, Any] = {**dataclasses.asdict(model), **dataclasses.asdict(sampling)}
    values |= {"stdin": stdin, "keep_session": keep_session}
    settings = {
        name: {"value": _plain(value), "source": source_of(context, name)}
        for name, value in values.items()
        if is_setting(name)
    }
    _take_from_model(settings, model, messages)
    terminal = Terminal()
    if as_json:
        terminal.write_json({"file": str(path), "exists": path.exists(), "settings": settings})
        return
    rows = [(name, _shown(each["value"]), each["source"]) for name, each in settings.items()]
    terminal.write(format_table(("setting", "value", "from"), rows))
    terminal.write(f"file: {path}{'' if path.exists() else ' (not there)'}\n")


def _take_from_model(settings: dict[str, dict[str, Any]], model: LoadOptions, messages: MessageOptions) -> None:
    """What is left open, as the model itself says it."""
    from ..checkpoint.headers import read_headers

    try:
        headers = read_headers(chosen_model(None, model.model), tokenizer=model.tokenizer)
        configuration = headers.configuration(rope_scale_factor=model.rope_scale_factor)
    except LlamaError as error:
        messages.note(f"of the model nothing is known: {error.message}")
        return
    scaling = configuration.args.rope_scaling
    settings["model"]["value"] = model.model or "toy"
    found: dict[str, tuple[Any, str]] = {
        "tokenizer": (headers.tokenizer and str(headers.tokenizer), "its folder"),
        "max_seq_len": (configuration.args.max_seq_len, configuration.sources["max_seq_len"]),
        "dtype": ("auto", f"stored as {next(iter(headers.dtypes))}"),
        "rope_scale_factor": (scaling and scaling.factor, configuration.sources["rope_scaling"]),
    }
    for name, (value, why) in found.items():
        if settings[name]["source"] == "default" and value is not None:
            settings[name] = {"value": value, "source": f"model: {why}"}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value is None else str(value)
