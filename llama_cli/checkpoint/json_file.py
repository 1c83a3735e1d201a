"""Reads the JSON files of a model folder: small, strict, and nothing but an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from .regular_file import read_small

MAX_BYTES = 1 << 20


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Duplicate keys, NaN and infinity are refused: readers disagree on them."""
    data = read_small(path, MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _unreadable(path, f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _unreadable(path, "it is nested too deeply") from None
    except ValueError as error:  # ours, or Python's limit on the digits of an integer
        raise _unreadable(path, str(error).split(";")[0]) from None
    if not isinstance(value, dict):
        raise _unreadable(path, f"it must be an object, is a {type(value).__name__}")
    return value


def _unreadable(path: Path, why: str) -> ModelRejected:
    return ModelRejected(f"{path.name}: {why}", f"look at {path}, or download it again")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")
