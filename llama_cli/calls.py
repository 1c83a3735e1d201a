"""Checks what a program gives to a function of the Python API, by its annotations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from .errors import UsageError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The same function; UsageError names an argument that is none of its, or of another type or size."""
    # pydantic's own way to check a call calls too, and would take errors of the function for those of the call.
    check = validate_call(config=ConfigDict(strict=True))(_only_arguments(function))

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        try:
            check(*arguments, **named)
        except ValidationError as error:
            raise _rejected(function, error) from None
        return function(*arguments, **named)

    return call


def _only_arguments(function: Callable[Parameters, Result]) -> Callable[Parameters, None]:
    @functools.wraps(function)
    def accept(*arguments: Parameters.args, **named: Parameters.kwargs) -> None:
        return

    return accept


def _rejected(function: Callable[..., object], error: ValidationError) -> UsageError:
    first = error.errors(include_url=False)[0]
    place, where = first["loc"][0], function.__name__
    known = list(inspect.signature(function).parameters)
    if first["type"] == "unexpected_positional_argument":
        return UsageError(f"{where}() takes its arguments by name, but for the first", f"{where}(..., {known[1]}=...)")
    name = known[place] if isinstance(place, int) else place
    if first["type"] == "unexpected_keyword_argument":
        close = get_close_matches(name, known, n=1)
        return UsageError(f"{where}() has no argument {name}", f"did you mean {close[0]}?" if close else None)
    value = ascii(first["input"])
    return UsageError(f"{where}(): {name}: {first['msg']}, is {value if len(value) <= 60 else value[:57] + '...'}")
