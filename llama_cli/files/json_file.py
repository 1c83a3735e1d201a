"""Reads the JSON files of a model folder: small, strict, and nothing but an object."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from .foreign import foreign
from .quoting import hint_path, plain, quote
from .regular_file import read_small

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 40


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Duplicate keys, NaN and infinity are refused: readers disagree on them."""
    data = read_small(path, MAX_BYTES)
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=without_duplicates,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        if not data or not data.lstrip().startswith((b"{", b"[", b"\xef\xbb\xbf")):
            raise foreign(path, len(data)) from None
        raise _unreadable(path, f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _unreadable(path, "it is nested too deeply") from None
    except ValueError as error:  # ours
        raise _unreadable(path, str(error)) from None
    if not isinstance(value, dict):
        raise _unreadable(path, f"it must be an object, is of type {type(value).__name__}")
    if nests_deeper(value, MAX_DEPTH):
        raise _unreadable(path, "it is nested too deeply")
    return value


def _unreadable(path: Path, why: str) -> ModelRejected:
    return ModelRejected(f"{plain(path.name)}: {why}", f"look at {hint_path(path)}, or download it again")


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; ValueError if a key is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quote(twice)} is there twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {plain(text, 40)} is too large")
    return value


def nests_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects lie in each other more than so many times."""
    level = [value]
    for _ in range(depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
