"""The user's own defaults: config.toml, checked. A flag goes before the environment, which goes before the file."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from ..checkpoint.folders import expand
from ..engine.request import Sampling
from ..errors import InputRejected, UsageError
from ..files.user_folders import NoHome, user_folder
from ..files.user_text import text_of
from ..options import LoadOptions
from .options import REQUEST_ONLY, is_setting, variable_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_VARIABLE = "LLAMA_CLI_CONFIG"
PREFIX = "LLAMA_CLI_"
# The last two are for its tests.
OTHER_VARIABLES = (FILE_VARIABLE, "LLAMA_CLI_HOME", "LLAMA_CLI_KIT", "LLAMA_CLI_REAL")
MAX_BYTES = 1 << 20


def config_file() -> Path:
    """Where the settings are, or would be; an empty file where the user has no place for them."""
    named = os.environ.get(FILE_VARIABLE)
    try:
        return expand(named) if named else user_folder("config") / "config.toml"
    except NoHome:
        return Path(os.devnull)


@cache
def schema() -> type[BaseModel]:
    """Every setting with its type and bounds, from the dataclasses that the flags come from too."""
    fields: dict[str, Any] = {}
    for group in (LoadOptions, Sampling):
        hints = get_type_hints(group, include_extras=True)
        for each in dataclasses.fields(group):
            if is_setting(each.name):
                fields[each.name] = (hints[each.name] | None, None)
    fields["stdin"] = fields["keep_session"] = (bool | None, None)
    return create_model("Settings", __config__=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False), **fields)


def read_settings(path: Path) -> dict[str, Any]:
    """What the file sets, by the names of the flags; UsageError names what is wrong in it.

    No file sets nothing, but one that LLAMA_CLI_CONFIG names must be there.
    """
    values = _parse(path, _read(path))
    if not values:
        return {}
    by_name = {name.replace("-", "_"): value for name, value in values.items()}
    if len(by_name) < len(values):
        raise _wrong(path, "a setting is there twice, with - and with _")
    for name in by_name:
        if name not in schema().model_fields:
            raise UsageError(f"{path}: {name!r} is no setting", _suggestion(name))
    try:
        found = schema().model_validate(by_name)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise _wrong(path, f"{first['loc'][0]}: {reason}, is {str(first['input'])[:60]}") from None
    return found.model_dump(exclude_none=True)


def _read(path: Path) -> bytes:
    try:
        if path.is_fifo() and not os.environ.get(FILE_VARIABLE):  # one that is named may be a shell's <(...)
            raise _wrong(path, "it is a pipe, and nobody may ever write to it")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get(FILE_VARIABLE):
            raise UsageError(f"there is no {path}, which {FILE_VARIABLE} names", f"unset {FILE_VARIABLE}") from None
        return b""
    except OSError as error:
        raise _wrong(path, (error.strerror or str(error)).lower()) from None
    if len(data) > MAX_BYTES:
        raise _wrong(path, f"it has more than {MAX_BYTES:,} bytes")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(text_of(data, "it"))
    except InputRejected as error:
        raise _wrong(path, error.message) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(path, str(error)) from None


def _wrong(path: Path, why: str) -> UsageError:
    return UsageError(f"{path}: {why}", f"edit it, or go on without: {FILE_VARIABLE}={os.devnull}")


def _suggestion(name: str) -> str:
    if name in REQUEST_ONLY:
        return "it belongs to one request, so it is a flag alone: llama-cli complete --help"
    close = get_close_matches(name, schema().model_fields, n=1)
    return f"did you mean {close[0]}?" if close else "llama-cli config lists all settings"


def defaults_of(commands: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For each command, those `settings` that it has a flag for, with the same name and environment variable.

    Commands without any are left out: typer would take what is here for `help` as the value of --help.
    """
    found = {
        name: {
            parameter.name: settings[parameter.name]
            for parameter in command.params
            if parameter.name in settings and parameter.envvar == variable_of(parameter.name)
        }
        for name, command in commands.items()
    }
    return {name: defaults for name, defaults in found.items() if defaults}


def source_of(context: Any, name: str) -> str:
    """Where the value of a parameter came from: `flag`, the variable, the file's path or `default`."""
    source = context.get_parameter_source(name)
    kind = "DEFAULT" if source is None else source.name
    return {"COMMANDLINE": "flag", "ENVIRONMENT": variable_of(name), "DEFAULT_MAP": str(config_file())}.get(
        kind, "default"
    )


def unknown_variables(environment: Iterable[str]) -> dict[str, str]:
    """LLAMA_CLI_... that nothing looks at, each with what to do about it."""
    ours = [
        name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX) and name not in OTHER_VARIABLES
    ]
    if not ours:
        return {}
    known = [variable_of(name).removeprefix(PREFIX) for name in schema().model_fields]
    found = {}
    for name in ours:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            found[PREFIX + name] = f"did you mean {PREFIX}{close[0]}?" if close else "nothing looks at it"
    return found
